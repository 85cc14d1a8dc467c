"""Stream, events, contexts and memory of one batch in flight."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lpx.engines.base import Faces
from lpx.engines.tensorrt.capabilities import Capabilities
from lpx.engines.tensorrt.cuda.driver import CudaDriver, CudaLostError, Handle
from lpx.engines.tensorrt.kernel_cache import KernelCache, use_kernels
from lpx.engines.tensorrt.logger import recording
from lpx.engines.tensorrt.profiles import Chunk
from lpx.engines.tensorrt_options import BatchRange
from lpx.errors import LpxError

FACES, SCORE, PATCH_MAP = "faces", "score", "patch_map"
_TYPES: dict[str, DTypeLike] = {FACES: np.uint8, SCORE: np.float32, PATCH_MAP: np.float32}


@dataclass(frozen=True)
class Timing:
    """Times of one call of `infer`, by CUDA events, summed over its runs.

    Attributes:
        h2d_ms: Copying the faces to the device, ms.
        compute_ms: Computing the network, ms.
        d2h_ms: Copying scores and patch maps to the host, ms.
        enqueue_ms: Enqueuing the network, ms on the host.
    """

    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    enqueue_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        """Time of both copies and of computing, ms."""
        return self.h2d_ms + self.compute_ms + self.d2h_ms

    def __add__(self, other: Timing) -> Timing:
        return Timing(
            self.h2d_ms + other.h2d_ms,
            self.compute_ms + other.compute_ms,
            self.d2h_ms + other.d2h_ms,
            self.enqueue_ms + other.enqueue_ms,
        )


@dataclass(frozen=True)
class _Buffer:
    """Memory of a tensor for the largest batch: page-locked on the host, and on the device.

    If it is `shared`, the device uses the host's memory, and there is no second copy.
    """

    host: NDArray[Any]
    device: int
    shared: bool


@dataclass
class _Lane:
    """Execution context of a profile, the batch size that is set, and the captured graph.

    A graph is valid for the state of its context when it was captured, so that a lane drops its
    graph when the batch size changes.
    """

    context: Any
    # Referenced only to keep it alive as long as the context.
    runtime_config: Any = None
    batch: int = 0
    warm: bool = False
    graph: Handle | None = None


@dataclass
class Shared:
    """Parts that all slots of an engine share.

    Attributes:
        trt: The library.
        capabilities: Capabilities of the library.
        driver: Access to CUDA.
        engine: An `ICudaEngine`.
        spans: Batch range of each profile.
        face_shape: (H, W, 3).
        graphs: True if lpx captures CUDA graphs; False from the first failure on.
        builtin_graphs: True if TensorRT for RTX captures CUDA graphs.
        zero_copy: True if the GPU uses tensors in host memory.
        notes: Receives differences from the request, with their reasons.
        kernels: Cache of the kernels that TensorRT for RTX compiles; None for none.
    """

    trt: Any
    capabilities: Capabilities
    driver: CudaDriver
    engine: Any
    spans: tuple[BatchRange, ...]
    face_shape: tuple[int, int, int]
    graphs: bool
    builtin_graphs: bool
    zero_copy: bool
    notes: list[str] = field(default_factory=list)
    kernels: KernelCache | None = None


class Slot:
    """Contexts and memory for one batch.

    `start` returns while the GPU works; `finish` waits for it.

    Args:
        shared: Parts that all slots of the engine share.

    Raises:
        LpxError: There is not enough memory, or TensorRT refuses a profile.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._driver = shared.driver
        self._lanes: list[_Lane] = []
        self._buffers: dict[str, _Buffer] = {}
        self._running: tuple[Chunk, _Lane, float] | None = None
        self._held = ExitStack()
        self._stream: Handle | None = None
        try:
            # If this fails, `close` releases what was allocated.
            self._prepare()
        except BaseException:
            self.close()
            raise

    @property
    def nbytes(self) -> int:
        """Size of the tensors, bytes."""
        return sum(buffer.host.nbytes for buffer in self._buffers.values())

    @property
    def cells(self) -> tuple[int, ...]:
        """(h, w) of a patch map."""
        return self._buffers[PATCH_MAP].host.shape[1:]

    def context_for_inspection(self) -> Any:
        """Return the context of the first profile, with a batch size set."""
        lane = self._lanes[0]
        self._set_batch(lane, lane.batch or self._shared.spans[0].optimum)
        return lane.context

    def start(self, chunk: Chunk, faces: Faces) -> None:
        """Start a chunk on the GPU. Its faces are copied before this returns.

        Args:
            chunk: Profile and batch size.
            faces: Faces of the chunk.

        Raises:
            LpxError: CUDA or TensorRT fails.
        """
        driver, stream, count = self._driver, self._stream, chunk.faces
        lane = self._lanes[chunk.profile]
        self._set_batch(lane, chunk.batch)
        # TensorRT requires a run between a change of the shape and a capture.
        if self._shared.graphs and lane.warm and lane.graph is None:
            self._capture(lane)
        source, score, patch_map = (self._buffers[n] for n in (FACES, SCORE, PATCH_MAP))
        start, copied, computed, end = self._events
        # Copies by the GPU are only asynchronous from page-locked memory.
        np.copyto(source.host[:count], faces)
        driver.record(start, stream)
        if not source.shared:
            driver.to_device(source.device, source.host[:count], stream)
        driver.record(copied, stream)
        began = time.perf_counter()
        self._compute(lane)
        # Timed on the host, since enqueuing is work of the host, which events do not measure.
        enqueue_ms = (time.perf_counter() - began) * 1e3
        driver.record(computed, stream)
        for made in (score, patch_map):
            if not made.shared:
                driver.to_host(made.host[:count], made.device, stream)
        driver.record(end, stream)
        self._running = (chunk, lane, enqueue_ms)

    def finish(self, score: NDArray[np.float32], patch_map: NDArray[np.float32]) -> Timing:
        """Wait for the chunk that was started, if any, and copy its results.

        Args:
            score: Receives the scores of the chunk's faces, float32 [N].
            patch_map: Receives their patch maps, float32 [N, h, w].

        Raises:
            LpxError: The GPU failed.
        """
        if self._running is None:
            return Timing(0.0, 0.0, 0.0)
        (chunk, lane, enqueue_ms), self._running = self._running, None
        driver = self._driver
        driver.synchronize(self._stream)
        lane.warm = True
        part = slice(chunk.start, chunk.start + chunk.faces)
        score[part] = self._buffers[SCORE].host[: chunk.faces]
        patch_map[part] = self._buffers[PATCH_MAP].host[: chunk.faces]
        # Read after waiting, since CUDA reports no time between events that have not completed.
        start, copied, computed, end = self._events
        return Timing(
            h2d_ms=driver.elapsed_ms(start, copied),
            compute_ms=driver.elapsed_ms(copied, computed),
            d2h_ms=driver.elapsed_ms(computed, end),
            enqueue_ms=enqueue_ms,
        )

    def abandon(self) -> None:
        """Wait until the GPU has finished, and discard the results.

        If `start` failed, some of its work may have been submitted, and still uses the memory.

        Raises:
            CudaLostError: CUDA is lost.
        """
        self._running = None
        try:
            self._driver.synchronize(self._stream)
        except CudaLostError:
            raise
        except LpxError:
            # The error of a run that was reported when it was started.
            pass

    def close(self) -> None:
        """Release everything, even if some releases fail; a second call does nothing."""
        if self._stream is not None:
            # The GPU may still use the memory. An error of this run was reported before.
            with suppress(LpxError):
                self._driver.synchronize(self._stream)
            self._stream = None
        for lane in self._lanes:
            if lane.graph is not None:
                self._held.callback(unless_lost, self._driver.destroy_graph, lane.graph)
        # TensorRT requires contexts to be released before their engine.
        self._lanes.clear()
        self._buffers.clear()
        self._held.close()

    def _prepare(self) -> None:
        """Allocate stream, events, contexts and buffers. Nothing is allocated later."""
        shared, driver = self._shared, self._driver
        self._stream = self._keep(driver.stream(), driver.destroy_stream)
        self._address = driver.stream_address(self._stream)
        self._events = [self._keep(driver.event(), driver.destroy_event) for _ in range(4)]
        for index in range(len(shared.spans)):
            created = create_context(
                shared.trt,
                shared.capabilities,
                shared.engine,
                graphs=shared.builtin_graphs,
                kernels=shared.kernels,
            )
            accepted = created.context.set_optimization_profile_async(index, self._address)
            if not accepted:
                raise refused(f"profile {index}")
            self._lanes.append(_Lane(created.context, created.runtime_config))
        # Buffers for the largest batch are large enough for all profiles.
        largest = max(range(len(shared.spans)), key=lambda index: shared.spans[index].maximum)
        self._set_batch(self._lanes[largest], shared.spans[largest].maximum)
        context = self._lanes[largest].context
        for name, dtype in _TYPES.items():
            self._buffers[name] = self._allocate(tuple(context.get_tensor_shape(name)), dtype)
        for lane in self._lanes:
            for name, buffer in self._buffers.items():
                if not lane.context.set_tensor_address(name, buffer.device):
                    raise refused(f"address of {name}")
        driver.synchronize(self._stream)

    def _keep(self, made: Any, release: Callable[[Any], None]) -> Any:
        """Register a resource to be released by `close`."""
        self._held.callback(unless_lost, release, made)
        return made

    def _allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> _Buffer:
        driver = self._driver
        if self._shared.zero_copy:
            host = self._keep(driver.mapped(shape, dtype), driver.free_pinned)
            return _Buffer(host, driver.mapped_address(host), shared=True)
        host = self._keep(driver.pinned(shape, dtype), driver.free_pinned)
        return _Buffer(host, self._keep(driver.malloc(host.nbytes), driver.free), shared=False)

    def _set_batch(self, lane: _Lane, batch: int) -> None:
        if lane.batch == batch:
            return
        # A graph is only valid for the shapes at its capture.
        if lane.graph is not None:
            self._driver.destroy_graph(lane.graph)
            lane.graph = None
        shape = (batch, *self._shared.face_shape)
        if not lane.context.set_input_shape(FACES, shape):
            raise refused(f"input shape {shape}")
        lane.batch, lane.warm = batch, False

    def _compute(self, lane: _Lane) -> None:
        if lane.graph is not None:
            self._driver.launch(lane.graph, self._stream)
        elif not lane.context.execute_async_v3(self._address):
            raise refused("the run")

    def _capture(self, lane: _Lane) -> None:
        """Capture the lane's graph; on failure stop using graphs, and add a note.

        TensorRT requires that the lane has run once since its batch size was set.
        """
        with recording(self._shared.trt) as (_, recorder):
            try:
                lane.graph = self._captured(lane)
                return
            except LpxError as error:
                reason = error.what
        said = "; ".join((reason, *recorder.said("error")))
        # Captures at other batch sizes would fail, too, and add a note each.
        self._shared.graphs = False
        self._shared.notes.append(f"no CUDA graphs: {said}")

    def _captured(self, lane: _Lane) -> Handle:
        """Capture a graph of one run.

        Raises:
            LpxError: TensorRT or CUDA refuses.
        """
        driver = self._driver
        driver.begin_capture(self._stream)
        try:
            accepted = lane.context.execute_async_v3(self._address)
        except BaseException:
            # The stream must not remain in capture mode.
            with suppress(LpxError):
                driver.destroy_graph(driver.end_capture(self._stream))
            raise
        graph = driver.end_capture(self._stream)
        if not accepted:
            driver.destroy_graph(graph)
            raise LpxError("TensorRT refused to run while captured")
        return graph


def unless_lost(release: Callable[[Any], None], held: Any) -> None:
    """Release a resource, unless CUDA is lost: then there is nothing left to release."""
    with suppress(CudaLostError):
        release(held)


class CreatedContext(NamedTuple):
    """An execution context, and the object that the bindings do not keep alive for it.

    Attributes:
        context: An `IExecutionContext`.
        runtime_config: The `IRuntimeConfig` that created it; None for releases without that class.
    """

    context: Any
    runtime_config: Any | None


def create_context(
    trt: Any,
    capabilities: Capabilities,
    engine: Any,
    *,
    graphs: bool,
    kernels: KernelCache | None = None,
) -> CreatedContext:
    """Create an execution context of an engine.

    Args:
        trt: The library.
        capabilities: Capabilities of the library.
        engine: An `ICudaEngine`.
        graphs: Let TensorRT for RTX capture CUDA graphs.
        kernels: Cache of the kernels that TensorRT for RTX compiles; None for none.

    Raises:
        LpxError: There is not enough memory.
    """
    runtime_config = None
    if capabilities.builtin_cuda_graphs and capabilities.compiles_at_run:
        runtime_config = _runtime_config(trt, engine, graphs=graphs)
        if kernels is not None:
            use_kernels(runtime_config, kernels)
        context = engine.create_execution_context(runtime_config)
    else:
        context = engine.create_execution_context()
    # TensorRT returns None instead of raising.
    if context is None:
        raise LpxError(
            "TensorRT created no execution context",
            why="most often the GPU has not enough memory for the plan's activations",
            fix="build with smaller batches, or close other programs on the GPU",
        )
    # Plans are built with detailed profiling verbosity, so that their layers can be inspected.
    # Without a profiler, its markers for every layer would only make enqueuing slower.
    context.nvtx_verbosity = trt.ProfilingVerbosity.NONE
    return CreatedContext(context, runtime_config)


def _runtime_config(trt: Any, engine: Any, *, graphs: bool) -> Any:
    """Return the settings of a context of TensorRT for RTX: CUDA graphs, and compiling kernels."""
    strategy = trt.CudaGraphStrategy.DISABLED
    if graphs:
        strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    runtime_config = engine.create_runtime_config()
    runtime_config.cuda_graph_strategy = strategy
    # By default it compiles the kernels of a new shape in the background and runs slower ones in
    # the meantime, so that a measured time may be that of either.
    runtime_config.dynamic_shapes_kernel_specialization_strategy = (
        trt.DynamicShapesKernelSpecializationStrategy.EAGER
    )
    return runtime_config


def refused(what: str) -> LpxError:
    """Return the error for a call of TensorRT that returned False."""
    return LpxError(f"TensorRT refused {what}", fix="build the plan again here")
