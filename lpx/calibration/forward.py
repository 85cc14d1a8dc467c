"""The float32 forward pass of calibration: every tensor that may be quantised is an output."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from lpx.data.face_set import Batch
from lpx.errors import LpxError
from lpx.graph.model_io import parse, serialise
from lpx.graph.placement_dla import tensors_to_observe

if TYPE_CHECKING:
    import onnxruntime

ROOM = 1 << 26
"""Values of all activations that are held at a time, at most: 256 MiB."""
BATCH_ROOM = 1 << 24
"""Values of one batch's; larger batches of large faces are not faster."""
LARGEST_BATCH = 8

T = TypeVar("T")


@dataclass(frozen=True)
class Activation:
    """A tensor on a batch of faces.

    Attributes:
        values: float32 [N, ...]: all values of each face, in the order of the runtime's own layout.
        means: float32 [N, channels]: the mean of each face and channel.
    """

    values: NDArray[np.float32]
    means: NDArray[np.float32]

    def first(self, faces: int) -> Activation:
        """That many faces of it, as views."""
        return Activation(self.values[:faces], self.means[:faces])


class ObservedModel:
    """Runs a model, and hands out what lies between its nodes.

    Statistics do not depend on the order of values. So a tensor is handed out as ONNX Runtime lays
    it out for itself, in blocks of channels: to bring it into ONNX's order takes as long as to
    count it. Means of channels, which do depend on it, are nodes of the graph.

    Several batches go through at a time, each on as few threads as can be: threads of one run wait
    for each other at every layer, and those of several runs do not.

    Args:
        model: ONNX, input `faces` uint8 [N, S, S, 3].

    Attributes:
        names: The tensors.
        at_once: Batches that go through at a time, as many as there is memory for.
        batch_size: Faces of each.
        seconds: Time that `run_all` took, were batches there at once: without that of decoding.

    Raises:
        LpxError: No tensor of the model may be quantised.
    """

    def __init__(self, model: bytes) -> None:
        graph = parse(model, "the exported model")
        self.names = tensors_to_observe(graph)
        if not self.names:
            raise LpxError(
                "nothing in this model is quantised",
                "no convolution of it is one that gains by INT8: `lpx explain-graph` says why, "
                "node by node",
                "build it with --fp16",
            )
        cores, values = os.cpu_count() or 1, max(1, _values_per_face(graph, self.names))
        self.batch_size = max(1, min(LARGEST_BATCH, BATCH_ROOM // values))
        self.at_once = max(1, min(cores, ROOM // (self.batch_size * values)))
        self.seconds = 0.0
        threads = max(1, cores // self.at_once)
        self._outputs = [*self.names, *_hand_out(graph, self.names)]
        observed = serialise(graph)
        self.session = _open(observed, self.names, threads)
        self._shapes = self._run_one()
        if self._padded():
            # ONNX Runtime 1.32 takes no mean of blocks that are not full, and so leaves those
            # tensors in order. Should another do so: what fills them must not be counted.
            self.session = session(observed, threads)
            self._shapes = self._run_one()
        # Kept from one pass to the next: memory would grow while threads come and go.
        self._rooms: SimpleQueue[list[Activation]] = SimpleQueue()
        for _ in range(self.at_once):
            self._rooms.put(self.room())

    @property
    def channels(self) -> list[int]:
        """How many channels each tensor has."""
        return [shape[0] for shape in self._shapes[len(self.names) :]]

    def room(self) -> list[Activation]:
        """Memory for the activations of a batch."""
        arrays = [np.zeros((self.batch_size, *shape), np.float32) for shape in self._shapes]
        values, means = arrays[: len(self.names)], arrays[len(self.names) :]
        flat = [mean.reshape(len(mean), -1) for mean in means]
        return [Activation(*pair) for pair in zip(values, flat, strict=True)]

    def run_all(
        self, batches: Iterable[Batch], take: Callable[[Batch, list[Activation]], T]
    ) -> Iterator[tuple[Batch, T]]:
        """Run batches, `at_once` at a time.

        Args:
            batches: At most `batch_size` faces each.
            take: Given a batch and its activations, one per name, which are overwritten when it
                returns; called from several threads.

        Yields:
            Each batch and what `take` gave of it, in their order.
        """
        spent: list[float] = []

        def work(batch: Batch) -> T:
            started = time.perf_counter()
            room = self._rooms.get()
            try:
                return take(batch, self.run(batch.pixels, room))
            finally:
                self._rooms.put(room)
                spent.append(time.perf_counter() - started)

        waiting: deque[tuple[Batch, Future[T]]] = deque()
        with ThreadPoolExecutor(self.at_once, "lpx-calibrate") as pool:
            try:
                for batch in batches:
                    waiting.append((batch, pool.submit(work, batch)))
                    # One more than there are threads, so that none waits for this one.
                    if len(waiting) > self.at_once:
                        first, done = waiting.popleft()
                        yield first, done.result()
                while waiting:
                    first, done = waiting.popleft()
                    yield first, done.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        self.seconds += sum(spent) / max(1, min(self.at_once, len(spent)))

    def run(self, pixels: NDArray[np.uint8], into: Sequence[Activation]) -> list[Activation]:
        """Activations of a batch, written into memory that is there already.

        Fresh memory for them would cost a tenth of the pass.

        Args:
            pixels: uint8 [N, S, S, 3].
            into: From `room`; overwritten.

        Returns:
            One per name: views of `into`.
        """
        faces = len(pixels)
        views = [activation.first(faces) for activation in into]
        arrays = [view.values for view in views] + [view.means for view in views]
        binding = self.session.io_binding()
        binding.bind_cpu_input("faces", np.ascontiguousarray(pixels))
        for name, array, shape in zip(self._outputs, arrays, self._shapes, strict=True):
            place = array.ctypes.data
            binding.bind_output(name, "cpu", 0, np.float32, (faces, *shape), place)
        self.session.run_with_iobinding(binding)
        return views

    def _run_one(self) -> list[tuple[int, ...]]:
        """Shapes of all outputs, without the batch."""
        (faces,) = self.session.get_inputs()
        black = np.zeros((1, *faces.shape[1:]), np.uint8)
        return [output.shape[1:] for output in self.session.run(self._outputs, {"faces": black})]

    def _padded(self) -> bool:
        """Whether a tensor has come with more channels than it has means."""
        values, means = self._shapes[: len(self.names)], self._shapes[len(self.names) :]
        return any(value[0] != mean[0] for value, mean in zip(values, means, strict=True))


def _values_per_face(model: ir.Model, names: Sequence[str]) -> int:
    """Values of tensors on one face; all dimensions but the batch are known."""
    values = {v.name: v for node in model.graph for v in node.outputs}
    shapes = [values[name].shape or () for name in names]
    return sum(math.prod(d for d in shape[1:] if isinstance(d, int)) for shape in shapes)


def _hand_out(model: ir.Model, names: Sequence[str]) -> list[str]:
    """Make tensors outputs, and means of their channels; returns the names of the means."""
    values = {v.name: v for node in model.graph for v in node.outputs}
    found = [values[name] for name in names]
    nodes = [_mean(value) for value in found]
    model.graph.extend(nodes)
    means = [node.outputs[0] for node in nodes]
    model.graph.outputs.extend([*found, *means])
    return [str(mean.name) for mean in means]


def _mean(value: ir.Value) -> ir.Node:
    """A node that gives the means of the channels of a tensor [N, channels, ...]."""
    assert value.shape is not None
    name = f"{value.name}.mean"
    # ONNX Runtime has no other mean that reads its own layout.
    kind = "GlobalAveragePool" if len(value.shape) > 2 else "Identity"
    node = ir.node(kind, [value], name=name)
    mean = node.outputs[0]
    mean.name, mean.type = name, ir.TensorType(ir.DataType.FLOAT)
    mean.shape = ir.Shape([*value.shape[:2], *[1] * (len(value.shape) - 2)])
    return node


def session(model: bytes, threads: int, *, optimised: bool = False) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime on the CPU that leaves cores to others while it waits.

    Args:
        model: ONNX.
        threads: Threads of one run.
        optimised: Whether ONNX Runtime's optimiser has made the model.
    """
    import onnxruntime

    options = _options()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _options() -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def _open(model: bytes, names: Collection[str], threads: int) -> onnxruntime.InferenceSession:
    """A session that gives tensors in ONNX Runtime's own layout, where it has one for them."""
    own = _optimise(model)
    if not _leave_in_blocks(own.graph, names):
        return session(model, threads)
    return session(own.SerializeToString(), threads, optimised=True)


def _optimise(model: bytes) -> onnx.ModelProto:
    """The model as ONNX Runtime runs it on this machine."""
    import onnxruntime

    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


def _leave_in_blocks(graph: onnx.GraphProto, names: Collection[str]) -> bool:
    """Take out the nodes that bring tensors into ONNX's order just to hand them out."""
    read = {name for node in graph.node for name in node.input}
    last = [
        node
        for node in graph.node
        if node.op_type == "ReorderOutput" and node.output[0] in set(names) - read
    ]
    renamed = {node.input[0]: node.output[0] for node in last}
    for node in last:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for output in graph.output:
        if output.name in renamed.values():
            # The number of channels may be a larger one there.
            output.type.tensor_type.ClearField("shape")
    return bool(last)
