"""The one kernel of these tests, on a GPU and in the rehearsal on the host."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gpu_rehearsal import Cudart

SIZE = 64
"""Side of a face, pixels."""
CELLS = 4
"""Side of a patch map."""

_PTX = Path(__file__).with_name("detect.ptx")


class Kernel(Protocol):
    """Puts `detect` on a stream."""

    def launch(self, faces: int, score: int, patch_map: int, count: int, stream: int) -> None:
        """Score `count` faces.

        Args:
            faces: Address of uint8 [count, SIZE, SIZE, 3].
            score: Address of float32 [count].
            patch_map: Address of float32 [count, CELLS, CELLS].
            count: Number of faces.
            stream: Address of a stream.
        """


def expected(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the kernel computes, to the bit: float32 [N] and float32 [N, CELLS, CELLS]."""
    sums = faces.sum(axis=(1, 2, 3), dtype=np.uint32).astype(np.float32)
    score = sums / np.float32(255 * faces[0].size if len(faces) else 1)
    return score, faces[:, :CELLS, :CELLS, 0].astype(np.float32) / np.float32(255)


def faces_of(count: int, seed: int = 0) -> np.ndarray:
    """Random faces, uint8 [count, SIZE, SIZE, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


class CompiledKernel:
    """The kernel through the driver's library, which every NVIDIA GPU comes with.

    The context that is current must be the one of lpx's driver: open that first.
    """

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), _PTX.read_bytes())
        self._call("cuModuleGetFunction", ctypes.byref(self._function), module, b"detect")

    def launch(self, faces: int, score: int, patch_map: int, count: int, stream: int) -> None:
        """As `Kernel.launch`."""
        values = [ctypes.c_uint64(address) for address in (faces, score, patch_map)]
        values += [ctypes.c_int32(number) for number in (count, SIZE, CELLS)]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        blocks, threads, shared_bytes = (count, 1, 1), (1, 1, 1), 0
        numbers = map(ctypes.c_uint, (*blocks, *threads, shared_bytes))
        self._call(
            "cuLaunchKernel", self._function, *numbers, ctypes.c_void_p(stream), pointers, None
        )

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._cuda, name)(*arguments)
        assert status == 0, f"{name}: CUDA error {status}"


class RehearsedKernel:
    """The kernel in NumPy, on the rehearsal's streams and memory."""

    def __init__(self, cudart: Cudart) -> None:
        self._cudart = cudart

    def launch(self, faces: int, score: int, patch_map: int, count: int, stream: int) -> None:
        """As `Kernel.launch`."""

        def compute() -> None:
            given = self._array(faces, (count, SIZE, SIZE, 3), np.uint8)
            made = (score, (count,)), (patch_map, (count, CELLS, CELLS))
            for (address, shape), values in zip(made, expected(given), strict=True):
                self._array(address, shape, np.float32)[...] = values

        self._cudart.enqueue(stream, compute)

    def _array(self, address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._cudart.block_at(address, nbytes)
        memory = (ctypes.c_uint8 * nbytes).from_address(address)
        return np.frombuffer(memory, dtype).reshape(shape)
