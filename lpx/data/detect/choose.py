"""Which of several faces is meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.data.detect.base import Detection

LARGEST = "largest"
MASK_OVERLAP = "mask-overlap"

Mask = NDArray[Any]
"""[H, W] like the image: which pixels were manipulated, or how much; bool, or any numbers >= 0."""


def rule_name(mask: Mask | None) -> str:
    """The name of the rule that `choose` goes by, for manifests."""
    return LARGEST if mask is None else MASK_OVERLAP


def choose(detections: Sequence[Detection], mask: Mask | None = None) -> Detection | None:
    """The face that a video is about.

    "largest": the box with the largest area. "mask-overlap", where there is a mask: the box with
    the highest intersection over union with the mask, each pixel counted by its value; the largest
    where no box touches the mask. Ties go to the more certain face.

    Args:
        detections: Faces of one image, the most certain first.
        mask: float or bool [H, W].

    Returns:
        One of them; None where there are none.
    """
    if not detections:
        return None
    if mask is not None:
        weights = np.asarray(mask, np.float64)
        weights = weights / max(float(weights.max(initial=0)), 1.0)
        shares = [_share(face, weights) for face in detections]
        if max(shares) > 0:
            return detections[int(np.argmax(shares))]
    return max(detections, key=lambda face: face.area)


def _share(face: Detection, weights: NDArray[np.float64]) -> float:
    height, width = weights.shape
    x0, x1 = (round(float(np.clip(x, 0, width))) for x in face.box[::2])
    y0, y1 = (round(float(np.clip(y, 0, height))) for y in face.box[1::2])
    shared = float(weights[y0:y1, x0:x1].sum())
    return shared / max(face.area + float(weights.sum()) - shared, 1e-9)
