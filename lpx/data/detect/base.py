"""The interface of face detectors, and non-maximum suppression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lpx.data.images.decode import Image

# (x0, y0, x1, y1) in pixels; x1 and y1 are past the last pixel. May extend beyond the image.
Box = tuple[float, float, float, float]

# float32 [P, 2], (x, y) in pixels.
Points = NDArray[np.float32]

Values = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Detection:
    """A detected face.

    Attributes:
        box: Bounding box.
        score: Confidence of the detector, in [0, 1].
        points: float32 [5, 2]: left eye, right eye, nose, left and right corner of the mouth, as
            the viewer sees them in an upright face.
    """

    box: Box
    score: float
    points: Points

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


class Candidates(NamedTuple):
    """Boxes that may be faces.

    Attributes:
        rows: float32 [N, 4 + K]: a box (x0, y0, x1, y1), and K / 2 points.
        scores: float32 [N] in [0, 1].
    """

    rows: Values
    scores: Values


class FaceDetector(Protocol):
    """Finds faces. Owns an ONNX Runtime session; `detect` may be called from several threads."""

    name: str

    def detect(self, image: Image) -> tuple[Detection, ...]:
        """Find all faces in an image, uint8 RGB [H, W, 3]; the most confident first."""
        ...


def overlaps(box: Values, boxes: Values) -> Values:
    """Compute the intersection over union of one box with each of several.

    Args:
        box: float32 [4], (x0, y0, x1, y1).
        boxes: float32 [N, 4].

    Returns:
        float32 [N] in [0, 1].
    """
    corner = np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.maximum(corner - np.maximum(box[:2], boxes[:, :2]), 0), axis=1)
    total = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - shared
    # Two boxes without area have a union of 0.
    return np.asarray(shared / np.maximum(total, np.finfo(np.float32).tiny), np.float32)


def suppress(candidates: Candidates, threshold: float, *, average: bool) -> Candidates:
    """Apply non-maximum suppression: keep one row of each group of overlapping boxes.

    The box with the highest score leads a group of all remaining boxes that overlap it by more than
    `threshold`.

    Args:
        candidates: Boxes and scores.
        threshold: Intersection over union.
        average: Return the mean of each group's rows, weighted by their scores, as BlazeFace does
            for steadier boxes, instead of the leader's row.

    Returns:
        Rows of the groups and scores of their leaders, by descending score.
    """
    rows, scores = candidates
    order = np.argsort(-scores, kind="stable")
    kept_rows, kept_scores = [], []
    while order.size:
        leader = order[0]
        joined = overlaps(rows[leader, :4], rows[order, :4]) > threshold
        # A box without area overlaps nothing, not even itself, and the loop would never end.
        joined[0] = True
        group = order[joined]
        row = rows[leader]
        if average:
            row = np.average(rows[group], axis=0, weights=scores[group])
        kept_rows.append(row)
        kept_scores.append(scores[leader])
        order = order[~joined]
    # The shape of an empty list would be [0].
    shape = (len(kept_rows), rows.shape[1])
    return Candidates(
        np.asarray(kept_rows, np.float32).reshape(shape), np.asarray(kept_scores, np.float32)
    )
