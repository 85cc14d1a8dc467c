"""Detect faces in an image, and their landmarks.

Coordinates are continuous, in pixels of the image: its left edge is x = 0, the middle of its first
pixel x = 0.5.
"""

from lpx.data.detect.base import Detection, FaceDetector
from lpx.data.detect.choose import LARGEST, MASK_OVERLAP, choose_face, rule_name
from lpx.data.detect.face_mesh import FaceMesh, Mesh
from lpx.data.detect.open import DETECTORS, open_detector

__all__ = [
    "DETECTORS",
    "LARGEST",
    "MASK_OVERLAP",
    "Detection",
    "FaceDetector",
    "FaceMesh",
    "Mesh",
    "choose_face",
    "open_detector",
    "rule_name",
]
