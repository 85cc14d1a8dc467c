"""CUDA's runtime as cuda-python has it, on the host's memory, for machines without a GPU.

What is put on a stream happens when somebody waits for it, or at once: a GPU's own time is between
the two, so what depends on it fails in one of them. What CUDA refuses is refused: calls that spoil
a capture, memory, events, streams and graphs that are not or no longer there, copies beyond an
allocation and host memory that is not page-locked.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from types import SimpleNamespace
from typing import Any

from lpx.engines.tensorrt.cuda.cuda_python import CudaPython

ALIGNMENT = 256
MEMORY_BYTES = 1 << 32
STEP_MS = 0.25
Work = Callable[[], None]


class Status(IntEnum):
    """CUDA's errors, by the names that they have in cuda-python."""

    cudaSuccess = 0  # noqa: N815
    cudaErrorInvalidValue = 1  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInvalidResourceHandle = 400  # noqa: N815
    cudaErrorNotReady = 600  # noqa: N815
    cudaErrorIllegalAddress = 700  # noqa: N815
    cudaErrorStreamCaptureUnsupported = 900  # noqa: N815
    cudaErrorStreamCaptureInvalidated = 901  # noqa: N815
    cudaErrorIllegalState = 401  # noqa: N815


class CopyKind(Enum):
    """In which direction bytes are copied."""

    cudaMemcpyHostToDevice = auto()  # noqa: N815
    cudaMemcpyDeviceToHost = auto()  # noqa: N815


class RefusedError(Exception):
    """A call that fails with a status."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


@dataclass
class Block:
    """Memory that was allocated."""

    kind: str
    memory: Any
    nbytes: int


@dataclass
class Stream:
    """What waits to be done, and what is captured: None where nothing is."""

    queue: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None
    spoiled: bool = False


@dataclass
class Event:
    """When the GPU passed it, ms; `recorded` from the call on, `at_ms` from the wait on."""

    recorded: bool = False
    at_ms: float | None = None


class Cudart:
    """The module `cuda.bindings.runtime`: every call returns (status, values...).

    Args:
        late: Whether streams wait until somebody waits for them.
    """

    cudaStreamNonBlocking = 1  # noqa: N815
    cudaHostAllocMapped = 2  # noqa: N815
    cudaMemcpyKind = CopyKind  # noqa: N815
    cudaDeviceAttr = SimpleNamespace(  # noqa: N815
        cudaDevAttrComputeCapabilityMajor=(9,),
        cudaDevAttrComputeCapabilityMinor=(0,),
        cudaDevAttrIntegrated=(0,),
        cudaDevAttrCanMapHostMemory=(1,),
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread")  # noqa: N815

    def __init__(self, *, late: bool) -> None:
        self._late = late
        self.live: dict[int, Any] = {}
        """Streams, events, graphs and memory that were made and not yet released."""
        self.lost = False
        self._clock_ms = 0.0
        self._handles = 1000
        self._lock = threading.RLock()
        self._captures: dict[int, Stream] = {}

    def __getattr__(self, name: str) -> Any:
        work = getattr(type(self), f"_{name}", None)
        if work is None:
            raise AttributeError(f"no call {name} in this stand-in for CUDA")

        def call(*arguments: Any) -> tuple[Any, ...]:
            with self._lock:
                try:
                    if self.lost:
                        raise RefusedError(Status.cudaErrorIllegalAddress)
                    made = work(self, *arguments)
                except RefusedError as refused:
                    return (refused.status, None)
            return (Status.cudaSuccess,) if made is None else (Status.cudaSuccess, *made)

        return call

    def enqueue(self, address: int, work: Work) -> None:
        """Put a kernel on a stream: done when it is waited for."""

        def take_time() -> None:
            self._clock_ms += STEP_MS
            work()

        with self._lock:
            self._put(address, take_time)

    def block_at(self, address: int, nbytes: int) -> Block:
        """The allocation that holds these bytes; RefusedError where none does."""
        for start, block in self.live.items():
            if isinstance(block, Block) and start <= address <= start + block.nbytes - nbytes:
                return block
        raise RefusedError(Status.cudaErrorIllegalAddress)

    def _put(self, address: int, work: Work) -> None:
        stream = self._get(address, Stream)
        if stream.captured is not None:
            stream.captured.append(work)
            return
        stream.queue.append(work)
        if not self._late:
            with suppress(RefusedError):  # what fails on the GPU shows at the next call
                self._drain(stream)

    def _add(self, made: Any, handle: int = 0) -> tuple[int]:
        self._handles += 1
        self.live[handle or self._handles] = made
        return (handle or self._handles,)

    def _get(self, handle: Any, kind: type) -> Any:
        found = self.live.get(handle)
        if not isinstance(found, kind):
            raise RefusedError(Status.cudaErrorInvalidResourceHandle)
        return found

    def _not_captured(self) -> None:
        """What waits or allocates spoils the capture of the thread that does it."""
        capture = self._captures.get(threading.get_ident())
        if capture is not None:
            capture.spoiled = True
            raise RefusedError(Status.cudaErrorStreamCaptureUnsupported)

    def _drain(self, stream: Stream) -> None:
        try:
            while stream.queue:
                stream.queue.pop(0)()
        except RefusedError:
            self.lost = True
            raise

    def _allocate(self, kind: str, nbytes: int) -> tuple[int]:
        self._not_captured()
        taken = sum(b.nbytes for b in self.live.values() if isinstance(b, Block))
        if nbytes + taken > MEMORY_BYTES:
            raise RefusedError(Status.cudaErrorMemoryAllocation)
        memory = (ctypes.c_uint8 * (nbytes + ALIGNMENT))()
        start = ctypes.addressof(memory)
        return self._add(Block(kind, memory, nbytes), start + -start % ALIGNMENT)

    def _release(self, address: int, kinds: tuple[str, ...]) -> None:
        self._not_captured()
        block = self.live.get(address)
        if not isinstance(block, Block) or block.kind not in kinds:
            raise RefusedError(Status.cudaErrorInvalidValue)
        self._cudaDeviceSynchronize()
        del self.live[address]

    def _cudaGetDevice(self) -> tuple[int]:  # noqa: N802
        return (0,)

    def _cudaMemGetInfo(self) -> tuple[int, int]:  # noqa: N802
        taken = sum(
            block.nbytes
            for block in self.live.values()
            if isinstance(block, Block) and block.kind == "device"
        )
        return MEMORY_BYTES - taken, MEMORY_BYTES

    def _cudaGetDeviceProperties(self, index: int) -> tuple[Any]:  # noqa: N802
        return (SimpleNamespace(name=b"rehearsal"),)

    def _cudaDeviceGetAttribute(self, attribute: tuple[int], index: int) -> tuple[int]:  # noqa: N802
        return attribute

    def _cudaDriverGetVersion(self) -> tuple[int]:  # noqa: N802
        return (13000,)

    def _cudaRuntimeGetVersion(self) -> tuple[int]:  # noqa: N802
        return (13000,)

    def _cudaStreamCreateWithFlags(self, flags: int) -> tuple[int]:  # noqa: N802
        return self._add(Stream())

    def _cudaStreamSynchronize(self, handle: int) -> None:  # noqa: N802
        self._not_captured()
        self._drain(self._get(handle, Stream))

    def _cudaDeviceSynchronize(self) -> None:  # noqa: N802
        self._not_captured()
        for stream in [held for held in self.live.values() if isinstance(held, Stream)]:
            self._drain(stream)

    def _cudaStreamDestroy(self, handle: int) -> None:  # noqa: N802
        self._drain(self._get(handle, Stream))
        del self.live[handle]

    def _cudaEventCreate(self) -> tuple[int]:  # noqa: N802
        return self._add(Event())

    def _cudaEventRecord(self, handle: int, stream: int) -> None:  # noqa: N802
        event = self._get(handle, Event)
        event.recorded, event.at_ms = True, None

        def passed() -> None:
            event.at_ms = self._clock_ms

        self._put(stream, passed)

    def _cudaEventElapsedTime(self, start: int, end: int) -> tuple[float]:  # noqa: N802
        first, last = self._get(start, Event), self._get(end, Event)
        if not (first.recorded and last.recorded):
            raise RefusedError(Status.cudaErrorInvalidResourceHandle)
        if first.at_ms is None or last.at_ms is None:
            raise RefusedError(Status.cudaErrorNotReady)
        return (last.at_ms - first.at_ms,)

    def _cudaEventDestroy(self, handle: int) -> None:  # noqa: N802
        self._get(handle, Event)
        del self.live[handle]

    def _cudaMalloc(self, nbytes: int) -> tuple[int]:  # noqa: N802
        return self._allocate("device", nbytes)

    def _cudaFree(self, address: int) -> None:  # noqa: N802
        if address:
            self._release(address, ("device",))

    def _cudaMallocHost(self, nbytes: int) -> tuple[int]:  # noqa: N802
        return self._allocate("pinned", nbytes)

    def _cudaHostAlloc(self, nbytes: int, flags: int) -> tuple[int]:  # noqa: N802
        return self._allocate("mapped" if flags == self.cudaHostAllocMapped else "pinned", nbytes)

    def _cudaHostGetDevicePointer(self, address: int, flags: int) -> tuple[int]:  # noqa: N802
        if self.block_at(address, 0).kind != "mapped":
            raise RefusedError(Status.cudaErrorInvalidValue)
        return (address,)

    def _cudaFreeHost(self, address: int) -> None:  # noqa: N802
        self._release(address, ("pinned", "mapped"))

    def _cudaMemcpyAsync(  # noqa: N802
        self, target: int, source: int, nbytes: int, kind: CopyKind, stream: int
    ) -> None:
        to_device = kind is CopyKind.cudaMemcpyHostToDevice
        host, device = (source, target) if to_device else (target, source)
        try:
            on_host, on_device = self.block_at(host, nbytes), self.block_at(device, nbytes)
        except RefusedError as refused:
            raise RefusedError(Status.cudaErrorInvalidValue) from refused
        if on_host.kind == "device":
            raise RefusedError(Status.cudaErrorInvalidValue)

        def copy() -> None:
            # What was released meanwhile must not be touched.
            if self.block_at(host, nbytes) is on_host and (
                self.block_at(device, nbytes) is on_device
            ):
                ctypes.memmove(target, source, nbytes)

        self.enqueue(stream, copy)

    def _cudaStreamBeginCapture(self, handle: int, mode: str) -> None:  # noqa: N802
        stream = self._get(handle, Stream)
        if stream.captured is not None:
            raise RefusedError(Status.cudaErrorIllegalState)
        stream.captured, stream.spoiled = [], False
        self._captures[threading.get_ident()] = stream

    def _cudaStreamEndCapture(self, handle: int) -> tuple[int]:  # noqa: N802
        stream = self._get(handle, Stream)
        captured, stream.captured = stream.captured, None
        self._captures.pop(threading.get_ident(), None)
        if captured is None:
            raise RefusedError(Status.cudaErrorIllegalState)
        if stream.spoiled:
            raise RefusedError(Status.cudaErrorStreamCaptureInvalidated)
        return self._add(captured)

    def _cudaGraphInstantiate(self, handle: int, flags: int) -> tuple[int]:  # noqa: N802
        return self._add(tuple(self._get(handle, list)))

    def _cudaGraphDestroy(self, handle: int) -> None:  # noqa: N802
        self._get(handle, list)
        del self.live[handle]

    def _cudaGraphLaunch(self, handle: int, stream: int) -> None:  # noqa: N802
        for work in self._get(handle, tuple):
            self._put(stream, work)

    def _cudaGraphExecDestroy(self, handle: int) -> None:  # noqa: N802
        self._get(handle, tuple)
        del self.live[handle]


class Rehearsal(CudaPython):
    """lpx's driver over cuda-python, on this stand-in."""

    def __init__(self, *, late: bool) -> None:
        self.cudart = Cudart(late=late)
        super().__init__(self.cudart)
