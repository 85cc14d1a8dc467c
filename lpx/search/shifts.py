"""Shifts of every face's score by each piece of a quantised graph, alone.

The float graph runs once per face, with the tensors where pieces begin as outputs. Each piece then
runs with all that lies behind it, on these tensors: what lies before it is not computed again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lpx.bench.parity.score import check_finite, check_labels
from lpx.bench.parity.score_store import ScoreStore, next_row
from lpx.data.face_sets.face_set import Batch, FaceSet, Skipped
from lpx.engines.base import Prediction
from lpx.engines.onnxruntime.cpu import PROVIDERS, session_options
from lpx.engines.onnxruntime.failure import ort_errors
from lpx.errors import LpxError
from lpx.graph.layers import read_named, with_outputs
from lpx.graph.resume import fed_tensor, logit_tensor
from lpx.reporter import Progress
from lpx.search.pieces import Piece
from lpx.search.subject import Subject

FLOAT = "float"
"""Name of the float graph among the stored scores."""

# Tensors of a chunk of faces, and graphs that stay loaded, bytes.
_TENSOR_BYTES = 192 << 20
_GRAPH_BYTES = 192 << 20
BATCH = 8
# Scores closer to 0 or 1 than this have no logit in float32.
_EDGE = 2.0**-24

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Shifts:
    """Scores of the float graph, and what each piece adds to them.

    Attributes:
        indices: int64 [N], indices of the faces in their set.
        labels: int64 [N], 1 = fake.
        logits: float64 [N], logit of the float graph's score.
        by_piece: Shift of the logits by each piece, float64 [N], by name.
        map_errors: Mean |difference| of a patch's score by each piece, by name.
        skipped: Faces that could not be read.
        forward_seconds: Time of the float graph on these faces, s; 0 if its scores were stored.
        seconds: Time of everything else on faces that were not stored, s, without decoding.
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    logits: NDArray[np.float64]
    by_piece: Mapping[str, NDArray[np.float64]]
    map_errors: Mapping[str, float]
    skipped: tuple[Skipped, ...]
    forward_seconds: float
    seconds: float


def measure_shifts(
    subject: Subject,
    pieces: Sequence[Piece],
    faces: FaceSet,
    size: int,
    store: ScoreStore,
    progress: Progress | None = None,
) -> Shifts:
    """Measure the shifts of all faces by pieces, or read those that are stored.

    Args:
        subject: The model.
        pieces: Pieces of it.
        faces: Labelled faces.
        size: Side of a face, pixels.
        store: Receives scores as they come, named `FLOAT` and after the pieces.
        progress: Receives the number of faces done, and their total.

    Raises:
        LpxError: No face can be read, the float graph gives a NaN, or the disk is full.
    """
    run = _Run(subject, pieces, size)
    names = [FLOAT, *(piece.name for piece in pieces)]
    stored = {name: store.read(name) for name in names}
    known = {name: next_row(parts) for name, parts in stored.items()}
    skipped = store.skipped()
    start = min(known.values())
    total = len(faces.faces)
    for chunk in run.chunks(faces, start, skipped):
        end = int(chunk[-1][0][-1]) + 1
        run.score(chunk, known, store, faces)
        if progress is not None:
            progress(end, total)
    store.skip(skipped[len(store.skipped()) :])
    if progress is not None:
        progress(total, total)
    return _result({name: store.read(name) for name in names}, faces, skipped, run)


class _Run:
    """Sessions of the float graph and of the pieces, and the time that they take."""

    def __init__(self, subject: Subject, pieces: Sequence[Piece], size: int) -> None:
        self.size = size
        self.forward_seconds = 0.0
        self.seconds = 0.0
        graph = read_named(subject.data, "the exported model")
        logit = logit_tensor(graph)
        self.outputs = ("score" if logit is None else logit, "patch_map")
        self._from_score = logit is None
        started = time.perf_counter()
        self._graphs = {p.name: subject.behind(p, self.outputs) for p in pieces}
        self._sessions = _Sessions(self._graphs)
        self.seconds += time.perf_counter() - started
        fed: dict[str, None] = {}
        for data in self._graphs.values():
            for value in read_named(data, "a piece").graph.inputs:
                fed[fed_tensor(str(value.name))] = None
        self._exposed = [name for name in fed if name]
        names = [*self._exposed, *self.outputs]
        self._float = _open(with_outputs(subject.data, "the exported model", names))

    def chunks(
        self, faces: FaceSet, start: int, skipped: list[Skipped]
    ) -> Iterator[list[tuple[NDArray[np.int64], Arrays]]]:
        """Yield indices and tensors of batches, several at a time as memory allows."""
        rest = faces if start == 0 else faces.take(np.arange(start, len(faces.faces)))
        held: list[tuple[NDArray[np.int64], Arrays]] = []
        size = 0
        for batch in rest.stream(BATCH, self.size, skipped):
            tensors = self._forward(batch)
            held.append((batch.indices + start, tensors))
            size += sum(array.nbytes for array in tensors.values())
            if size >= _TENSOR_BYTES:
                yield held
                held, size = [], 0
        if held:
            yield held

    def _forward(self, batch: Batch) -> Arrays:
        names = [*self._exposed, *self.outputs]
        started = time.perf_counter()
        with ort_errors("ONNX Runtime failed on the float model", "export it again"):
            outputs = self._float.run(names, {"faces": batch.pixels})
        self.forward_seconds += time.perf_counter() - started
        return {"faces": batch.pixels, **dict(zip(names, outputs, strict=True))}

    def score(
        self,
        chunk: Sequence[tuple[NDArray[np.int64], Arrays]],
        known: Mapping[str, int],
        store: ScoreStore,
        faces: FaceSet,
    ) -> None:
        """Score a chunk with all pieces that have not scored it, into the store."""
        for indices, tensors in chunk:
            if known[FLOAT] <= indices[0]:
                prediction = self._prediction(tensors[self.outputs[0]], tensors["patch_map"])
                if not np.isfinite(prediction.score).all():
                    # Names the face; a logit may be infinite where the score is 1.
                    check_finite("the float model", prediction, faces, indices)
                store.add(FLOAT, indices, prediction)
        # Pieces outside, batches inside: a graph that does not stay loaded is loaded once.
        for name in self._graphs:
            for indices, tensors in chunk:
                if known[name] > indices[0]:
                    continue
                started = time.perf_counter()
                session = self._sessions.get(name)
                feeds = {}
                for value in session.get_inputs():
                    feeds[value.name] = tensors[fed_tensor(value.name) or value.name]
                with ort_errors(f"ONNX Runtime failed on {name}", "report this with the model"):
                    logit, patch_map = session.run(self.outputs, feeds)
                self.seconds += time.perf_counter() - started
                # The map is kept as one number per face: its mean error.
                error = np.abs(patch_map - tensors["patch_map"]).mean(axis=(1, 2))
                prediction = self._prediction(logit, error.reshape(-1, 1, 1))
                store.add(name, indices, prediction)

    def _prediction(self, output: NDArray[Any], patch_map: NDArray[Any]) -> Prediction:
        flat = output.reshape(len(patch_map)).astype(np.float64)
        if self._from_score:
            flat = logit_of(flat)
        return Prediction(flat.astype(np.float32), patch_map.astype(np.float32))


def logit_of(score: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) of scores, float64; those at 0 and 1 are as close as float32 gets."""
    p = np.clip(score.astype(np.float64), _EDGE, 1 - _EDGE)
    return np.asarray(np.log(p) - np.log1p(-p))


class _Sessions:
    """Sessions of graphs, of which those that were used last stay loaded."""

    def __init__(self, graphs: Mapping[str, bytes]) -> None:
        self._graphs = graphs
        self._loaded: OrderedDict[str, onnxruntime.InferenceSession] = OrderedDict()

    def get(self, name: str) -> onnxruntime.InferenceSession:
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return self._loaded[name]
        # Two copies of the weights: the model's, and that in the layout of the kernels.
        size = 2 * len(self._graphs[name])
        while self._loaded and size + self._size() > _GRAPH_BYTES:
            self._loaded.popitem(last=False)
        self._loaded[name] = _open(self._graphs[name])
        return self._loaded[name]

    def _size(self) -> int:
        return sum(2 * len(self._graphs[name]) for name in self._loaded)


def _open(data: bytes) -> onnxruntime.InferenceSession:
    options = session_options(vnni=None)
    # Many sessions take turns: none may keep memory or threads busy that the next one needs.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with ort_errors("ONNX Runtime cannot load a part of the model", "report this with the model"):
        return onnxruntime.InferenceSession(data, options, providers=PROVIDERS)


def _result(
    stored: Mapping[str, list[tuple[NDArray[np.int64], Prediction]]],
    faces: FaceSet,
    skipped: Sequence[Skipped],
    run: _Run,
) -> Shifts:
    if not stored[FLOAT]:
        reason = f"{skipped[0].name}: {skipped[0].reason}" if skipped else "the set is empty"
        raise LpxError(
            f"no face of {faces.name} can be read", reason, "use another set", code="not-found"
        )
    indices = np.concatenate([rows for rows, _ in stored[FLOAT]])
    logits = _values(stored[FLOAT])
    by_piece, map_errors = {}, {}
    for name, parts in stored.items():
        if name != FLOAT:
            by_piece[name] = _values(parts) - logits
            maps = np.concatenate([prediction.patch_map for _, prediction in parts])
            map_errors[name] = float(maps.mean())
    labels = faces.labels()[indices]
    check_labels(labels, faces, skipped)
    return Shifts(
        indices,
        labels,
        logits,
        by_piece,
        map_errors,
        tuple(dict.fromkeys(skipped)),
        run.forward_seconds,
        run.seconds,
    )


def _values(parts: Sequence[tuple[NDArray[np.int64], Prediction]]) -> NDArray[np.float64]:
    return np.concatenate([prediction.score for _, prediction in parts]).astype(np.float64)
