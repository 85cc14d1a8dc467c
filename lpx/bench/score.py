"""Score a face set with several engines in one pass over the pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        LpxError: A face has no label, only one class is there, no face can be read, or an engine
            returns NaN (engine and face named).
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
            if not np.isfinite(prediction.score).all():
                worst = batch.indices[int(np.argmin(np.isfinite(prediction.score)))]
                raise LpxError(
                    f"{name} returns NaN on face {faces.faces[worst].name}",
                    "an AUC with NaN scores means nothing",
                    "build the engine again; if it stays, look at the face with `lpx predict`",
                )
            parts[name].append(prediction)
        if progress is not None:
            progress(sum(map(len, indices)), len(faces.faces))
    if not indices:
        raise LpxError(
            f"no face of {faces.name} can be read",
            f"{skipped[0].name}: {skipped[0].reason}" if skipped else "the set is empty",
            "name another data set",
        )
    order = np.concatenate(indices)
    _check_labels(labels[order], faces)
    return Scored(order, labels[order], {n: _join(p) for n, p in parts.items()}, tuple(skipped))


def _join(parts: list[Prediction]) -> Prediction:
    return Prediction(
        np.concatenate([p.score for p in parts]), np.concatenate([p.patch_map for p in parts])
    )


def _check_labels(labels: NDArray[np.int64], faces: FaceSet) -> None:
    if (labels < 0).any():
        name = faces.faces[int(np.argmax(labels < 0))].name
        raise LpxError(
            f"{faces.name}: face {name} has no label",
            "AUC needs to know which faces are real and which fake",
            "put the crops into real/ and fake/",
        )
    found = {0: "real", 1: "fake"}
    classes = np.unique(labels)
    if len(classes) < 2:
        only = found[int(classes[0])] if len(classes) else "no"
        raise LpxError(
            f"{faces.name} holds {only} faces only",
            "AUC compares real with fake and is undefined with one class",
            "add faces of the other class, in real/ and fake/",
        )
