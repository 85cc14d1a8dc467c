"""What a face detector answers, and how several boxes of one face become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lpx.data.images.decode import Image

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels; x1 and y1 are past the last pixel. May reach out of the image."""

Points = NDArray[np.float32]
"""float32 [P, 2], (x, y) in pixels."""

Values = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Detection:
    """One face.

    Attributes:
        box: Where it is.
        score: The detector's confidence in [0, 1].
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


class FaceDetector(Protocol):
    """Finds faces. Owns an ONNX Runtime session; `detect` may be called from several threads."""

    name: str

    def detect(self, image: Image) -> tuple[Detection, ...]:
        """Find all faces in an image, uint8 RGB [H, W, 3]; the most certain first."""
        ...


def overlaps(box: Values, boxes: Values) -> Values:
    """Intersection over union of one box with each of several.

    Args:
        box: float32 [4], (x0, y0, x1, y1).
        boxes: float32 [N, 4].

    Returns:
        float32 [N] in [0, 1].
    """
    corner = np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.maximum(corner - np.maximum(box[:2], boxes[:, :2]), 0), axis=1)
    total = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - shared
    return np.asarray(shared / np.maximum(total, np.finfo(np.float32).tiny), np.float32)


def suppress(
    rows: Values, scores: Values, threshold: float, *, average: bool
) -> tuple[Values, Values]:
    """Non-maximum suppression: one row for each group of boxes that overlap.

    The box with the highest score leads a group: all those left that overlap it by more than
    `threshold`.

    Args:
        rows: float32 [N, 4 + K]: a box and whatever belongs to it.
        scores: float32 [N].
        threshold: Intersection over union.
        average: The row of a group is the mean of its rows, weighted by their scores (as in
            BlazeFace, whose boxes are steadier so), rather than its leader's.

    Returns:
        Rows and scores of the leaders, in falling order of score.
    """
    order = np.argsort(-scores, kind="stable")
    kept_rows, kept_scores = [], []
    while order.size:
        leader = order[0]
        joined = overlaps(rows[leader, :4], rows[order, :4]) > threshold
        joined[0] = True
        group = order[joined]
        row = np.average(rows[group], axis=0, weights=scores[group]) if average else rows[leader]
        kept_rows.append(row)
        kept_scores.append(scores[leader])
        order = order[~joined]
    shape = (len(kept_rows), rows.shape[1])
    return np.asarray(kept_rows, np.float32).reshape(shape), np.asarray(kept_scores, np.float32)
