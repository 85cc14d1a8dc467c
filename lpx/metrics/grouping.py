"""From faces to videos, and from all fakes to one row per manipulation method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpx.errors import LpxError
from lpx.metrics.inputs import (
    checked_classes,
    checked_labels,
    checked_scores,
    group_codes,
)
from lpx.metrics.roc import auc, average_precision, equal_error_rate


@dataclass(frozen=True, eq=False)
class VideoScores:
    """One score per video, videos ascending by method and name.

    Attributes:
        scores: float64 [V], the mean of the video's face scores.
        labels: int64 [V], 1 = fake.
        methods: [V], the manipulation method, as it was given.
        videos: [V], the video's name, as it was given.
        faces: int64 [V], how many faces the mean is of.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    methods: NDArray[Any]
    videos: NDArray[Any]
    faces: NDArray[np.int64]


@dataclass(frozen=True)
class MethodMetrics:
    """How well the fakes of one manipulation method are told from all reals.

    Attributes:
        method: The manipulation method.
        fakes: How many fakes of this method (faces, or videos where videos were given).
        reals: How many reals, the same in every row.
        auc: Area under the ROC curve, in [0, 1].
        equal_error_rate: In [0, 1].
        average_precision: In [0, 1]; depends on the share of fakes.
    """

    method: str
    fakes: int
    reals: int
    auc: float
    equal_error_rate: float
    average_precision: float


def video_groups(methods: ArrayLike, videos: ArrayLike) -> NDArray[np.int64]:
    """Number the videos, two videos being the same where both method and name are.

    The name alone is not enough: FaceForensics++ names the fakes of all its methods alike.

    Args:
        methods: [N], each face's manipulation method.
        videos: [N], each face's video.

    Returns:
        int64 [N], from 0 up, ascending by method and then video; no number is left out.

    Raises:
        LpxError: Lengths that differ, or none at all.
    """
    faces = len(np.atleast_1d(np.asarray(methods)))
    _, method_codes = group_codes("methods", methods, faces)
    names, video_codes = group_codes("videos", videos, faces)
    _, codes = np.unique(method_codes * len(names) + video_codes, return_inverse=True)
    return codes.astype(np.int64)


def video_scores(
    scores: ArrayLike, labels: ArrayLike, methods: ArrayLike, videos: ArrayLike
) -> VideoScores:
    """Average the faces' scores over each video, a video being a (method, name) pair.

    Args:
        scores: [N], higher = more likely fake.
        labels: [N], 1 = fake, 0 = real.
        methods: [N], each face's manipulation method; any name for reals.
        videos: [N], each face's video.

    Returns:
        One score, label, method and name per video.

    Raises:
        LpxError: A video with faces of both labels, a label other than 0 and 1, a score that
            is not finite, or lengths that differ.
    """
    is_fake = checked_labels(labels)
    checked = checked_scores("scores", scores, len(is_fake))
    method_names, method_codes = group_codes("methods", methods, len(is_fake))
    video_names, video_codes = group_codes("videos", videos, len(is_fake))
    groups = video_groups(method_codes, video_codes)
    _, first = np.unique(groups, return_index=True)
    faces = np.bincount(groups)
    fakes = np.bincount(groups, weights=is_fake)
    mixed = (fakes > 0) & (fakes < faces)
    if mixed.any():
        face = first[np.argmax(mixed)]
        raise LpxError(
            f"video {video_names[video_codes[face]]!s} of method"
            f" {method_names[method_codes[face]]!s} has faces of both labels",
            "a video's score is compared with one label",
            "check the labels, or name the real and the fake part as two videos",
        )
    return VideoScores(
        scores=np.bincount(groups, weights=checked) / faces,
        labels=is_fake[first].astype(np.int64),
        methods=method_names[method_codes[first]],
        videos=video_names[video_codes[first]],
        faces=faces.astype(np.int64),
    )


def per_method(
    scores: ArrayLike, labels: ArrayLike, methods: ArrayLike
) -> tuple[MethodMetrics, ...]:
    """Measure each manipulation method's fakes against all reals.

    Takes faces, or the `scores`, `labels` and `methods` of `video_scores`.

    Args:
        scores: [N], higher = more likely fake.
        labels: [N], 1 = fake, 0 = real.
        methods: [N], the manipulation method; not read where the label is 0.

    Returns:
        One row per method that has fakes, ascending by name.

    Raises:
        LpxError: One class only, a label other than 0 and 1, a score that is not finite, or
            lengths that differ.
    """
    is_fake = checked_classes(labels)
    checked = checked_scores("scores", scores, len(is_fake))
    names, codes = group_codes("methods", methods, len(is_fake))
    rows = []
    for code in np.unique(codes[is_fake]):
        shown = ~is_fake | (codes == code)
        row_labels, row_scores = is_fake[shown], checked[shown]
        fakes = int(row_labels.sum())
        rows.append(
            MethodMetrics(
                method=str(names[code]),
                fakes=fakes,
                reals=len(row_labels) - fakes,
                auc=auc(row_labels, row_scores),
                equal_error_rate=equal_error_rate(row_labels, row_scores),
                average_precision=average_precision(row_labels, row_scores),
            )
        )
    return tuple(rows)
