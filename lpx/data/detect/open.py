"""Open face detectors by name."""

from __future__ import annotations

from collections.abc import Callable

from lpx.arguments import check_choice
from lpx.data.detect.base import FaceDetector
from lpx.data.detect.blazeface import BlazeFace
from lpx.data.detect.centerface import CenterFace

DETECTORS: dict[str, Callable[[int], FaceDetector]] = {
    BlazeFace.name: BlazeFace,
    CenterFace.name: CenterFace,
}


def open_detector(name: str = BlazeFace.name, threads: int = 1) -> FaceDetector:
    """Load a face detector.

    Args:
        name: A key of `DETECTORS`.
        threads: Number of ONNX Runtime's threads for one image; 1 if several processes share the
            cores.

    Raises:
        InvalidArgumentError: The detector does not exist.
        LpxError: It is not installed, or its model was altered.
    """
    check_choice("detector", name, DETECTORS)
    return DETECTORS[name](threads)
