"""Access CUDA through cuda-python or, if it is not installed, pycuda."""

from __future__ import annotations

import importlib
from typing import Any

from lpx.engines.base import Availability
from lpx.engines.tensorrt.cuda.cuda_python import CudaPython
from lpx.engines.tensorrt.cuda.driver import CudaDriver, install_binding
from lpx.engines.tensorrt.cuda.pycuda import PyCuda
from lpx.errors import LpxError

_RUNTIMES = ("cuda.bindings.runtime", "cuda.cudart")  # since cuda-python 12.6, and before


def open_driver() -> CudaDriver:
    """Return access to CUDA through the installed binding.

    Raises:
        LpxError: No binding is installed, or it finds no driver or GPU.
    """
    for name in _RUNTIMES:
        cudart = _imported(name)
        if cudart is not None:
            return CudaPython(cudart)
    if _imported("pycuda.driver") is not None:
        return PyCuda()
    raise LpxError(
        "no CUDA binding for Python is installed",
        why="engines of TensorRT run through cuda-python or pycuda",
        fix=install_binding(),
    )


def available() -> Availability:
    """Return whether a GPU can be used, and the reason.

    Returns:
        (True, the GPU and the binding), or (False, the reason and what to do).
    """
    try:
        device = open_driver().device()
    except LpxError as error:
        parts = (error.what, error.why, error.fix)
        return Availability(False, "; ".join(filter(None, parts)))
    return Availability(True, f"{device.name} through {device.binding}")


def _imported(name: str) -> Any | None:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):
        return None
