"""Keep TensorRT's timing cache between builds.

It holds how long each kernel took on this GPU, and saves the next build the measuring. TensorRT
refuses one of another release or device; on a Jetson times hold for one power mode too. So each of
these has a file of its own. A workspace is locked while engines are built in it, so that no two
processes write one file.
"""

from __future__ import annotations

import re
from pathlib import Path

from lpx.errors import LpxError
from lpx.machine.machine import Machine


def timing_cache_path(folder: Path, version: str, machine: Machine) -> Path:
    """Return the file for a TensorRT release on this machine's GPU in its power mode.

    Args:
        folder: Folder of the timing caches.
        version: TensorRT's, as "10.13.3.9".
        machine: The machine at hand.
    """
    gpu = machine.gpus[0].name if machine.gpus else "no GPU"
    parts = ["tensorrt", version, gpu, machine.jetson.power_mode if machine.jetson else ""]
    words = (re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in parts if part)
    return folder / ("_".join(words) + ".timing")


def read_timing_cache(path: Path, *, frozen: bool) -> bytes | None:
    """Read an earlier build's timing cache; None if there is none.

    Args:
        path: As `timing_cache_path` gives it.
        frozen: The build uses no other times than those in it.

    Raises:
        LpxError: There is none, and `frozen` is given; or it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if not frozen:
            return None
        raise LpxError(
            f"timing cache {path} does not exist",
            "`frozen_timing_cache` takes kernel times from an earlier build with the same "
            "TensorRT, GPU and power mode",
            "build once without `frozen_timing_cache`",
        ) from None
    except OSError as error:
        raise LpxError(f"{path} cannot be read", error.strerror or str(error)) from error
