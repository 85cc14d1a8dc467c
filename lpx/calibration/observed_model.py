"""Float32 forward pass of calibration, with every tensor that may be quantised as an output."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lpx.calibration.extents import extents
from lpx.calibration.ort_layout import leave_blocked, open_session
from lpx.data.face_sets.face_set import Batch, FaceSet, Skipped
from lpx.errors import LpxError
from lpx.graph.model_io import parse, serialise
from lpx.graph.nodes import computed_values
from lpx.graph.qdq.placement_dla import tensors_to_observe
from lpx.reporter import Progress

if TYPE_CHECKING:
    import onnxruntime

# Activation values held in memory at a time: 256 MiB of float32.
_ROOM = 1 << 26
# Activation values of one batch: larger batches of large faces are not faster.
_BATCH_ROOM = 1 << 24
# Maximum number of faces in a batch.
LARGEST_BATCH = 8

T = TypeVar("T")
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Activation:
    """A tensor on a batch of faces.

    Attributes:
        values: float32, usually [N, channels, ...]; the layout in memory is
            [N, channels / block, ..., block]. N need not be the number of faces.
        block: Size of the blocks of channels in memory; 1 is ONNX's layout.
    """

    values: NDArray[np.float32]
    block: int

    def shaped(self, shape: tuple[int, ...]) -> Activation:
        """Return the first values in another shape, as a view."""
        return Activation(self.values.reshape(-1)[: math.prod(shape)].reshape(shape), self.block)


class ObservedModel:
    """Runs a model and returns its intermediate tensors.

    Args:
        model: ONNX, input `faces` uint8 [N, S, S, 3].
        largest_batch: Maximum batch size.
        block: Channels of a block in ONNX Runtime's own layout; measured if None.
        cores: CPU cores to use; None for all.
        opener: Opens the session that runs the model, as `lpx.calibration.ort_layout.open_session`.

    Attributes:
        names: Names of the tensors.
        extents: Size of each tensor.
        at_once: Batches that run at the same time, as many as memory allows.
        batch_size: Faces per batch.
        seconds: Time spent in `run_all` computing, without the time to decode faces.

    Raises:
        LpxError: No tensor of the model is quantised, the type of one is unknown, or the size of
            one does not grow linearly with the number of faces.
    """

    # Several batches run at the same time, each on as few threads as possible: threads of one run
    # wait for each other at every layer, those of different runs do not.

    def __init__(
        self,
        model: bytes,
        *,
        largest_batch: int = LARGEST_BATCH,
        block: int | None = None,
        cores: int | None = None,
        opener: Callable[..., onnxruntime.InferenceSession] = open_session,
    ) -> None:
        graph = parse(model, "the exported model")
        self.names = tensors_to_observe(graph)
        if not self.names:
            raise LpxError(
                "nothing in this model is quantised",
                "none of its convolutions would gain from INT8: `lpx explain-graph` says why, node "
                "by node",
                "build it without INT8: `lpx build --fp16`",
                code="unsupported",
            )
        _make_outputs(graph, self.names)
        whole = serialise(graph)
        known = extents(whole, graph, self.names)
        self.extents = [known[name] for name in self.names]
        cores = cores or os.cpu_count() or 1
        values = max(1, sum(extent.values(1) for extent in self.extents))
        self.batch_size = max(1, min(largest_batch, _BATCH_ROOM // values))
        self.at_once = max(1, min(cores, _ROOM // (self.batch_size * values)))
        self.seconds = 0.0
        # Statistics do not depend on the order of values. So tensors are read in ONNX Runtime's own
        # layout: converting one to ONNX's layout takes as long as counting it.
        channels = dict(zip(self.names, self.channels, strict=True))
        blocked = leave_blocked(whole, channels, block)
        self._blocks = [blocked.sizes.get(name, 1) for name in self.names]
        threads = max(1, cores // self.at_once)
        self.session = opener(blocked.model, threads=threads, optimise=False)
        # Allocated once and kept: fresh memory per batch costs a tenth of the pass, and per thread
        # it would grow while threads come and go.
        self._rooms: SimpleQueue[list[Activation]] = SimpleQueue()
        for _ in range(self.at_once):
            self._rooms.put(self.room())

    @property
    def channels(self) -> list[int]:
        """Number of channels of each tensor, its second dimension; 0 if it has none."""
        return [extent.channels for extent in self.extents]

    @property
    def row_per_face(self) -> bool:
        """True if row n of every tensor belongs to face n."""
        return all(extent.row_per_face for extent in self.extents)

    def room(self) -> list[Activation]:
        """Allocate memory for the activations of a batch."""
        activations = []
        for extent, block in zip(self.extents, self._blocks, strict=True):
            values = np.zeros(extent.shape(self.batch_size), np.float32)
            activations.append(Activation(values, block))
        return activations

    def run_all(
        self, batches: Iterable[Batch], take: Callable[[Batch, list[Activation]], T]
    ) -> Iterator[tuple[Batch, T]]:
        """Run batches, `at_once` at a time.

        Args:
            batches: At most `batch_size` faces each.
            take: Called with a batch and its activations, one per name, from several threads. The
                activations are overwritten once it returns.

        Yields:
            Each batch and the result of `take`, in order.
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
                    # One more than there are threads, so that none waits while this one decodes.
                    if len(waiting) > self.at_once:
                        first, done = waiting.popleft()
                        yield first, done.result()
                while waiting:
                    first, done = waiting.popleft()
                    yield first, done.result()
            finally:
                # If the caller stops early or a batch fails, those that wait need not run.
                pool.shutdown(wait=True, cancel_futures=True)
        self.seconds += sum(spent) / max(1, min(self.at_once, len(spent)))

    def run(self, pixels: NDArray[np.uint8], into: Sequence[Activation]) -> list[Activation]:
        """Compute the activations of a batch into existing memory.

        Args:
            pixels: uint8 [N, S, S, 3].
            into: Memory from `room`; overwritten.

        Returns:
            Views of `into`, one per name.
        """
        faces = len(pixels)
        pairs = zip(into, self.extents, strict=True)
        views = [activation.shaped(extent.shape(faces)) for activation, extent in pairs]
        binding = self.session.io_binding()
        binding.bind_cpu_input("faces", np.ascontiguousarray(pixels))
        for name, view in zip(self.names, views, strict=True):
            place = view.values.ctypes.data
            binding.bind_output(name, "cpu", 0, np.float32, view.values.shape, place)
        self.session.run_with_iobinding(binding)
        return views


def _make_outputs(model: ir.Model, names: Sequence[str]) -> None:
    values = computed_values(model.graph)
    for name in names:
        if values[name].dtype is None:
            raise LpxError(
                f"the type of tensor {name} is not known before the model runs",
                "calibration allocates memory for every tensor in advance",
                "create the model with `lpx export`, which states all types",
            )
        if not values[name].is_graph_output():
            model.graph.outputs.append(values[name])


class FaceRanges(NamedTuple):
    """Ranges of tensors on single faces.

    Attributes:
        faces: int64 [n], indices of the faces that can be read.
        lows: float32 [n, tensors], smallest value of each tensor on each face.
        highs: float32 [n, tensors], largest value.
    """

    faces: NDArray[np.int64]
    lows: Floats
    highs: Floats


def face_ranges(
    model: bytes, faces: FaceSet, size: int, progress: Progress | None = None
) -> FaceRanges:
    """Run a model over faces, and keep the smallest and largest value per face and tensor.

    Args:
        model: ONNX, input `faces` uint8 [N, S, S, 3].
        faces: Faces to choose from.
        size: S, pixels.
        progress: Called after each batch.
    """
    observed = ObservedModel(model)
    indices: list[int] = []
    lows: list[Floats] = []
    highs: list[Floats] = []
    skipped: list[Skipped] = []
    # If rows of a tensor are not faces, a face's values can be identified only in a batch of one.
    at_a_time = observed.batch_size if observed.row_per_face else 1
    batches = faces.stream(at_a_time, size, skipped)
    for batch, extremes in observed.run_all(batches, _extremes):
        indices += batch.indices.tolist()
        lows.append(extremes.lows)
        highs.append(extremes.highs)
        if progress is not None:
            progress(indices[-1] + 1, len(faces.faces))
    # Concatenation needs an array even if no face can be read.
    none = np.empty((0, len(observed.names)), np.float32)
    return FaceRanges(
        np.array(indices, np.int64),
        np.concatenate([none, *lows]),
        np.concatenate([none, *highs]),
    )


def _extremes(batch: Batch, activations: list[Activation]) -> FaceRanges:
    flat = [a.values.reshape(len(batch.indices), -1) for a in activations]
    return FaceRanges(
        batch.indices,
        np.stack([v.min(axis=1) for v in flat], 1),
        np.stack([v.max(axis=1) for v in flat], 1),
    )
