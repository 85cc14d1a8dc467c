"""The few CUDA calls an engine needs, over cuda-python where present, else over pycuda."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lpx.errors import LpxError

Handle = Any
"""A stream, event or graph of the binding that made it: passed around, never looked into."""

_RUNTIMES = ("cuda.bindings.runtime", "cuda.cudart")  # since cuda-python 12.6, and before
_INSTALL = "pip install cuda-python, or pip install 'lpx[tensorrt]' which brings pycuda"
_FIXES = {
    "cudaErrorMemoryAllocation": "use smaller batches, or close other programs on the GPU",
    "cudaErrorInsufficientDriver": "install an NVIDIA driver as new as the CUDA version asks",
    "cudaErrorNoDevice": "see that nvidia-smi lists a GPU, and what CUDA_VISIBLE_DEVICES holds",
}


@dataclass(frozen=True)
class Device:
    """The GPU in use.

    Attributes:
        name: As the driver names it, such as "Orin".
        compute_capability: (major, minor).
        memory_free_bytes: Device memory free now; shared with the CPU on Jetson.
        memory_total_bytes: All device memory.
        driver_version: CUDA version that the driver supports, as "12.6".
        runtime_version: CUDA version that the binding was built for.
        binding: "cuda-python" or "pycuda".
    """

    name: str
    compute_capability: tuple[int, int]
    memory_free_bytes: int
    memory_total_bytes: int
    driver_version: str
    runtime_version: str
    binding: str


class CudaDriver(Protocol):
    """CUDA on the current device. Every call that fails raises LpxError with CUDA's error."""

    graphs: bool
    """Whether CUDA graphs can be captured; pycuda has none."""

    def device(self) -> Device:
        """The GPU and its versions."""

    def stream(self) -> Handle:
        """A new stream that does not wait for the default stream."""

    def stream_address(self, stream: Handle) -> int:
        """The stream as TensorRT takes it."""

    def synchronize(self, stream: Handle) -> None:
        """Wait for all work on a stream."""

    def destroy_stream(self, stream: Handle) -> None:
        """Release a stream."""

    def event(self) -> Handle:
        """A new event that keeps time."""

    def record(self, event: Handle, stream: Handle) -> None:
        """Put an event on a stream."""

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """Time between two events that have passed, ms."""

    def destroy_event(self, event: Handle) -> None:
        """Release an event."""

    def malloc(self, nbytes: int) -> int:
        """Allocate device memory; returns its address."""

    def free(self, address: int) -> None:
        """Release device memory."""

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Allocate page-locked host memory as a C-contiguous array, not initialised."""

    def free_pinned(self, array: NDArray[Any]) -> None:
        """Release what `pinned` returned; the array and its views must not be used after."""

    def to_device(self, address: int, array: NDArray[Any], stream: Handle) -> None:
        """Start a copy of a contiguous pinned array to the device."""

    def to_host(self, array: NDArray[Any], address: int, stream: Handle) -> None:
        """Start a copy from the device that fills a contiguous pinned array."""

    def begin_capture(self, stream: Handle) -> None:
        """Record the work put on a stream from here on, instead of running it."""

    def end_capture(self, stream: Handle) -> Handle:
        """Stop recording; returns a graph that can be launched."""

    def launch(self, graph: Handle, stream: Handle) -> None:
        """Run a captured graph."""

    def destroy_graph(self, graph: Handle) -> None:
        """Release a graph."""


def open_driver() -> CudaDriver:
    """The CUDA driver through the binding at hand.

    Raises:
        LpxError: No binding is installed, or it finds no driver or no GPU.
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
        fix=_INSTALL,
    )


def available() -> tuple[bool, str]:
    """Say whether a GPU can be used, without raising.

    Returns:
        (True, the GPU and the binding), or (False, the reason and what to do).
    """
    try:
        device = open_driver().device()
    except LpxError as error:
        return False, "; ".join(part for part in (error.what, error.why, error.fix) if part)
    return True, f"{device.name} through {device.binding}"


def _imported(name: str) -> Any | None:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):
        return None


def _dotted(version: int) -> str:
    """CUDA's version number as text: 12060 -> "12.6"."""
    return f"{version // 1000}.{version % 1000 // 10}"


class CudaPython:
    """CUDA through cuda-python's runtime API, whose calls return (status, values...).

    Args:
        cudart: The module `cuda.bindings.runtime`, or `cuda.cudart` of older releases.
    """

    graphs = True

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart
        self._call("cudaFree", 0)  # makes the context, and so finds a missing driver here

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call by name; returns the value, None where the call has none, a tuple of several."""
        try:
            status, *values = getattr(self._cudart, name)(*arguments)
        except RuntimeError as problem:  # the driver's library is not there
            raise LpxError(
                f"CUDA's {name} could not run",
                why=str(problem),
                fix=_FIXES["cudaErrorInsufficientDriver"],
            ) from problem
        if int(status) != 0:
            raise self._error(name, status)
        if not values:
            return None
        return values[0] if len(values) == 1 else tuple(values)

    def _error(self, name: str, status: Any) -> LpxError:
        error = getattr(status, "name", str(status))
        return LpxError(f"CUDA's {name} failed: {error}", fix=_FIXES.get(error, ""))

    def device(self) -> Device:
        """The GPU and its versions."""
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
            driver_version=_dotted(self._call("cudaDriverGetVersion")),
            runtime_version=_dotted(self._call("cudaRuntimeGetVersion")),
            binding="cuda-python",
        )

    def _attribute(self, attribute: Any, index: int) -> int:
        return int(self._call("cudaDeviceGetAttribute", attribute, index))

    def stream(self) -> Handle:
        """A new stream that does not wait for the default stream."""
        return self._call("cudaStreamCreateWithFlags", self._cudart.cudaStreamNonBlocking)

    def stream_address(self, stream: Handle) -> int:
        """The stream as TensorRT takes it."""
        return int(stream)

    def synchronize(self, stream: Handle) -> None:
        """Wait for all work on a stream."""
        self._call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: Handle) -> None:
        """Release a stream."""
        self._call("cudaStreamDestroy", stream)

    def event(self) -> Handle:
        """A new event that keeps time."""
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
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self._call("cudaMallocHost", nbytes))
        memory = (ctypes.c_uint8 * nbytes).from_address(address)
        array: NDArray[Any] = np.ndarray(shape, dtype, buffer=memoryview(memory))
        return array

    def free_pinned(self, array: NDArray[Any]) -> None:
        """Release what `pinned` returned; the array and its views must not be used after."""
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
        # Of this thread only: what other threads do on the GPU does not spoil the capture.
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


class PyCuda:
    """CUDA through pycuda, in the device's primary context, which TensorRT uses too.

    Importing `pycuda.autoprimaryctx` makes that context current and releases it at exit.
    """

    graphs = False

    def __init__(self) -> None:
        self._driver = importlib.import_module("pycuda.driver")
        with self._raised("cuInit"):
            self._primary = importlib.import_module("pycuda.autoprimaryctx")
        self._allocations: dict[int, Any] = {}

    @contextmanager
    def _raised(self, name: str) -> Iterator[None]:
        """Turn pycuda's exceptions into LpxError; its text holds the call and the error."""
        try:
            yield
        except self._driver.MemoryError as problem:
            raise LpxError(
                f"CUDA's {name} failed: CUDA_ERROR_OUT_OF_MEMORY",
                why=str(problem),
                fix=_FIXES["cudaErrorMemoryAllocation"],
            ) from problem
        except (self._driver.Error, RuntimeError) as problem:
            raise LpxError(
                f"CUDA's {name} failed: {type(problem).__name__}: {problem}"
            ) from problem

    def device(self) -> Device:
        """The GPU and its versions."""
        with self._raised("cuDeviceGet"):
            gpu = self._primary.device
            free, total = self._driver.mem_get_info()
            return Device(
                name=gpu.name(),
                compute_capability=tuple(gpu.compute_capability()),
                memory_free_bytes=int(free),
                memory_total_bytes=int(total),
                driver_version=_dotted(self._driver.get_driver_version()),
                runtime_version=".".join(map(str, self._driver.get_version()[:2])),
                binding="pycuda",
            )

    def stream(self) -> Handle:
        """A new stream that does not wait for the default stream."""
        with self._raised("cuStreamCreate"):
            return self._driver.Stream(1)  # CU_STREAM_NON_BLOCKING

    def stream_address(self, stream: Handle) -> int:
        """The stream as TensorRT takes it."""
        return int(stream.handle)

    def synchronize(self, stream: Handle) -> None:
        """Wait for all work on a stream."""
        with self._raised("cuStreamSynchronize"):
            stream.synchronize()

    def destroy_stream(self, stream: Handle) -> None:
        """Nothing to do: pycuda releases a stream with its last reference."""

    def event(self) -> Handle:
        """A new event that keeps time."""
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
        self._allocations[int(allocation)] = allocation  # pycuda frees what nobody holds
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

    def free_pinned(self, array: NDArray[Any]) -> None:
        """Release what `pinned` returned; the array and its views must not be used after."""
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
        """Not in pycuda."""
        raise _no_graphs()

    def end_capture(self, stream: Handle) -> Handle:
        """Not in pycuda."""
        raise _no_graphs()

    def launch(self, graph: Handle, stream: Handle) -> None:
        """Not in pycuda."""
        raise _no_graphs()

    def destroy_graph(self, graph: Handle) -> None:
        """Not in pycuda."""
        raise _no_graphs()


def _no_graphs() -> LpxError:
    return LpxError(
        "pycuda has no CUDA graphs", fix="pip install cuda-python, or run without CUDA graphs"
    )
