"""Files of TensorRT's timing caches, which are kept between builds.

A timing cache contains the measured times of kernels on this GPU, so that the next build need not
measure them again. TensorRT refuses the cache of another release or device, and on a Jetson times
are valid for one power mode only, so that each combination has its own file. A workspace is locked
during a build, so that two processes never write the same file.
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
        version: Version of TensorRT, such as "10.13.3.9".
        machine: This machine.
    """
    parts = ["tensorrt", version, "no GPU"]
    if machine.gpus:
        parts[-1] = machine.gpus[0].name
    if machine.jetson is not None and machine.jetson.power_mode:
        parts.append(machine.jetson.power_mode)
    words = [re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in filter(None, parts)]
    return folder / ("_".join(words) + ".timing")


def read_timing_cache(path: Path, *, frozen: bool) -> bytes | None:
    """Read an earlier build's timing cache; None if there is none.

    Args:
        path: File, as `timing_cache_path` returns it.
        frozen: The build only uses times in the cache.

    Raises:
        LpxError: There is none, and the build needs one; or it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if not frozen:
            return None
        raise LpxError(
            f"timing cache {path} does not exist",
            "`frozen_timing_cache` uses the kernel times of an earlier build with the same "
            "TensorRT, GPU and power mode",
            "build once without `frozen_timing_cache`",
        ) from None
    except OSError as error:
        raise LpxError(f"{path} cannot be read", error.strerror or str(error)) from error
