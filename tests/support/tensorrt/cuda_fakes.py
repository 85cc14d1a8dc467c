"""A stand-in for CUDA that is as strict as CUDA, and as late.

Copies, kernels and events are put on streams and happen at the last moment that CUDA allows: when
somebody waits for them. So a wait that is missing shows as a wrong score. With a seed, streams get
ahead at random instead, each in its own order: a buffer that is written too early shows then.
What CUDA calls an error raises LpxError; what CUDA leaves undefined, and would often let pass,
raises `MisuseError`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from lpx.engines.tensorrt.cuda.driver import CudaLostError, Device
from lpx.errors import LpxError

ALIGNMENT = 256
"""Of every address that cudaMalloc gives, and that TensorRT takes; bytes."""
GARBAGE, POISON = 0xA5, 0xDB
"""What memory holds before it is written, and after it is released."""
COPY_MS, COMPUTE_MS = 2.0, 5.0


class MisuseError(AssertionError):
    """Undefined behaviour: memory used after its release, a race, a stale graph."""


@dataclass(frozen=True)
class Work:
    """Something that a stream does.

    Attributes:
        name: Of the call that put it there.
        run: Does it.
        touches: Device addresses and pinned memory that it reads or writes.
        ms: How long it takes.
        owner: The execution context that runs it, if one does.
        still_valid: Raises MisuseError where the state it was captured in is gone.
    """

    name: str
    run: Callable[[], None]
    touches: frozenset[int] = frozenset()
    ms: float = 0.0
    owner: object = None
    still_valid: Callable[[], None] = lambda: None


@dataclass(eq=False)
class Stream:
    """Work in order. `capture` takes the work in its place while it is captured."""

    gpu: FakeGpu
    number: int
    pending: deque[Work] = field(default_factory=deque)
    alive: bool = True
    capture: list[Work] | None = None
    spoilt: bool = False
    """Whether something happened that a capture does not survive."""

    def put(self, work: Work) -> None:
        if not self.alive:
            raise MisuseError(f"{work.name} on a stream that was destroyed")
        (self.pending if self.capture is None else self.capture).append(work)

    def advance(self) -> None:
        work = self.pending.popleft()
        work.run()
        self.gpu.now_ms += work.ms

    def drain(self) -> None:
        while self.pending:
            self.advance()


@dataclass(eq=False)
class Event:
    alive: bool = True
    recorded: bool = False
    passed_ms: float | None = None


@dataclass(eq=False)
class Graph:
    work: tuple[Work, ...]
    alive: bool = True


@dataclass
class FakeGpu:
    """Device memory by address, streams, and what was done.

    Args:
        seed: Streams get ahead at random, by this seed; None for as late as can be.
    """

    seed: int | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    memory: dict[int, np.ndarray] = field(default_factory=dict)
    pinned: dict[int, np.ndarray] = field(default_factory=dict)
    """Page-locked memory by its address in the process, as bytes."""
    streams: list[Stream] = field(default_factory=list)
    now_ms: float = 0.0

    def __post_init__(self) -> None:
        self._chance = None if self.seed is None else random.Random(self.seed)
        self._next = 1 << 20
        self._numbers = count(77)
        self.auxiliary = self.new_stream()
        """A stream of TensorRT's own."""

    def new_stream(self) -> Stream:
        self.streams.append(Stream(self, next(self._numbers)))
        return self.streams[-1]

    def stream_at(self, address: int) -> Stream:
        """The stream that TensorRT is given by number."""
        for stream in self.streams:
            if stream.number == address and stream.alive:
                return stream
        raise MisuseError(f"there is no stream {address}")

    @property
    def capturing(self) -> Stream | None:
        return next((stream for stream in self.streams if stream.capture is not None), None)

    def allocate(self, memory: np.ndarray) -> int:
        """Let the GPU have these bytes; returns their address."""
        address = self._next
        # A gap, so that what runs over the end of one does not reach the next.
        self._next += ALIGNMENT * (2 + memory.size // ALIGNMENT)
        self.memory[address] = memory
        return address

    def release(self, address: int) -> None:
        self.check_idle(address)
        self.memory.pop(address)[...] = POISON

    def check_idle(self, key: int) -> None:
        """Make sure that no work that waits touches memory."""
        for stream in self.streams:
            for work in stream.pending:
                if key in work.touches:
                    raise MisuseError(f"memory is released while {work.name} waits to use it")

    def bytes_at(self, address: int, nbytes: int) -> np.ndarray:
        """Device memory from an address on, as a view."""
        start, memory = self._holding(self.memory, address, nbytes)
        return memory[address - start :][:nbytes]

    def base_of(self, address: int, nbytes: int = 1) -> int:
        """The address that the memory at an address was allocated at."""
        return self._holding(self.memory, address, nbytes)[0]

    def pinned_of(self, array: np.ndarray) -> int:
        """The address that the page-locked memory of an array was allocated at."""
        if not array.flags.c_contiguous:
            raise MisuseError("a copy of an array that is not contiguous")
        return self._holding(self.pinned, array.ctypes.data, array.nbytes)[0]

    def _holding(
        self, held: dict[int, np.ndarray], address: int, nbytes: int
    ) -> tuple[int, np.ndarray]:
        for start, memory in held.items():
            if start <= address and address + nbytes <= start + memory.size:
                return start, memory
        raise MisuseError(f"{nbytes} bytes at {address}, which nobody holds")

    def get_ahead(self) -> None:
        """Let streams run on by themselves, where chance is asked for."""
        if self._chance is None:
            return
        for stream in self._chance.sample(self.streams, len(self.streams)):
            for _ in range(self._chance.randint(0, 3)):
                if stream.pending:
                    stream.advance()


class FakeDriver:
    """A CudaDriver on a fake GPU. `failing` names the calls that fail; `lost` fails all."""

    def __init__(
        self,
        gpu: FakeGpu,
        *,
        graphs: bool = True,
        failing: tuple[str, ...] = (),
        shares_memory: bool = False,
    ) -> None:
        self.gpu, self.graphs, self.failing = gpu, graphs, failing
        self.shares_memory, self.lost = shares_memory, False
        self.mapped_at: dict[int, int] = {}
        self.live: dict[str, int] = {}

    def _log(self, name: str, *details: Any) -> None:
        self.gpu.calls.append((name, *details))
        self._check_lost(name)
        if name in self.failing:
            raise LpxError(f"CUDA's {name} failed: cudaErrorUnknown")
        self.gpu.get_ahead()

    def _check_lost(self, name: str) -> None:
        if self.lost:
            raise CudaLostError(f"CUDA's {name} failed: cudaErrorIllegalAddress")

    def _not_in_capture(self, name: str) -> None:
        """Fail, and spoil the capture, as CUDA does by calls that cannot be captured."""
        if self.gpu.capturing is not None:
            self.gpu.capturing.spoilt = True
            raise LpxError(f"CUDA's {name} failed: cudaErrorStreamCaptureUnsupported")

    def _count(self, kind: str, change: int) -> None:
        self.live[kind] = self.live.get(kind, 0) + change

    def device(self) -> Device:
        return Device("fake", (8, 7), 1, 2, "12.6", "12.6", "fake")

    def stream(self) -> Stream:
        self._check_lost("stream")
        self._count("stream", 1)
        return self.gpu.new_stream()

    def stream_address(self, stream: Stream) -> int:
        return stream.number

    def synchronize(self, stream: Stream) -> None:
        self._log("synchronize")
        self._not_in_capture("synchronize")
        if not stream.alive:
            raise MisuseError("waiting for a stream that was destroyed")
        stream.drain()

    def synchronize_device(self) -> None:
        self._log("synchronize_device")
        self._not_in_capture("synchronize_device")
        for stream in self.gpu.streams:
            stream.drain()

    def destroy_stream(self, stream: Stream) -> None:
        self._log("destroy_stream")
        if not stream.alive:
            raise MisuseError("a stream is destroyed twice")
        self._count("stream", -1)
        stream.alive = False
        stream.drain()  # CUDA lets it finish

    def event(self) -> Event:
        self._check_lost("event")
        self._count("event", 1)
        return Event()

    def record(self, event: Event, stream: Stream) -> None:
        self._log("record")
        self._not_in_capture("record")
        if not event.alive:
            raise MisuseError("an event is recorded after its release")
        event.recorded, event.passed_ms = True, None
        stream.put(Work("record", lambda: setattr(event, "passed_ms", self.gpu.now_ms)))

    def elapsed_ms(self, start: Event, end: Event) -> float:
        self._check_lost("elapsed_ms")
        if not (start.alive and end.alive):
            raise MisuseError("an event is read after its release")
        if not (start.recorded and end.recorded):
            raise LpxError("CUDA's elapsed_ms failed: cudaErrorInvalidResourceHandle")
        if start.passed_ms is None or end.passed_ms is None:
            raise LpxError("CUDA's elapsed_ms failed: cudaErrorNotReady")
        return end.passed_ms - start.passed_ms

    def destroy_event(self, event: Event) -> None:
        self._log("destroy_event")
        if not event.alive:
            raise MisuseError("an event is destroyed twice")
        self._count("event", -1)
        event.alive = False

    def malloc(self, nbytes: int) -> int:
        self._log("malloc", nbytes)
        self._not_in_capture("malloc")
        self._count("device", 1)
        return self.gpu.allocate(np.full(nbytes, GARBAGE, np.uint8))

    def free(self, address: int) -> None:
        self._log("free", address)
        self._not_in_capture("free")
        if address not in self.gpu.memory:
            raise MisuseError(f"{address} is released, which nobody holds")
        self.gpu.release(address)
        self._count("device", -1)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Any:
        self._log("pinned", shape)
        self._not_in_capture("pinned")
        if min(shape) < 0:
            raise MisuseError(f"memory of shape {shape}")
        self._count("pinned", 1)
        memory = np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, GARBAGE, np.uint8)
        self.gpu.pinned[memory.ctypes.data] = memory
        return memory.view(dtype).reshape(shape)

    def integrated(self) -> bool:
        return self.shares_memory

    def mapped(self, shape: tuple[int, ...], dtype: Any) -> Any:
        array = self.pinned(shape, dtype)
        # The same bytes, as the GPU sees them.
        address = self.gpu.allocate(self.gpu.pinned[array.ctypes.data])
        self.mapped_at[array.ctypes.data] = address
        return array

    def mapped_address(self, array: Any) -> int:
        return self.mapped_at[array.ctypes.data]

    def free_pinned(self, array: Any) -> None:
        self._log("free_pinned")
        self._not_in_capture("free_pinned")
        key = array.ctypes.data
        if key not in self.gpu.pinned:
            raise MisuseError("page-locked memory is released that nobody holds")
        self.gpu.check_idle(key)
        if key in self.mapped_at:
            self.gpu.release(self.mapped_at.pop(key))
        self.gpu.pinned.pop(key)[...] = POISON
        self._count("pinned", -1)

    def to_device(self, address: int, array: Any, stream: Stream) -> None:
        self._log("to_device", address, len(array))
        stream.put(self._copy("to_device", address, array, inward=True))

    def to_host(self, array: Any, address: int, stream: Stream) -> None:
        self._log("to_host", address, len(array))
        stream.put(self._copy("to_host", address, array, inward=False))

    def _copy(self, name: str, address: int, array: Any, *, inward: bool) -> Work:
        gpu = self.gpu
        touches = frozenset({gpu.pinned_of(array), gpu.base_of(address, array.nbytes)})

        def run() -> None:
            gpu.pinned_of(array)
            host = array.reshape(-1).view(np.uint8)
            device = gpu.bytes_at(address, array.nbytes)
            target, source = (device, host) if inward else (host, device)
            target[...] = source

        return Work(name, run, touches, COPY_MS)

    def begin_capture(self, stream: Stream) -> None:
        self._log("begin_capture")
        if stream.capture is not None:
            raise LpxError("CUDA's begin_capture failed: cudaErrorIllegalState")
        stream.capture, stream.spoilt = [], False

    def end_capture(self, stream: Stream) -> Graph:
        captured, stream.capture = stream.capture, None
        self._log("end_capture")
        if captured is None:
            raise LpxError("CUDA's end_capture failed: cudaErrorIllegalState")
        if stream.spoilt:
            raise LpxError("CUDA's end_capture failed: cudaErrorStreamCaptureInvalidated")
        self._count("graph", 1)
        return Graph(tuple(captured))

    def launch(self, graph: Graph, stream: Stream) -> None:
        self._log("launch")
        if not graph.alive:
            raise MisuseError("a graph is launched after its release")
        for work in graph.work:
            work.still_valid()
            stream.put(work)

    def destroy_graph(self, graph: Graph) -> None:
        self._log("destroy_graph")
        if not graph.alive:
            raise MisuseError("a graph is destroyed twice")
        graph.alive = False
        self._count("graph", -1)
