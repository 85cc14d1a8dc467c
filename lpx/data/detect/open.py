"""Detectors by name."""

from __future__ import annotations

from collections.abc import Callable

from lpx.data.detect.base import FaceDetector
from lpx.data.detect.blazeface import BlazeFace
from lpx.data.detect.centerface import CenterFace
from lpx.errors import LpxError

DETECTORS: dict[str, Callable[[int], FaceDetector]] = {
    BlazeFace.name: BlazeFace,
    CenterFace.name: CenterFace,
}


def open_detector(name: str = BlazeFace.name, threads: int = 1) -> FaceDetector:
    """Load a face detector.

    Args:
        name: A key of `DETECTORS`.
        threads: ONNX Runtime's, for one image; 1 where several processes share the cores.

    Raises:
        LpxError: No such detector, it is not installed, or its model was altered.
    """
    if name not in DETECTORS:
        raise LpxError(
            f"there is no face detector {name!r}",
            f"lpx knows {', '.join(DETECTORS)}",
            f"use {BlazeFace.name}, which ships with lpx",
        )
    return DETECTORS[name](threads)
