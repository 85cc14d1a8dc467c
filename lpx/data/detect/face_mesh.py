"""FaceMesh: finds 468 landmarks of one face.

Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs", 2019.
The region that the network sees is that of MediaPipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lpx.data.detect.base import Box, Points
from lpx.data.detect.session import open_session, read_model, shipped
from lpx.data.images.decode import Image

MODEL = "face_mesh.onnx"
SHA256 = "72e57412a656db099af1178353ab6deff39c63096ed7c29739ac540cc157e97a"
SIDE = 192
COUNT = 468
# Side of the region, as a multiple of the box's longer side.
MARGIN = 1.5

# From FaceMesh's documentation.
_MIN_PRESENCE = 0.5
# exp() overflows float32 from 88.8 on.
_LOGIT_LIMIT = 80.0


class Mesh(NamedTuple):
    """Landmarks of one face.

    Attributes:
        points: float32 [468, 2], (x, y) in pixels of the image.
        presence: Confidence that there is a face, in [0, 1]; below 0.5 there is none.
    """

    points: Points
    presence: float

    @property
    def is_face(self) -> bool:
        """Whether there is a face; if not, the landmarks may be anywhere."""
        return self.presence >= _MIN_PRESENCE


class FaceMesh:
    """Finds the landmarks of a face with a known bounding box.

    Args:
        threads: Number of ONNX Runtime's threads for one call.
        model: Model file; None for the one that ships with lpx.

    Raises:
        LpxError: The model file was altered, or cannot be read.
    """

    def __init__(self, threads: int = 1, *, model: Path | None = None) -> None:
        self.session = open_session(read_model(model or shipped(MODEL), SHA256), threads)

    def landmarks(self, image: Image, box: Box, points: Points | None = None) -> Mesh:
        """Find the landmarks of the face in `box`.

        Args:
            image: uint8 RGB [H, W, 3].
            box: (x0, y0, x1, y1) in pixels.
            points: Points of the detection, used to turn a tilted face upright before the network
                sees it; without them, landmarks of a tilted face are inaccurate.
        """
        matrix = region(box, points)
        # In OpenCV's coordinates, the middle of a pixel has whole numbers; here, its corner has.
        shifted = matrix.copy()
        shifted[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
        view = cv2.warpAffine(image, shifted, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
        tensor = view.astype(np.float32).transpose(2, 0, 1)[None] / np.float32(255)
        flat, logit = self.session.run(None, {"input_1": np.ascontiguousarray(tensor)})
        # The third coordinate is depth.
        in_region = flat.reshape(COUNT, 3)[:, :2]
        back = cv2.invertAffineTransform(matrix)
        in_image = in_region @ back[:, :2].T + back[:, 2]
        bounded = np.clip(float(logit.item()), -_LOGIT_LIMIT, _LOGIT_LIMIT)
        presence = 1 / (1 + np.exp(-bounded))
        return Mesh(np.asarray(in_image, np.float32), float(presence))


def region(box: Box, points: Points | None) -> NDArray[np.float64]:
    """Return the matrix from the image to FaceMesh's input, float64 [2, 3].

    The region is a square around the box's centre of `MARGIN` times its longer side, turned so that
    the eyes are level.
    """
    x0, y0, x1, y1 = box
    scale = SIDE / (MARGIN * max(x1 - x0, y1 - y0))
    across = np.array([1.0, 0.0])
    if points is not None:
        across = np.float64(points[1] - points[0])
    # Both eyes can be in the same place in a wrong detection.
    cos, sin = scale * across / max(float(np.hypot(*across)), 1e-9)
    turn = np.array([[cos, sin], [-sin, cos]])
    shift = SIDE / 2 - turn @ ((x0 + x1) / 2, (y0 + y1) / 2)
    return np.column_stack([turn, shift])
