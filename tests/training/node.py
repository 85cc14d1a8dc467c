"""A process of a training on several nodes: `python -m tests.training.node` with JSON."""

from __future__ import annotations

import json
import os
import signal
import sys

import torch

from lpx import interrupts
from lpx.errors import LpxError
from lpx.interrupts import Interrupted
from lpx.training.fit import train
from lpx.training.local_diversity import LocalDiversity
from lpx.training.recipe import Recipe
from tests.training.callbacks import At, quiet


def main():
    values = json.loads(sys.argv[1])
    recipe = values["recipe"]
    recipe["diversity"] = LocalDiversity(**recipe["diversity"])
    recipe["pseudo_fakes"] = tuple(recipe["pseudo_fakes"])
    callbacks = []
    if values["signal_at"] is not None:
        callbacks.append(At(values["signal_at"], lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    torch.set_num_threads(1)
    options = quiet(*callbacks, **values["options"])
    try:
        with interrupts.handled():
            train(Recipe(**recipe), values["faces"], values["out"], options=options)
    except LpxError as error:
        print(f"{error.what}|{error.why}")
        return 2
    except Interrupted as interruption:
        print(interruption.kept)
        return 128 + interruption.signal
    print("trained")
    return 0


if __name__ == "__main__":
    sys.exit(main())
