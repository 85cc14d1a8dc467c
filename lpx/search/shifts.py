"""Shifts of every face's score by each piece of a quantised graph, alone.

The float graph runs once per face, with the tensors where pieces begin as outputs. Each piece then
runs with all that lies behind it, on these tensors: what lies before it is not computed again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lpx.bench.parity.score import check_finite, check_labels
from lpx.bench.parity.score_store import ScoreStore, Stored
from lpx.data.face_sets.face_set import Batch, FaceSet, Skipped
from lpx.engines.base import Prediction
from lpx.engines.onnxruntime.failure import ort_errors
from lpx.errors import LpxError
from lpx.graph.layers import with_outputs
from lpx.graph.resume import fed_tensor, logit_tensor
from lpx.reporter import Progress
from lpx.search.pieces import Piece
from lpx.search.sessions import Sessions, open_session
from lpx.search.subject import Subject

FLOAT = "float"
"""Name of the float graph among the stored scores."""

BATCH = 4
# Tensors of a chunk of faces, bytes.
_TENSOR_BYTES = 160 << 20
# Scores closer to 0 or 1 than this have no logit in float32.
_EDGE = 2.0**-24

# Tensors by name, as ONNX Runtime holds them.
Tensors = dict[str, onnxruntime.OrtValue]


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
        seconds: Time of all graphs on faces that were not stored, s, without decoding.
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    logits: NDArray[np.float64]
    by_piece: Mapping[str, NDArray[np.float64]]
    map_errors: Mapping[str, float]
    skipped: tuple[Skipped, ...]
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
        LpxError: A face without a label, fewer than two faces of a class, no face that can be read,
            a score that is not finite (face named), or a full disk.
    """
    check_labels(faces.labels(), faces)
    names = [FLOAT, *(piece.name for piece in pieces)]
    known = {name: _next_row(store.read(name)) for name in names}
    skipped = store.skipped()
    start, total = min(known.values()), len(faces.faces)
    seconds = 0.0
    if start < total:
        run = _Run(subject, pieces, size)
        noted = len(skipped)
        for chunk in run.chunks(faces, start, skipped):
            # Before the scores: without them, faces that cannot be read would be lost at a restart.
            store.skip(skipped[noted:])
            noted = len(skipped)
            run.score(chunk, known, store, faces)
            if progress is not None:
                progress(int(chunk[-1].indices[-1]) + 1, total)
        seconds = run.seconds
    if progress is not None:
        progress(total, total)
    return _result({name: store.read(name) for name in names}, faces, skipped, seconds)


@dataclass(frozen=True)
class _Held:
    """Indices of a batch of faces, and the float graph's tensors of it."""

    indices: NDArray[np.int64]
    tensors: Tensors


class _Run:
    """Sessions of the float graph and of the pieces."""

    def __init__(self, subject: Subject, pieces: Sequence[Piece], size: int) -> None:
        self.size = size
        started = time.perf_counter()
        logit = logit_tensor(subject.graph)
        self._from_score = logit is None
        self.outputs = ("score" if logit is None else logit, "patch_map")
        parts = {piece.name: subject.behind(piece, self.outputs) for piece in pieces}
        self._graphs = {name: part.data for name, part in parts.items()}
        self._sessions = Sessions(self._graphs)
        fed: dict[str, None] = {}
        for part in parts.values():
            fed.update(dict.fromkeys(map(fed_tensor, part.inputs)))
        names = [*fed, *self.outputs, "score"]
        self._exposed = [name for name in dict.fromkeys(names) if name]
        whole = with_outputs(subject.data, "the exported model", self._exposed)
        self._float = open_session(whole, cores=0)
        self.seconds = time.perf_counter() - started

    def chunks(self, faces: FaceSet, start: int, skipped: list[Skipped]) -> Iterator[list[_Held]]:
        """Yield batches, several at a time as memory allows."""
        rest = faces if start == 0 else faces.take(np.arange(start, len(faces.faces)))
        held: list[_Held] = []
        size = 0
        for batch in rest.stream(BATCH, self.size, skipped):
            started = time.perf_counter()
            tensors = self._forward(batch)
            self.seconds += time.perf_counter() - started
            indices = batch.indices + start
            score = tensors["score"].numpy()
            patch_map = tensors["patch_map"].numpy()
            check_finite("the float model", Prediction(score, patch_map), faces, indices)
            held.append(_Held(indices, tensors))
            size += sum(_bytes(value) for value in tensors.values())
            if size >= _TENSOR_BYTES:
                yield held
                held, size = [], 0
        if held:
            yield held

    def _forward(self, batch: Batch) -> Tensors:
        pixels = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(batch.pixels))
        with ort_errors("ONNX Runtime failed on the float model", "export it again"):
            outputs = self._float.run_with_ort_values(self._exposed, {"faces": pixels})
        return {"faces": pixels, **dict(zip(self._exposed, outputs, strict=True))}

    def score(
        self, chunk: Sequence[_Held], known: Mapping[str, int], store: ScoreStore, faces: FaceSet
    ) -> None:
        """Score a chunk with the float graph and all pieces, into the store."""
        for held in chunk:
            if known[FLOAT] <= held.indices[0]:
                logit = held.tensors[self.outputs[0]].numpy()
                patch_map = held.tensors["patch_map"].numpy()
                store.add(FLOAT, held.indices, self._prediction(logit, patch_map))
        started = time.perf_counter()
        # A piece is one task: many small graphs use two cores better one each than one on both.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = pool.map(partial(self._score_piece, chunk, known), self._graphs)
            for name, predictions in zip(self._graphs, parts, strict=True):
                for indices, prediction in predictions:
                    if not np.isfinite(prediction.score).all():
                        raise _not_finite(name, faces, indices, prediction)
                    store.add(name, indices, prediction)
        self.seconds += time.perf_counter() - started

    def _score_piece(
        self, chunk: Sequence[_Held], known: Mapping[str, int], name: str
    ) -> list[Stored]:
        session = self._sessions.get(name)
        inputs = [value.name for value in session.get_inputs()]
        predictions = []
        for held in chunk:
            if known[name] > held.indices[0]:
                continue
            feeds = {one: held.tensors[fed_tensor(one) or one] for one in inputs}
            with ort_errors(f"ONNX Runtime failed on {name}", "please report this with the model"):
                outputs = session.run_with_ort_values(self.outputs, feeds)
            logit, patch_map = (value.numpy() for value in outputs)
            # Of the map one number per face is kept: its mean error.
            error = np.abs(patch_map - held.tensors["patch_map"].numpy()).mean(axis=(1, 2))
            predictions.append((held.indices, self._prediction(logit, error.reshape(-1, 1, 1))))
        return predictions

    def _prediction(self, output: NDArray[Any], patch_map: NDArray[Any]) -> Prediction:
        flat = output.reshape(len(patch_map)).astype(np.float64)
        if self._from_score:
            flat = logit_of(flat)
        return Prediction(flat.astype(np.float32), patch_map.astype(np.float32))


def logit_of(score: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) of scores, float64; those at 0 and 1 are as close as float32 gets."""
    p = np.clip(score.astype(np.float64), _EDGE, 1 - _EDGE)
    return np.asarray(np.log(p) - np.log1p(-p))


def _next_row(parts: Sequence[Stored]) -> int:
    """Return the index of the face at which the batch after these begins."""
    # Faces at the end of a batch may be unreadable, and so in none of its rows.
    return (int(parts[-1][0][-1]) // BATCH + 1) * BATCH if parts else 0


def _bytes(value: onnxruntime.OrtValue) -> int:
    return int(value.numpy().nbytes)


def _not_finite(
    name: str, faces: FaceSet, indices: NDArray[np.int64], prediction: Prediction
) -> LpxError:
    at = int(np.argmin(np.isfinite(prediction.score)))
    return LpxError(
        f"with {name} quantised, face {faces.faces[int(indices[at])].name} has the score "
        f"{prediction.score[at]}",
        "a range that is infinite or NaN, or weights that overflow, make such a score",
        "calibrate again",
    )


def _result(
    stored: Mapping[str, list[Stored]], faces: FaceSet, skipped: Sequence[Skipped], seconds: float
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
        indices, labels, logits, by_piece, map_errors, tuple(dict.fromkeys(skipped)), seconds
    )


def _values(parts: Sequence[Stored]) -> NDArray[np.float64]:
    return np.concatenate([prediction.score for _, prediction in parts]).astype(np.float64)
