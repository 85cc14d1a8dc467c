"""Score a face set with several engines in one pass over the pixels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.pixels import PixelPlan, facts_of, note_pixels, pixels_of
from lpx.bench.parity.score_store import BATCH, Scores, ScoreStore, Stored, next_row
from lpx.data.face_sets.face_set import Batch, FaceSet, Skipped
from lpx.data.images.read_ahead import Resize
from lpx.engines.base import Engine, Prediction
from lpx.errors import LpxError
from lpx.reporter import Progress

# Half precision may round a mean of probabilities to a little outside [0, 1].
ROUNDING = 1e-3


@dataclass(frozen=True)
class Failure:
    """An engine that could not be measured.

    Attributes:
        name: Name of the engine.
        during: "loading", "scoring", "timing", "measuring energy" or "streams".
        reason: Its error, with the face if it was one.
    """

    name: str
    during: str
    reason: str


@dataclass(frozen=True)
class Scored:
    """Predictions of every engine for the faces that could be read.

    Attributes:
        indices: int64 [N], indices of the faces in the set.
        labels: int64 [N], 1 = fake.
        predictions: By engine name, in the order of `indices`; for pipelines' pixels also by
            `lpx.bench.parity.pixels.pixels_of`.
        pixel_notes: What was noted of pipelines' pixels, by the pipeline's name, in that order.
        skipped: Faces that could not be read.
        failed: Engines that failed; they are not in `predictions`.
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    predictions: dict[str, Prediction]
    skipped: tuple[Skipped, ...]
    failed: tuple[Failure, ...] = ()
    pixel_notes: dict[str, Prediction] = field(default_factory=dict)


def score(
    engines: Mapping[str, Engine],
    faces: FaceSet,
    size: int,
    progress: Progress | None = None,
    *,
    needed: Collection[str] | None = None,
    store: ScoreStore | None = None,
    known: Mapping[str, Prediction] | None = None,
    pixels: PixelPlan | None = None,
) -> Scored:
    """Decode each face once, and score it with every engine.

    Args:
        engines: By name.
        faces: Labelled faces.
        size: Side of a face, pixels.
        progress: Receives the number of faces scored, and their total.
        needed: Engines whose errors are raised. Any other that fails, or returns NaN, is left out
            from then on, and noted. None needs all.
        store: Store of the scores computed so far; what it holds is not scored again.
        known: Predictions for the whole set that no engine has to compute, by name. They come first
            in the result.
        pixels: Pipelines whose pixels some of the engines score too.

    Raises:
        LpxError: A face has no label, a class has fewer than two faces, no face can be read, or a
            needed engine returns NaN (engine and face named).
    """
    labels = faces.labels()
    # Before scoring, which may take hours: a set with one class gives no verdict.
    check_labels(labels, faces)
    tasks = _tasks(engines, pixels, needed)
    parts: dict[str, list[Stored]] = {name: [] for name in tasks}
    skipped: list[Skipped] = []
    if store:
        parts = {name: store.read(name) for name in tasks}
        skipped = store.skipped()
    others = _others(pixels)
    run = _Run(tasks, faces, size, others, progress, store, range(len(faces.faces)))
    done = {name: next_row(batches) for name, batches in parts.items()}
    failed = run.score_rest(done, parts, skipped)
    lost = {failure.name for failure in failed}
    running = [name for name in engines if name not in lost]
    batches: list[Stored] = []
    if running:
        batches = parts[running[0]]
    if failed and not running:
        raise LpxError(
            f"no engine can score the faces of {faces.name}",
            "; ".join(f"{one.name}: {one.reason}" for one in failed if one.name in engines),
            "build the engines again",
        )
    # A face at which a bench was interrupted is noted twice.
    skipped = list(dict.fromkeys(skipped))
    if not batches:
        raise LpxError(
            f"no face of {faces.name} can be read",
            f"{skipped[0].name}: {skipped[0].reason}" if skipped else "the set is empty",
            "use another data set",
            code="not-found",
        )
    if progress is not None:
        # The last faces may have been unreadable: without this the bar would not reach its end.
        progress(len(faces.faces), len(faces.faces))
    order = np.concatenate([indices for indices, _ in batches])
    # Again, as unreadable faces may have been all those of a class.
    check_labels(labels[order], faces, skipped)
    predictions: dict[str, Prediction] = {}
    for name, whole in (known or {}).items():
        predictions[name] = Prediction(whole.score[order], whole.patch_map[order])
    for name, task in tasks.items():
        if task.engine and lost.isdisjoint((name, task.engine)):
            predictions[name] = joined([prediction for _, prediction in parts[name]])
    notes: dict[str, Prediction] = {}
    for pipeline in others:
        notes[pipeline] = joined([note for _, note in parts[facts_of(pipeline)]])
    return Scored(order, labels[order], predictions, tuple(skipped), tuple(failed), notes)


def score_rows(
    engines: Mapping[str, Engine],
    faces: FaceSet,
    size: int,
    rows: range,
    store: Scores,
    progress: Progress | None = None,
    *,
    needed: Collection[str] | None = None,
    pixels: PixelPlan | None = None,
) -> list[Failure]:
    """Score some faces of a set into a store: the unit of work of a bench.

    Args:
        engines: By name.
        faces: All faces; indices in the store are those of this set.
        size: Side of a face, pixels.
        rows: The faces to score; the first is at a multiple of `BATCH`.
        store: Store of the scores; what it holds is not scored again.
        progress: Receives the number of faces scored, and their total.
        needed: As for `score`.
        pixels: As for `score`.

    Returns:
        What failed; the store has the scores up to there.

    Raises:
        LpxError: As for `score`.
    """
    # Of the whole set, so that all shards of one without a verdict fail at once.
    check_labels(faces.labels(), faces)
    tasks = _tasks(engines, pixels, needed)
    done = {name: store.next_row(name) for name in tasks}
    parts: dict[str, list[Stored]] = {name: [] for name in tasks}
    run = _Run(tasks, faces, size, _others(pixels), progress, store, rows)
    return run.score_rest(done, parts, [])


def with_pixels(failed: Sequence[Failure], pixels: PixelPlan) -> list[Failure]:
    """Add that an engine which failed has not scored the pixels of pipelines either."""
    others = []
    for failure in failed:
        for pipeline in pixels.pipelines:
            others.append(replace(failure, name=pixels_of(failure.name, pipeline.name)))
    return [*failed, *others]


def _others(pixels: PixelPlan | None) -> dict[str, Resize]:
    """Return how other pipelines resize faces, by their names."""
    others: dict[str, Resize] = {}
    for pipeline in pixels.pipelines if pixels else ():
        others[pipeline.name] = pipeline.make
    return others


@dataclass(frozen=True)
class _Task:
    """What is computed for each batch.

    Attributes:
        run: Computes it.
        engine: Name of the engine that computes it; "" for notes on pixels.
        needed: Whether its errors are raised.
    """

    run: Callable[[Batch], Prediction]
    engine: str
    needed: bool


def _tasks(
    engines: Mapping[str, Engine], pixels: PixelPlan | None, needed: Collection[str] | None
) -> dict[str, _Task]:
    """Return what is computed, by the keys of its predictions; the engines on lpx's pixels first.

    Args:
        engines: By name.
        pixels: Pipelines whose pixels some of the engines score too.
        needed: Engines whose errors are raised; None for all.
    """
    tasks: dict[str, _Task] = {}
    for name, engine in engines.items():
        must = needed is None or name in needed
        tasks[name] = _Task(partial(_infer, engine), name, must)
    if pixels is None:
        return tasks
    for pipeline in pixels.pipelines:
        note = partial(note_pixels, pipeline=pipeline.name)
        tasks[facts_of(pipeline.name)] = _Task(note, "", needed=True)
        for name in pixels.engines:
            infer = partial(_infer, engines[name], pipeline=pipeline.name)
            tasks[pixels_of(name, pipeline.name)] = _Task(infer, name, needed is None)
    return tasks


def _infer(engine: Engine, batch: Batch, pipeline: str = "") -> Prediction:
    return engine.infer(batch.others[pipeline] if pipeline else batch.pixels)


@dataclass(frozen=True)
class _Run:
    """One pass over a face set.

    Attributes:
        tasks: What is computed, by name.
        faces: The faces.
        size: Side of a face, pixels.
        others: Other ways to resize them than lpx's, by name.
        progress: Receives the number of faces scored, and their total.
        store: Store of the scores computed so far.
        rows: The faces to score.
    """

    tasks: Mapping[str, _Task]
    faces: FaceSet
    size: int
    others: Mapping[str, Resize]
    progress: Progress | None
    store: Scores | None
    rows: range

    def score_rest(
        self, done: Mapping[str, int], parts: dict[str, list[Stored]], skipped: list[Skipped]
    ) -> list[Failure]:
        """Score the faces that have no scores yet, into the store, `parts` and `skipped`.

        Args:
            done: Index of the first face that each task has not scored, by name.
            parts: Receives batches, by name.
            skipped: Receives faces that cannot be read.

        Returns:
            Tasks that failed.
        """
        failed: list[Failure] = []
        faces, store = self.faces, self.store
        rows = self.rows
        start = max(rows.start, min(done.values(), default=0))
        # A batch begins at a multiple of BATCH here too: its faces, and so its scores, are the
        # same.
        rest = faces
        if (start, rows.stop) != (0, len(faces.faces)):
            rest = faces.take(np.arange(start, rows.stop))
        noted = len(skipped)
        for batch in rest.stream(BATCH, self.size, skipped, self.others):
            indices = batch.indices + start
            if store is not None:
                # Before the scores: a batch without its skipped faces would lose them at a restart.
                store.skip(skipped[noted:])
                noted = len(skipped)
            for name, task in self.tasks.items():
                lost = {failure.name for failure in failed}
                # Without its scores on lpx's pixels an engine's others say nothing.
                if done[name] > indices[0] or not lost.isdisjoint((name, task.engine)):
                    continue
                try:
                    prediction = task.run(batch)
                    if task.engine:
                        check_finite(name, prediction, faces, indices)
                except Exception as error:
                    if task.needed:
                        raise
                    failed.append(Failure(name, "scoring", _reason(error, faces, indices)))
                    continue
                parts[name].append((indices, prediction))
                if store is not None:
                    store.add(name, indices, prediction)
            if self.progress is not None:
                self.progress(int(indices[-1]) + 1 - rows.start, len(rows))
        return failed


def _reason(error: Exception, faces: FaceSet, indices: NDArray[np.int64]) -> str:
    if isinstance(error, LpxError):
        return in_one_line(error)
    first, last = (faces.faces[int(indices[at])].name for at in (0, -1))
    return f"{in_one_line(error)} (at faces {first} to {last})"


def in_one_line(error: Exception) -> str:
    """Write an engine's error in one line."""
    if isinstance(error, LpxError):
        return ": ".join(filter(None, (error.what, error.why)))
    lines = str(error).strip().splitlines()
    return ": ".join(filter(None, (type(error).__name__, lines[0] if lines else "")))


def check_finite(
    name: str, prediction: Prediction, faces: FaceSet, indices: NDArray[np.int64]
) -> None:
    """Refuse scores and maps that are NaN, infinite, or outside [0, 1].

    Raises:
        LpxError: The engine and the first such face.
    """
    likely = are_probabilities(prediction.score)
    if not likely.all():
        at = int(np.argmin(likely))
        raise LpxError(
            f"{name} gives the score {prediction.score[at]} to face "
            f"{faces.faces[int(indices[at])].name}",
            "scores must be finite probabilities; a NaN invalidates every metric",
            "check with `lpx predict --crops FACE --engine torch` whether the checkpoint does so "
            "too; if it does not, build the engine again, or in another precision",
        )
    likely = are_maps(prediction.patch_map)
    if not likely.all():
        at = int(np.argmin(likely))
        raise LpxError(
            f"{name} gives face {faces.faces[int(indices[at])].name} a map with values that are "
            "not probabilities",
            f"they range from {prediction.patch_map[at].min()} to {prediction.patch_map[at].max()}",
            "build the engine again, or in another precision",
        )


def are_probabilities(scores: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return a mask of the scores [N] in [0, 1], False for NaN."""
    # Every comparison with NaN is false: this form, and not its negation, finds it.
    return (scores >= -ROUNDING) & (scores <= 1 + ROUNDING)


def are_maps(maps: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return a mask of the maps [N, h, w] whose values are all probabilities."""
    return np.asarray(are_probabilities(maps).all(axis=tuple(range(1, maps.ndim))))


def joined(parts: list[Prediction]) -> Prediction:
    """Return the predictions of several batches as one."""
    return Prediction(
        np.concatenate([p.score for p in parts]), np.concatenate([p.patch_map for p in parts])
    )


def check_labels(
    labels: NDArray[np.int64], faces: FaceSet, skipped: Sequence[Skipped] = ()
) -> None:
    """Check that faces have the labels that an AUC with an interval needs.

    Raises:
        LpxError: A face has no label, or a class has fewer than two faces.
    """
    unread = ""
    if skipped:
        first = f"{skipped[0].name} ({skipped[0].reason})"
        unread = f"; {len(skipped)} others could not be read, the first: {first}"
    if (labels < 0).any():
        name = faces.faces[int(np.argmax(labels < 0))].name
        raise LpxError(
            f"{faces.name}: face {name} has no label",
            "AUC needs a label for every face, real or fake",
            "put the crops into real/ and fake/ below one folder, and use that folder",
        )
    fakes = int((labels == 1).sum())
    reals = len(labels) - fakes
    if not (reals and fakes):
        raise LpxError(
            f"{faces.name} holds {'real' if reals else 'fake'} faces only, {len(labels)} of them",
            f"AUC compares real with fake and is undefined with one class{unread}",
            "add faces of the other class: real ones in real/, fake ones in fake/",
        )
    if min(reals, fakes) < 2:
        raise LpxError(
            f"{faces.name} holds {reals} real and {fakes} fake faces",
            f"the interval of an AUC needs at least two of each{unread}",
            "add faces, or raise `limit`",
        )
