"""The float32 forward pass of calibration: every tensor that may be quantised is an output."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lpx.calibration.extents import extents
from lpx.calibration.ort_layout import leave_blocked, open_session
from lpx.data.face_sets.face_set import Batch
from lpx.errors import LpxError
from lpx.graph.model_io import parse, serialise
from lpx.graph.qdq.placement_dla import tensors_to_observe

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
        values: float32, mostly [N, channels, ...]; what memory holds is
            [N, channels / block, ..., block]. N need not be the number of faces.
        block: Channels that alternate in memory; 1 is ONNX's order.
    """

    values: NDArray[np.float32]
    block: int

    def shaped(self, shape: tuple[int, ...]) -> Activation:
        """The beginning of it in another shape, as a view."""
        return Activation(self.values.reshape(-1)[: math.prod(shape)].reshape(shape), self.block)


class ObservedModel:
    """Runs a model, and hands out what lies between its nodes.

    Statistics do not depend on the order of values. So a tensor is handed out as ONNX Runtime lays
    it out for itself, in blocks of channels: to bring it into ONNX's order takes as long as to
    count it.

    Several batches go through at a time, each on as few threads as can be: threads of one run wait
    for each other at every layer, and those of several runs do not.

    Args:
        model: ONNX, input `faces` uint8 [N, S, S, 3].

    Attributes:
        names: The tensors.
        extents: How large each is.
        at_once: Batches that go through at a time, as many as there is memory for.
        batch_size: Faces of each.
        seconds: Time that `run_all` took, were batches there at once: without that of decoding.

    Raises:
        LpxError: No tensor of the model may be quantised, or the size of one does not grow evenly
            with the number of faces.
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
        _hand_out(graph, self.names)
        whole = serialise(graph)
        known = extents(whole, graph, self.names)
        self.extents = [known[name] for name in self.names]
        cores = os.cpu_count() or 1
        values = max(1, sum(extent.values(1) for extent in self.extents))
        self.batch_size = max(1, min(LARGEST_BATCH, BATCH_ROOM // values))
        self.at_once = max(1, min(cores, ROOM // (self.batch_size * values)))
        self.seconds = 0.0
        channels = dict(zip(self.names, self.channels, strict=True))
        own, blocks = leave_blocked(whole, channels)
        self._blocks = [blocks.get(name, 1) for name in self.names]
        threads = max(1, cores // self.at_once)
        self.session = open_session(own, threads=threads, optimise=False)
        # Kept from one pass to the next: memory would grow while threads come and go.
        self._rooms: SimpleQueue[list[Activation]] = SimpleQueue()
        for _ in range(self.at_once):
            self._rooms.put(self.room())

    @property
    def channels(self) -> list[int]:
        """How many channels each tensor has, which are its second dimension; 0 for none."""
        return [extent.channels for extent in self.extents]

    @property
    def row_per_face(self) -> bool:
        """Whether row n of every tensor is of face n."""
        return all(extent.row_per_face for extent in self.extents)

    def room(self) -> list[Activation]:
        """Memory for the activations of a batch."""
        return [
            Activation(np.zeros(extent.shape(self.batch_size), np.float32), block)
            for extent, block in zip(self.extents, self._blocks, strict=True)
        ]

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
        pairs = zip(into, self.extents, strict=True)
        views = [activation.shaped(extent.shape(faces)) for activation, extent in pairs]
        binding = self.session.io_binding()
        binding.bind_cpu_input("faces", np.ascontiguousarray(pixels))
        for name, view in zip(self.names, views, strict=True):
            place = view.values.ctypes.data
            binding.bind_output(name, "cpu", 0, np.float32, view.values.shape, place)
        self.session.run_with_iobinding(binding)
        return views


def _hand_out(model: ir.Model, names: Sequence[str]) -> None:
    """Make tensors outputs."""
    values = {v.name: v for node in model.graph for v in node.outputs}
    for name in names:
        if values[name].dtype is None:
            raise LpxError(
                f"the type of tensor {name} is not known before the model runs",
                "calibration keeps memory for every tensor, and an exported model states all types",
                "make the model with `lpx export`",
            )
        if not values[name].is_graph_output():
            model.graph.outputs.append(values[name])
