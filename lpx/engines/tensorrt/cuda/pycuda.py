"""Access to CUDA through pycuda."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import DTypeLike, NDArray

from lpx.engines.tensorrt.cuda.driver import FIXES, CudaLostError, Device, Handle, dotted
from lpx.errors import LpxError
from lpx.machine.jetson import cuda_python

# Texts of errors after which every later call of the process fails with the same error.
_LOST = (
    *("illegal memory access", "launch failure", "launch timed out", "illegal instruction"),
    *("misaligned address", "invalid program counter", "hardware stack error"),
    *("device-side assert", "uncorrectable ECC", "uncorrectable NVLink", "context is destroyed"),
)


class PyCuda:
    """Access to CUDA through pycuda, in the device's primary context, which TensorRT uses too.

    Importing `pycuda.autoprimaryctx` makes that context current and releases it at exit.
    """

    graphs = False

    def __init__(self, import_module: Callable[[str], Any] = importlib.import_module) -> None:
        self._driver = import_module("pycuda.driver")
        with self._raised("cuInit"):
            self._primary = import_module("pycuda.autoprimaryctx")
        self._allocations: dict[int, Any] = {}

    @contextmanager
    def _raised(self, name: str) -> Iterator[None]:
        """Turn pycuda's exceptions into an LpxError with the call and the error."""
        try:
            yield
        except self._driver.MemoryError as problem:
            raise LpxError(
                f"CUDA's {name} failed: CUDA_ERROR_OUT_OF_MEMORY",
                why=str(problem),
                fix=FIXES["cudaErrorMemoryAllocation"],
            ) from problem
        except (self._driver.Error, RuntimeError) as problem:
            what = f"CUDA's {name} failed: {type(problem).__name__}: {problem}"
            lost = any(sign in str(problem) for sign in _LOST)
            if lost:
                raise CudaLostError(what) from problem
            raise LpxError(what) from problem

    def device(self) -> Device:
        """Return the GPU and its versions."""
        with self._raised("cuDeviceGet"):
            gpu = self._primary.device
            free, total = self._driver.mem_get_info()
            return Device(
                name=gpu.name(),
                compute_capability=tuple(gpu.compute_capability()),
                memory_free_bytes=int(free),
                memory_total_bytes=int(total),
                driver_version=dotted(self._driver.get_driver_version()),
                runtime_version=".".join(map(str, self._driver.get_version()[:2])),
                binding="pycuda",
            )

    def stream(self) -> Handle:
        """Create a stream that does not wait for the default stream."""
        with self._raised("cuStreamCreate"):
            return self._driver.Stream(1)  # CU_STREAM_NON_BLOCKING

    def stream_address(self, stream: Handle) -> int:
        """Return the stream's address, as TensorRT takes it."""
        return int(stream.handle)

    def synchronize(self, stream: Handle) -> None:
        """Wait for all work on a stream."""
        with self._raised("cuStreamSynchronize"):
            stream.synchronize()

    def synchronize_device(self) -> None:
        """Wait for all work on all streams."""
        with self._raised("cuCtxSynchronize"):
            self._driver.Context.synchronize()

    def destroy_stream(self, stream: Handle) -> None:
        """Nothing to do: pycuda releases a stream with its last reference."""

    def event(self) -> Handle:
        """Create an event that records time."""
        with self._raised("cuEventCreate"):
            return self._driver.Event()

    def record(self, event: Handle, stream: Handle) -> None:
        """Put an event on a stream."""
        with self._raised("cuEventRecord"):
            event.record(stream)

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """Time between two events that have passed, ms."""
        with self._raised("cuEventElapsedTime"):
            return float(start.time_till(end))

    def destroy_event(self, event: Handle) -> None:
        """Nothing to do: pycuda releases an event with its last reference."""

    def malloc(self, nbytes: int) -> int:
        """Allocate device memory; returns its address."""
        with self._raised("cuMemAlloc"):
            allocation = self._driver.mem_alloc(nbytes)
        # pycuda frees memory with the last reference to its object.
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """Release device memory."""
        with self._raised("cuMemFree"):
            self._allocations.pop(address).free()

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Allocate page-locked host memory as a C-contiguous array, not initialised."""
        with self._raised("cuMemHostAlloc"):
            array: NDArray[Any] = self._driver.pagelocked_empty(shape, dtype)
            return array

    def integrated(self) -> bool:
        """Return whether the GPU can use the host's memory in place, as on a Jetson."""
        attributes = self._driver.device_attribute
        with self._raised("cuDeviceGetAttribute"):
            asked = (attributes.INTEGRATED, attributes.CAN_MAP_HOST_MEMORY)
            return all(self._primary.device.get_attribute(attribute) for attribute in asked)

    def mapped(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Allocate as `pinned` does, memory that the GPU can use in place."""
        flags = self._driver.host_alloc_flags.DEVICEMAP
        with self._raised("cuMemHostAlloc"):
            array: NDArray[Any] = self._driver.pagelocked_empty(shape, dtype, mem_flags=flags)
            return array

    def mapped_address(self, array: NDArray[Any]) -> int:
        """Return the GPU's address of an array that `mapped` returned."""
        owner: Any = array.base
        with self._raised("cuMemHostGetDevicePointer"):
            return int(owner.get_device_pointer())

    def free_pinned(self, array: NDArray[Any]) -> None:
        """Release what `pinned` or `mapped` returned; the array must not be used after."""
        owner: Any = array.base
        with self._raised("cuMemFreeHost"):
            owner.free()

    def to_device(self, address: int, array: NDArray[Any], stream: Handle) -> None:
        """Start a copy of a contiguous pinned array to the device."""
        with self._raised("cuMemcpyHtoDAsync"):
            self._driver.memcpy_htod_async(address, array, stream)

    def to_host(self, array: NDArray[Any], address: int, stream: Handle) -> None:
        """Start a copy from the device that fills a contiguous pinned array."""
        with self._raised("cuMemcpyDtoHAsync"):
            self._driver.memcpy_dtoh_async(array, address, stream)

    def begin_capture(self, stream: Handle) -> None:
        """Raise: pycuda has no CUDA graphs."""
        raise _no_graphs()

    def end_capture(self, stream: Handle) -> Handle:
        """Raise: pycuda has no CUDA graphs."""
        raise _no_graphs()

    def launch(self, graph: Handle, stream: Handle) -> None:
        """Raise: pycuda has no CUDA graphs."""
        raise _no_graphs()

    def destroy_graph(self, graph: Handle) -> None:
        """Raise: pycuda has no CUDA graphs."""
        raise _no_graphs()


def _no_graphs() -> LpxError:
    return LpxError(
        "pycuda has no CUDA graphs",
        fix=f"pip install {cuda_python()}, or run without CUDA graphs",
    )
