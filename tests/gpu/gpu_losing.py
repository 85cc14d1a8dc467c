"""Lose the GPU by a kernel that reads memory which nobody has, and print what follows.

python tests/gpu/gpu_losing.py cuda-python
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [
        str(folder)
        for folder in (Path(__file__).parents[2], Path(__file__).parents[1] / "support/tensorrt")
    ]

import numpy as np
from gpu_kernel import expected, faces_of
from gpu_rigs import Rig, open_rig
from gpu_standin import StandIn

from lpx.engines.tensorrt.cuda.driver import CudaLostError
from lpx.errors import LpxError

NOWHERE = 1 << 46


def lose(rig: Rig) -> list[str]:
    """Lose the GPU with two engines on it; what each step gave, in order."""
    faces = faces_of(8)
    bystander = StandIn(rig.kernel).load(driver=rig.driver)
    np.testing.assert_array_equal(bystander.infer(faces).score, expected(faces)[0])
    engine = StandIn(rig.kernel, faces_at=NOWHERE).load(driver=rig.driver)
    steps: dict[str, Callable[[], object]] = {
        "infer": lambda: engine.infer(faces),
        "infer again": lambda: engine.infer(faces),
        "infer with the other": lambda: bystander.infer(faces),
        "allocate": lambda: rig.driver.malloc(16),
        "close": engine.close,
        "close the other": bystander.close,
    }
    return [f"{name}: {_outcome(step)}" for name, step in steps.items()]


def _outcome(step: Callable[[], object]) -> str:
    try:
        step()
    except CudaLostError:
        return "lost"
    except LpxError as error:
        return error.what
    return "done"


if __name__ == "__main__":
    print("\n".join(lose(open_rig(sys.argv[1]))))
