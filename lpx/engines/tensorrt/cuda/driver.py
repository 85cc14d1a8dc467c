"""CUDA calls that an engine needs, independent of the binding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import DTypeLike, NDArray

from lpx.errors import LpxError
from lpx.machine.jetson import cuda_python, is_jetson

# A stream, event or graph of a binding; opaque to all other code.
Handle = Any

FIXES = {
    "cudaErrorMemoryAllocation": "use smaller batches, or close other programs on the GPU",
    "cudaErrorNoDevice": "check that nvidia-smi lists a GPU and CUDA_VISIBLE_DEVICES selects it",
}
_ROOT = Path("/")


def fix_driver(supported: int, needed: int) -> str:
    """Return advice for a driver that is missing, or too old for the binding.

    Args:
        supported: CUDA version that the driver supports, such as 12060 for 12.6; 0 for no driver.
        needed: CUDA version of the binding.
    """
    jetson = is_jetson(_ROOT)
    if not supported and jetson:
        return "start the container with --runtime nvidia: it uses the host's driver"
    if not supported:
        return "install an NVIDIA driver"
    major, minor = supported // 1000, supported % 1000 // 10
    below = f"{major}.{minor + 1}"
    if needed // 1000 > major:
        below = f"{major + 1}"
    binding = f'pip install "cuda-python<{below}"'
    if jetson:
        return f"{binding}: on a Jetson the driver comes with JetPack"
    return f"{binding}, or install an NVIDIA driver for CUDA {dotted(needed)} or later"


def install_binding() -> str:
    """Return advice on installing a binding for CUDA on this machine."""
    command = f"pip install {cuda_python(_ROOT)}"
    return f"{command}, or pip install pycuda"


class CudaLostError(LpxError):
    """An error after which every call on the GPU fails in this process.

    Args:
        what: The failed call, and its error.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"CUDA was lost: {what}",
            "after this error the process cannot use the GPU any more, and its memory there is "
            "lost",
            "start again in a new process; if it fails again, look for lines with Xid in `dmesg`, "
            "and build the engine again",
        )


@dataclass(frozen=True)
class Device:
    """The GPU in use.

    Attributes:
        name: Name in the driver, such as "Orin".
        compute_capability: (major, minor).
        memory_free_bytes: Device memory free now; shared with the CPU on Jetson.
        memory_total_bytes: All device memory.
        driver_version: CUDA version that the driver supports, such as "12.6".
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
    """CUDA on the current device. Every call that fails raises LpxError with CUDA's error.

    After `CudaLostError` every further call raises it too.
    """

    graphs: bool
    """Whether CUDA graphs can be captured; pycuda has none."""

    def device(self) -> Device:
        """Return the GPU and its versions."""

    def stream(self) -> Handle:
        """Create a stream that does not wait for the default stream."""

    def stream_address(self, stream: Handle) -> int:
        """Return the stream's address, as TensorRT takes it."""

    def synchronize(self, stream: Handle) -> None:
        """Wait for all work on a stream."""

    def synchronize_device(self) -> None:
        """Wait for all work on all streams."""

    def destroy_stream(self, stream: Handle) -> None:
        """Release a stream."""

    def event(self) -> Handle:
        """Create an event that records time."""

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

    def integrated(self) -> bool:
        """Return whether the GPU can use the host's memory in place, as on a Jetson."""

    def mapped(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Allocate as `pinned` does, memory that the GPU can use in place."""

    def mapped_address(self, array: NDArray[Any]) -> int:
        """Return the GPU's address of an array that `mapped` returned."""

    def free_pinned(self, array: NDArray[Any]) -> None:
        """Release what `pinned` or `mapped` returned; the array must not be used after."""

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


def dotted(version: int) -> str:
    """Return a version number of CUDA as text: 12060 -> "12.6"."""
    return f"{version // 1000}.{version % 1000 // 10}"
