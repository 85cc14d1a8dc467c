"""What feeds a training and what it eats: images per second of pseudo-fakes and of the step.

    python benchmarks/training.py FACES              # FACES: faces.csv and landmarks.npz
    python benchmarks/training.py FACES --input-size 128 --json out.json

A training keeps its processor busy where one worker process makes pairs at least as fast as the
step, which has the other cores, takes them. Makers and step are measured in turns.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import torch

from lpx.data.pseudo_fakes.blend import KINDS
from lpx.data.pseudo_fakes.landmarked import load_landmarked
from lpx.data.pseudo_fakes.pairs import PairSource
from lpx.machine.machine import read_machine
from lpx.models.detector import new_detector
from lpx.training.local_diversity import LocalDiversity
from lpx.training.operating_point import score_loss

ROUNDS = 5
PAIRS = 12
"""Per step, as `lpx train` has by default."""


def maker(folder: Path, kind: str) -> Callable[[int], None]:
    source = PairSource(load_landmarked(folder), (kind,), 0)

    def make(round_number: int) -> None:
        for number in range(round_number * PAIRS, (round_number + 1) * PAIRS):
            source.real(number)
            source.fake(number)

    return make


def stepper(size: int, ld: float) -> Callable[[int], None]:
    module, _ = new_detector("tf_efficientnet_lite0", "stage3", input_size=size)
    module = module.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(module.parameters())
    diversity = LocalDiversity(weight=ld)
    faces = torch.randn(2 * PAIRS, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.tensor([0.0, 1.0]).repeat(PAIRS)

    def step(_: int) -> None:
        features = module.head.features(module.backbone(faces))
        logits = module.head.classifier(features).squeeze(1)
        loss = score_loss(logits.sigmoid().mean(dim=(1, 2)), labels)
        if ld:
            loss = loss + ld * diversity(features, labels, module.head.classifier.weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--input-size", default=160, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(folder: Path, input_size: int, json_path: Path | None) -> None:
    """Measure on the landmarked faces of FOLDER."""
    cv2.setNumThreads(1)
    tasks = {f"make {kind}": maker(folder, kind) for kind in KINDS}
    tasks |= {f"step, LD {ld:g}": stepper(input_size, ld) for ld in (0.0, 0.1)}
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for round_number in range(-1, ROUNDS):
        for name, task in tasks.items():
            started = time.perf_counter()
            task(max(0, round_number))
            if round_number >= 0:
                seconds[name].append(time.perf_counter() - started)
    rates = {name: 2 * PAIRS / float(np.median(times)) for name, times in seconds.items()}
    machine = read_machine()
    print(
        f"{machine.cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {input_size} px"
    )
    eaten = rates["step, LD 0.1"]
    for name, rate in rates.items():
        ratio = f", {rate / eaten:.2f} of the step with LD" if name.startswith("make") else ""
        print(f"{name}: {rate:.0f} images/s{ratio}")
    if json_path:
        json_path.write_text(json.dumps(rates, indent=2))


if __name__ == "__main__":
    sys.exit(main())
