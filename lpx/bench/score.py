"""Score a face set with several engines in one pass over the pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpx.data.face_set import FaceSet, Skipped
from lpx.engines.base import Engine, Prediction
from lpx.errors import LpxError

BATCH = 16

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Scored:
    """What every engine said of the faces that could be read.

    Attributes:
        indices: int64 [N], their places in the face set.
        labels: int64 [N], 1 = fake.
        predictions: Per engine, in the order of `indices`.
        skipped: Faces that could not be read.
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    predictions: dict[str, Prediction]
    skipped: tuple[Skipped, ...]


def score(
    engines: Mapping[str, Engine], faces: FaceSet, size: int, progress: Progress | None = None
) -> Scored:
    """Decode each face once, and give it to every engine.

    Raises:
        LpxError: A face has no label, a class has fewer than two faces, no face can be read, or an
            engine returns NaN (engine and face named).
    """
    labels = faces.labels()
    _check_labels(labels, faces)
    skipped: list[Skipped] = []
    indices: list[NDArray[np.int64]] = []
    parts: dict[str, list[Prediction]] = {name: [] for name in engines}
    for batch in faces.stream(BATCH, size, skipped):
        indices.append(batch.indices)
        for name, engine in engines.items():
            prediction = engine.infer(batch.pixels)
            check_finite(name, prediction, faces, batch.indices)
            parts[name].append(prediction)
        if progress is not None:
            progress(int(batch.indices[-1]) + 1, len(faces.faces))
    if not indices:
        raise LpxError(
            f"no face of {faces.name} can be read",
            f"{skipped[0].name}: {skipped[0].reason}" if skipped else "the set is empty",
            "name another data set",
        )
    if progress is not None:
        # The last faces may have been unreadable.
        progress(len(faces.faces), len(faces.faces))
    order = np.concatenate(indices)
    _check_labels(labels[order], faces, skipped)
    return Scored(order, labels[order], {n: _join(p) for n, p in parts.items()}, tuple(skipped))


def check_finite(
    name: str, prediction: Prediction, faces: FaceSet, indices: NDArray[np.int64]
) -> None:
    """Refuse NaN and infinite scores.

    Raises:
        LpxError: The engine and the first such face.
    """
    finite = np.isfinite(prediction.score)
    if not finite.all():
        worst = faces.faces[int(indices[int(np.argmin(finite))])].name
        raise LpxError(
            f"{name} gives the score {prediction.score[int(np.argmin(finite))]} to face {worst}",
            "a score is a probability; one that is no number makes every figure meaningless",
            "see with `lpx predict FACE --engine torch` whether the checkpoint does so too; if it "
            "does not, build the engine again, or in another precision",
        )


def _join(parts: list[Prediction]) -> Prediction:
    return Prediction(
        np.concatenate([p.score for p in parts]), np.concatenate([p.patch_map for p in parts])
    )


def _check_labels(
    labels: NDArray[np.int64], faces: FaceSet, skipped: Sequence[Skipped] = ()
) -> None:
    unread = f"; {len(skipped)} others could not be read, the first: " if skipped else ""
    if skipped:
        unread += f"{skipped[0].name} ({skipped[0].reason})"
    if (labels < 0).any():
        name = faces.faces[int(np.argmax(labels < 0))].name
        raise LpxError(
            f"{faces.name}: face {name} has no label",
            "AUC needs to know which faces are real and which fake",
            "put the crops into real/ and fake/ below one folder, and name that folder",
        )
    fakes = int((labels == 1).sum())
    reals = len(labels) - fakes
    if not (reals and fakes):
        raise LpxError(
            f"{faces.name} holds {'real' if reals else 'fake'} faces only, {len(labels)} of them",
            f"AUC compares real with fake and is undefined with one class{unread}",
            "add faces of the other class: real ones lie in real/, fake ones in fake/",
        )
    if min(reals, fakes) < 2:
        raise LpxError(
            f"{faces.name} holds {reals} real and {fakes} fake faces",
            f"the interval of an AUC needs two of each at the very least{unread}",
            "add faces, or raise --limit",
        )
