"""Choose one of several detected faces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.data.detect.base import Detection

LARGEST = "largest"
MASK_OVERLAP = "mask-overlap"

# [H, W] like the image: which pixels were manipulated, or how much; bool, or any numbers >= 0.
Mask = NDArray[Any]


def rule_name(mask: Mask | None) -> str:
    """Return the name of the rule that `choose_face` applies, for manifests."""
    return LARGEST if mask is None else MASK_OVERLAP


def choose_face(detections: Sequence[Detection], mask: Mask | None = None) -> Detection | None:
    """Choose the face that a video is about.

    Without a mask ("largest"), the box with the largest area. With one ("mask-overlap"), the box
    with the highest intersection over union with the mask, weighted by the mask's values; the
    largest box if none touches the mask. Ties go to the more confident detection.

    Args:
        detections: Faces of one image, the most confident first.
        mask: float or bool [H, W].

    Returns:
        One of the detections; None if there are none.
    """
    if not detections:
        return None
    if mask is not None:
        weights = np.asarray(mask, np.float64)
        weights = weights / max(float(weights.max(initial=0)), 1.0)
        shares = [_overlap(face, weights) for face in detections]
        if max(shares) > 0:
            return detections[int(np.argmax(shares))]
    return max(detections, key=lambda face: face.area)


def _overlap(face: Detection, weights: NDArray[np.float64]) -> float:
    height, width = weights.shape
    x0, y0, x1, y1 = face.box
    left, right = round(float(np.clip(x0, 0, width))), round(float(np.clip(x1, 0, width)))
    top, bottom = round(float(np.clip(y0, 0, height))), round(float(np.clip(y1, 0, height)))
    shared = float(weights[top:bottom, left:right].sum())
    # An empty mask and a box without area would divide by 0.
    return shared / max(face.area + float(weights.sum()) - shared, 1e-9)
