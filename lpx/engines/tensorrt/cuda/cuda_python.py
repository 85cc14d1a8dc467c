"""Access to CUDA through cuda-python."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lpx.engines.tensorrt.cuda.driver import (
    FIXES,
    CudaLostError,
    Device,
    Handle,
    dotted,
    fix_driver,
)
from lpx.errors import LpxError

# Errors after which every later call of the process fails with the same error.
_LOST = frozenset(
    {
        *("cudaErrorIllegalAddress", "cudaErrorLaunchFailure", "cudaErrorLaunchTimeout"),
        *("cudaErrorIllegalInstruction", "cudaErrorMisalignedAddress", "cudaErrorInvalidPc"),
        *("cudaErrorInvalidAddressSpace", "cudaErrorHardwareStackError", "cudaErrorAssert"),
        *("cudaErrorECCUncorrectable", "cudaErrorNvlinkUncorrectable"),
        *("cudaErrorContextIsDestroyed", "cudaErrorExternalDevice"),
    }
)


class CudaPython:
    """Access to CUDA through cuda-python's runtime API, whose calls return (status, values...).

    Args:
        cudart: The module `cuda.bindings.runtime`, or `cuda.cudart` in older releases.
    """

    graphs = True

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart
        self._call("cudaFree", 0)  # creates the context, and fails if there is no driver

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function by name, and return its value, a tuple of several values, or None."""
        try:
            status, *values = getattr(self._cudart, name)(*arguments)
        except RuntimeError as problem:  # the driver's library is missing
            raise LpxError(
                f"CUDA's {name} could not run",
                why=str(problem),
                fix=fix_driver(0, 0),
            ) from problem
        if int(status) != 0:
            raise self._error(name, status)
        if not values:
            return None
        if len(values) == 1:
            return values[0]
        return tuple(values)

    def _error(self, name: str, status: Any) -> LpxError:
        error = getattr(status, "name", str(status))
        what = f"CUDA's {name} failed: {error}"
        if error in _LOST:
            return CudaLostError(what)
        if error == "cudaErrorInsufficientDriver":
            return self._driver_error(what)
        return LpxError(what, fix=FIXES.get(error, ""))

    def _driver_error(self, what: str) -> LpxError:
        # Both calls work without a GPU. The version 0 means that there is no driver.
        supported = self._cudart.cudaDriverGetVersion()[1]
        needed = self._cudart.cudaRuntimeGetVersion()[1]
        here = "there is no driver"
        if supported:
            here = f"the driver supports CUDA {dotted(supported)}"
        why = f"{here}, and cuda-python is for CUDA {dotted(needed)}"
        return LpxError(what, why, fix_driver(supported, needed))

    def device(self) -> Device:
        """Return the GPU and its versions."""
        attributes = self._cudart.cudaDeviceAttr
        index = self._call("cudaGetDevice")
        free, total = self._call("cudaMemGetInfo")
        name = self._call("cudaGetDeviceProperties", index).name
        return Device(
            name=(name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0"),
            compute_capability=(
                self._attribute(attributes.cudaDevAttrComputeCapabilityMajor, index),
                self._attribute(attributes.cudaDevAttrComputeCapabilityMinor, index),
            ),
            memory_free_bytes=int(free),
            memory_total_bytes=int(total),
            driver_version=dotted(self._call("cudaDriverGetVersion")),
            runtime_version=dotted(self._call("cudaRuntimeGetVersion")),
            binding="cuda-python",
        )

    def _attribute(self, attribute: Any, index: int) -> int:
        return int(self._call("cudaDeviceGetAttribute", attribute, index))

    def stream(self) -> Handle:
        """Create a stream that does not wait for the default stream."""
        return self._call("cudaStreamCreateWithFlags", self._cudart.cudaStreamNonBlocking)

    def stream_address(self, stream: Handle) -> int:
        """Return the stream's address, as TensorRT takes it."""
        return int(stream)

    def synchronize(self, stream: Handle) -> None:
        """Wait for all work on a stream."""
        self._call("cudaStreamSynchronize", stream)

    def synchronize_device(self) -> None:
        """Wait for all work on all streams."""
        self._call("cudaDeviceSynchronize")

    def destroy_stream(self, stream: Handle) -> None:
        """Release a stream."""
        self._call("cudaStreamDestroy", stream)

    def event(self) -> Handle:
        """Create an event that records time."""
        return self._call("cudaEventCreate")

    def record(self, event: Handle, stream: Handle) -> None:
        """Put an event on a stream."""
        self._call("cudaEventRecord", event, stream)

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """Time between two events that have passed, ms."""
        return float(self._call("cudaEventElapsedTime", start, end))

    def destroy_event(self, event: Handle) -> None:
        """Release an event."""
        self._call("cudaEventDestroy", event)

    def malloc(self, nbytes: int) -> int:
        """Allocate device memory; returns its address."""
        return int(self._call("cudaMalloc", nbytes))

    def free(self, address: int) -> None:
        """Release device memory."""
        self._call("cudaFree", address)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Allocate page-locked host memory as a C-contiguous array, not initialised."""
        nbytes = _nbytes(shape, dtype)
        return _array_at(int(self._call("cudaMallocHost", nbytes)), shape, dtype)

    def integrated(self) -> bool:
        """Return whether the GPU can use the host's memory in place, as on a Jetson."""
        attributes = self._cudart.cudaDeviceAttr
        index = self._call("cudaGetDevice")
        asked = (attributes.cudaDevAttrIntegrated, attributes.cudaDevAttrCanMapHostMemory)
        return all(self._attribute(attribute, index) for attribute in asked)

    def mapped(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Allocate as `pinned` does, memory that the GPU can use in place."""
        flags = self._cudart.cudaHostAllocMapped
        nbytes = _nbytes(shape, dtype)
        return _array_at(int(self._call("cudaHostAlloc", nbytes, flags)), shape, dtype)

    def mapped_address(self, array: NDArray[Any]) -> int:
        """Return the GPU's address of an array that `mapped` returned."""
        return int(self._call("cudaHostGetDevicePointer", array.ctypes.data, 0))

    def free_pinned(self, array: NDArray[Any]) -> None:
        """Release what `pinned` or `mapped` returned; the array must not be used after."""
        self._call("cudaFreeHost", array.ctypes.data)

    def to_device(self, address: int, array: NDArray[Any], stream: Handle) -> None:
        """Start a copy of a contiguous pinned array to the device."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def to_host(self, array: NDArray[Any], address: int, stream: Handle) -> None:
        """Start a copy from the device that fills a contiguous pinned array."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)

    def begin_capture(self, stream: Handle) -> None:
        """Record the work put on a stream from here on, instead of running it."""
        # Calls of other threads must not make the capture fail.
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Handle) -> Handle:
        """Stop recording; returns a graph that can be launched."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Handle, stream: Handle) -> None:
        """Run a captured graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Handle) -> None:
        """Release a graph."""
        self._call("cudaGraphExecDestroy", graph)


def _nbytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return int(np.prod(shape)) * np.dtype(dtype).itemsize


def _array_at(address: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    memory = (ctypes.c_uint8 * _nbytes(shape, dtype)).from_address(address)
    array: NDArray[Any] = np.ndarray(shape, dtype, buffer=memoryview(memory))
    return array
