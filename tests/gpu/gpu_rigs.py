"""Where these tests run: on the GPU through each binding of CUDA, or rehearsed on the host."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import pytest
from gpu_kernel import CompiledKernel, Kernel, RehearsedKernel
from gpu_rehearsal import Rehearsal

from lpx.engines.tensorrt.cuda import choose as cuda
from lpx.engines.tensorrt.cuda.driver import CudaDriver
from lpx.engines.tensorrt.cuda.pycuda import PyCuda

BINDINGS = ("cuda-python", "pycuda")
REHEARSALS = ("rehearsal, late", "rehearsal, early")


@dataclass(frozen=True)
class Rig:
    """A driver of lpx's, and the kernel that runs through it."""

    name: str
    driver: CudaDriver
    kernel: Kernel

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU behind it."""
        return self.name not in REHEARSALS


def open_rig(name: str) -> Rig:
    """A rig by its name; skips the test that asks where it cannot be had."""
    if name in REHEARSALS:
        rehearsal = Rehearsal(late="late" in name)
        return Rig(name, rehearsal, RehearsedKernel(rehearsal.cudart))
    usable, reason = cuda.available()
    if not usable:
        pytest.skip(reason)
    if name == "pycuda":
        if find_spec("pycuda") is None:
            pytest.skip("pycuda is not installed")
        driver: CudaDriver = PyCuda()
    else:
        driver = cuda.open_driver()
        if driver.device().binding != name:
            pytest.skip(f"{name} is not installed")
    return Rig(name, driver, _compiled())


@cache
def _compiled() -> CompiledKernel:
    return CompiledKernel()
