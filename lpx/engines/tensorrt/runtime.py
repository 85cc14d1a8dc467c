"""Run a plan: uint8 faces in, scores and patch maps out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lpx.engines.base import DeviceMemory, Faces, Prediction
from lpx.engines.tensorrt.capabilities import capabilities_of
from lpx.engines.tensorrt.cuda import CudaDriver, Handle, open_driver
from lpx.engines.tensorrt.inspect import LayerTable, inspect_engine
from lpx.engines.tensorrt.library import Flavour, load
from lpx.engines.tensorrt.logger import recording
from lpx.engines.tensorrt.profiles import Chunk, chunks, spans_of
from lpx.engines.tensorrt.request import BatchRange
from lpx.errors import LpxError

FACES, SCORE, PATCH_MAP = "faces", "score", "patch_map"


@dataclass(frozen=True)
class Timing:
    """Time on the GPU of one call of `infer`, by CUDA events, summed over its runs.

    Attributes:
        h2d_ms: Copy of the faces to the device.
        compute_ms: The network.
        d2h_ms: Copy of scores and patch maps to the host.
        enqueue_ms: Time on the host to hand the network over to the GPU.
    """

    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    enqueue_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        """H2D, compute and D2H."""
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
    """A tensor's memory for the largest batch: page-locked on the host, and on the device."""

    host: NDArray[Any]
    device: int


@dataclass
class _Lane:
    """A profile's execution context, the batch it is set to, and the graph captured of it.

    A graph is only good for the state its context had at capture: a lane holds one at most,
    and drops it when the batch changes.
    """

    context: Any
    batch: int = 0
    warm: bool = False
    graph: Handle | None = None


class TensorRTEngine:
    """A loaded plan of TensorRT or TensorRT for RTX, with the memory it runs in.

    The plan takes "faces", uint8 [N, H, W, 3], and gives "score", float32 [N], and "patch_map",
    float32 [N, h, w]. Memory is allocated once, for the largest batch of any profile; a larger
    batch is cut up. From the second run in a row at one batch size on, a CUDA graph is launched
    in place of the single kernels; where a graph cannot be captured, the kernels are launched
    one by one and `notes` says why. TensorRT for RTX captures graphs by itself.

    Not thread-safe: buffers, stream and contexts are shared between calls. Use one engine a
    thread, in the thread that made it.

    Args:
        plan: The plan's bytes.
        flavour: The library that built it.
        driver: CUDA; None opens the binding at hand.
        allow_host_code: Load a version-compatible plan, which carries code that runs on the
            host. Only for plans whose origin you trust.
        cuda_graph: Use CUDA graphs.
        dla_core: DLA core that runs a plan built for DLA.

    Attributes:
        last_timing: Time of the last call of `infer`; None before the first.
        notes: What differs from what was asked, and why.

    Raises:
        LpxError: The library or CUDA is absent, the plan does not load, or its inputs and
            outputs are not those above.
    """

    def __init__(
        self,
        plan: bytes,
        *,
        flavour: Flavour,
        driver: CudaDriver | None = None,
        allow_host_code: bool = False,
        cuda_graph: bool = True,
        dla_core: int | None = None,
    ) -> None:
        self.last_timing: Timing | None = None
        self.notes: list[str] = []
        self._plan_bytes = len(plan)
        self._trt = load(flavour)
        self._capabilities = capabilities_of(self._trt, flavour)
        self._driver = open_driver() if driver is None else driver
        self._graphs = cuda_graph and self._driver.graphs
        if cuda_graph and not self._driver.graphs and not self._capabilities.builtin_cuda_graphs:
            self.notes.append("no CUDA graphs: this CUDA binding has none; install cuda-python")
        self._buffers: dict[str, _Buffer] = {}
        self._events: list[Handle] = []
        self._lanes: list[_Lane] = []
        self._stream: Handle | None = None
        self._runtime, self._engine = _deserialize(
            self._trt, plan, allow_host_code=allow_host_code, dla_core=dla_core
        )
        try:
            self._face_shape = _checked_face_shape(self._trt, self._engine)
            self._spans = spans_of(self._engine, FACES)
            self._prepare(builtin_graphs=cuda_graph)
        except BaseException:
            self.close()
            raise

    @property
    def face_shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of a face."""
        return self._face_shape

    @property
    def batches(self) -> tuple[BatchRange, ...]:
        """The batch sizes of each profile."""
        return self._spans

    @property
    def device_memory(self) -> DeviceMemory:
        """Activations of every context, the tensors, and weights by the size of the plan."""
        if self._engine is None:
            return DeviceMemory(None, "the engine is closed")
        # TensorRT 10.1 renamed it; both count one context's activations.
        scratch = getattr(self._engine, "device_memory_size_v2", None)
        if scratch is None:
            scratch = getattr(self._engine, "device_memory_size", None)
        if not isinstance(scratch, int):
            return DeviceMemory(None, f"{self._trt.__name__} does not tell")
        tensors = sum(buffer.host.nbytes for buffer in self._buffers.values())
        return DeviceMemory(
            scratch * len(self._lanes) + tensors + self._plan_bytes,
            "weights taken to be as large as the plan; without CUDA's own context",
        )

    def layers(self) -> LayerTable:
        """The plan's layers and the precision each computes in.

        Raises:
            LpxError: The engine is closed, or the inspector's answer is not as expected.
        """
        if self._engine is None:
            raise LpxError("the engine is closed", fix="load it again")
        lane = self._lanes[0]
        self._set_batch(lane, lane.batch or self._spans[0].optimum)
        return inspect_engine(self._trt, self._engine, lane.context)

    def infer(self, faces: Faces) -> Prediction:
        """Score faces.

        Args:
            faces: uint8 RGB [N, H, W, 3]; N may exceed the largest batch, or be 0.

        Returns:
            `score` float32 [N] and `patch_map` float32 [N, h, w], new arrays, in [0, 1].

        Raises:
            LpxError: `faces` has another dtype or shape, the engine is closed, or CUDA fails.
        """
        self._check(faces)
        count = len(faces)
        score = np.empty(count, np.float32)
        patch_map = np.empty((count, *self._buffers[PATCH_MAP].host.shape[1:]), np.float32)
        timing = Timing(0.0, 0.0, 0.0)
        for chunk in chunks(count, self._spans):
            part = slice(chunk.start, chunk.start + chunk.faces)
            timing += self._run(chunk, faces[part])
            score[part] = self._buffers[SCORE].host[: chunk.faces]
            patch_map[part] = self._buffers[PATCH_MAP].host[: chunk.faces]
        self.last_timing = timing
        return Prediction(score=score, patch_map=patch_map)

    def close(self) -> None:
        """Release device memory, pinned memory, events and stream; a second call does nothing."""
        driver = self._driver
        for lane in self._lanes:
            self._drop_graph(lane)
        # Contexts before the engine, the engine before its runtime: TensorRT asks for that.
        self._lanes.clear()
        for buffer in self._buffers.values():
            driver.free(buffer.device)
            driver.free_pinned(buffer.host)
        self._buffers.clear()
        for event in self._events:
            driver.destroy_event(event)
        self._events.clear()
        if self._stream is not None:
            driver.destroy_stream(self._stream)
            self._stream = None
        self._engine = None
        self._runtime = None

    def __enter__(self) -> TensorRTEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _prepare(self, *, builtin_graphs: bool) -> None:
        """Make stream, events, contexts and buffers: all that is ever allocated."""
        self._stream = self._driver.stream()
        self._address = self._driver.stream_address(self._stream)
        self._events = [self._driver.event() for _ in range(4)]
        for index in range(len(self._spans)):
            context = self._context(builtin_graphs=builtin_graphs)
            _demand(
                context.set_optimization_profile_async(index, self._address), f"profile {index}"
            )
            self._lanes.append(_Lane(context))
        largest = max(range(len(self._spans)), key=lambda index: self._spans[index].maximum)
        self._set_batch(self._lanes[largest], self._spans[largest].maximum)
        shapes = self._lanes[largest].context
        for name, dtype in ((FACES, np.uint8), (SCORE, np.float32), (PATCH_MAP, np.float32)):
            self._buffers[name] = self._allocate(tuple(shapes.get_tensor_shape(name)), dtype)
        for lane in self._lanes:
            for name, buffer in self._buffers.items():
                _demand(lane.context.set_tensor_address(name, buffer.device), f"address of {name}")
        self._driver.synchronize(self._stream)

    def _context(self, *, builtin_graphs: bool) -> Any:
        if self._capabilities.builtin_cuda_graphs:
            self._graphs = False
            context = _self_graphing_context(self._trt, self._engine, wanted=builtin_graphs)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise LpxError(
                "TensorRT made no execution context",
                why="most often the GPU lacks memory for the plan's activations",
                fix="build with smaller batches, or close other programs on the GPU",
            )
        return context

    def _allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> _Buffer:
        host = self._driver.pinned(shape, dtype)
        try:
            return _Buffer(host, self._driver.malloc(host.nbytes))
        except LpxError:
            self._driver.free_pinned(host)
            raise

    def _check(self, faces: Faces) -> None:
        if self._engine is None:
            raise LpxError("the engine is closed", fix="load it again")
        expected = "uint8 [N, {}, {}, {}]".format(*self._face_shape)
        if not isinstance(faces, np.ndarray) or faces.dtype != np.uint8:
            found = getattr(faces, "dtype", type(faces).__name__)
            raise LpxError(f"faces of type {found}", why=f"the engine takes {expected}")
        if faces.ndim != 4 or faces.shape[1:] != self._face_shape:
            raise LpxError(f"faces of shape {faces.shape}", why=f"the engine takes {expected}")

    def _run(self, chunk: Chunk, faces: Faces) -> Timing:
        """Run one chunk; its results lie in the host buffers afterwards."""
        driver, stream, count = self._driver, self._stream, chunk.faces
        lane = self._lanes[chunk.profile]
        self._set_batch(lane, chunk.batch)
        if self._graphs and lane.warm and lane.graph is None:
            self._capture(lane)
        source, score, patch_map = (self._buffers[n] for n in (FACES, SCORE, PATCH_MAP))
        start, copied, computed, end = self._events
        np.copyto(source.host[:count], faces)
        driver.record(start, stream)
        driver.to_device(source.device, source.host[:count], stream)
        driver.record(copied, stream)
        began = time.perf_counter()
        self._compute(lane)
        enqueue_ms = (time.perf_counter() - began) * 1e3
        driver.record(computed, stream)
        driver.to_host(score.host[:count], score.device, stream)
        driver.to_host(patch_map.host[:count], patch_map.device, stream)
        driver.record(end, stream)
        driver.synchronize(stream)
        lane.warm = True
        return Timing(
            h2d_ms=driver.elapsed_ms(start, copied),
            compute_ms=driver.elapsed_ms(copied, computed),
            d2h_ms=driver.elapsed_ms(computed, end),
            enqueue_ms=enqueue_ms,
        )

    def _set_batch(self, lane: _Lane, batch: int) -> None:
        if lane.batch == batch:
            return
        self._drop_graph(lane)
        shape = (batch, *self._face_shape)
        _demand(lane.context.set_input_shape(FACES, shape), f"input shape {shape}")
        lane.batch, lane.warm = batch, False

    def _compute(self, lane: _Lane) -> None:
        if lane.graph is not None:
            self._driver.launch(lane.graph, self._stream)
        else:
            _demand(lane.context.execute_async_v3(self._address), "the run")

    def _capture(self, lane: _Lane) -> None:
        """Capture the lane's graph; on failure go on without graphs, for good, and say so.

        The lane must have run once since its batch was set: TensorRT does in that run what
        cannot be captured.
        """
        try:
            self._driver.begin_capture(self._stream)
            try:
                accepted = lane.context.execute_async_v3(self._address)
            finally:
                graph = self._driver.end_capture(self._stream)
            if accepted:
                lane.graph = graph
                return
            self._driver.destroy_graph(graph)
            reason = "TensorRT refused to run while captured"
        except LpxError as error:
            reason = error.what
        self._graphs = False
        self.notes.append(f"no CUDA graphs: {reason}")

    def _drop_graph(self, lane: _Lane) -> None:
        if lane.graph is not None:
            self._driver.destroy_graph(lane.graph)
            lane.graph = None


def _deserialize(
    trt: Any, plan: bytes, *, allow_host_code: bool, dla_core: int | None
) -> tuple[Any, Any]:
    with recording(trt) as (logger, recorder):
        runtime = trt.Runtime(logger)
        runtime.engine_host_code_allowed = allow_host_code
        if dla_core is not None:
            runtime.DLA_core = dla_core
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is not None:
            return runtime, engine
    why = recorder.errors()
    host_code = "host_code" in why.replace(" ", "_").lower()
    raise LpxError(
        "the plan does not load",
        why=why,
        fix="it carries host code: allow that, if you trust where it comes from, with "
        "--allow-host-code"
        if host_code
        else f"a plan runs on the release and the GPU model it was built for; this is "
        f"{trt.__name__} {trt.__version__}: build it again here",
    )


def _checked_face_shape(trt: Any, engine: Any) -> tuple[int, int, int]:
    """Make sure of the tensors' names, directions and types; returns (H, W, 3)."""
    inward, outward = trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT
    expected = {
        FACES: (inward, trt.DataType.UINT8, 4),
        SCORE: (outward, trt.DataType.FLOAT, 1),
        PATCH_MAP: (outward, trt.DataType.FLOAT, 3),
    }
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {
        name: (
            engine.get_tensor_mode(name),
            engine.get_tensor_dtype(name),
            len(tuple(engine.get_tensor_shape(name))),
        )
        for name in names
    }
    if found != expected:
        listed = "; ".join(
            f"{name}: {dtype} {tuple(engine.get_tensor_shape(name))}"
            for name, (_, dtype, _) in found.items()
        )
        raise LpxError(
            f"the plan's tensors are {listed}",
            why="lpx runs plans with faces uint8 [N, H, W, 3] in, and score float32 [N] and "
            "patch_map float32 [N, h, w] out",
            fix="build the plan from an ONNX model that lpx exported",
        )
    _, height, width, channels = tuple(engine.get_tensor_shape(FACES))
    return height, width, channels


def _self_graphing_context(trt: Any, engine: Any, *, wanted: bool) -> Any:
    """TensorRT for RTX compiles kernels while it runs, and knows when a graph is worth it."""
    runtime_config = engine.create_runtime_config()
    runtime_config.cuda_graph_strategy = (
        trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE if wanted else trt.CudaGraphStrategy.DISABLED
    )
    return engine.create_execution_context(runtime_config)


def _demand(accepted: bool, what: str) -> None:
    if not accepted:
        raise LpxError(f"TensorRT refused {what}", fix="build the plan again here")
