"""BlazeFace, full range: detects faces up to about five metres from the camera.

Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs", 2019. Input,
anchors and thresholds as in MediaPipe's graph `face_detection_full_range`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lpx.data.detect.base import Candidates, Detection, Points, Values, suppress
from lpx.data.detect.session import open_session, read_model, shipped
from lpx.data.images.decode import Image

MODEL = "blazeface_full_range.onnx"
SHA256 = "1cfc34642ad943ce516b11fd8adf062a41f9e7f179794a01f03c962cdc130c48"
SIDE = 192
STRIDE = 4
MIN_SCORE = 0.5
# Intersection over union above which two boxes show the same face.
SAME_FACE = 0.3

# Distance between the corners of the mouth, as a multiple of the distance between the eyes: mean
# of 102 neutral (0.81) and 102 smiling (0.93) faces of the Face Research Lab London Set.
MOUTH_WIDTH = 0.87

# exp(-score) overflows float32 if the score is below -88.7.
_RAW_SCORE_LIMIT = 80.0


class Letterbox(NamedTuple):
    """An image fitted into a square.

    Attributes:
        tensor: float32 [1, 3, side, side] in [-1, 1].
        scale: Pixels of the square per pixel of the image.
        left: Margin on the left, pixels of the square.
        top: Margin at the top, pixels of the square.
    """

    tensor: Values
    scale: float
    left: float
    top: float


class BlazeFace:
    """The detector that ships with lpx.

    It locates six points of a face: eyes, nose, the middle of the mouth and the ears. The corners
    of the mouth in a `Detection` are estimated from its middle, along the line of the eyes.
    Compared with FaceMesh on 68 studio faces, eyes are off by 1.5 % of the face's width (root mean
    square), the nose by 4 %, the corners of the mouth by 5 %.

    It sees the whole image at 192 pixels, so small faces are missed: 200 of 204 studio faces were
    found at a width of 7 % of the image's longer side, about two thirds at 5 %, one in six at 4 %.

    Args:
        threads: Number of ONNX Runtime's threads for one call.
        min_score: Lowest score of a face.
        model: Model file; None for the one that ships with lpx.

    Raises:
        LpxError: The model file was altered, or cannot be read.
    """

    name = "blazeface"

    def __init__(
        self, threads: int = 1, min_score: float = MIN_SCORE, *, model: Path | None = None
    ) -> None:
        self.min_score = min_score
        self.session = open_session(read_model(model or shipped(MODEL), SHA256), threads)
        self.anchors = anchors()

    def detect(self, image: Image) -> tuple[Detection, ...]:
        """Find all faces in an image, uint8 RGB [H, W, 3]; the most confident first."""
        fitted = letterbox(image, SIDE)
        raw, logits = self.session.run(None, {"input": fitted.tensor})
        candidates = decode(raw[0], logits[0, :, 0], self.anchors, self.min_score)
        rows, scores = suppress(candidates, SAME_FACE, average=True)
        # Columns alternate between x and y.
        points = rows.reshape(len(rows), 8, 2) - np.array([fitted.left, fitted.top], np.float32)
        points /= np.float32(fitted.scale)
        return tuple(map(_detection, points, scores.tolist()))


def anchors() -> Values:
    """Return the centres of BlazeFace's cells, float32 [2304, 2], (x, y) in pixels of its input."""
    centres = np.arange(STRIDE / 2, SIDE, STRIDE, dtype=np.float32)
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)


def letterbox(image: Image, side: int) -> Letterbox:
    """Fit an image into a square without distortion, the rest black.

    Args:
        image: uint8 RGB [H, W, 3].
        side: Side of the square, pixels.

    Returns:
        The square. A point (x, y) of the image is at scale * (x, y) + (left, top).
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    fitted_width = max(round(width * scale), 1)
    fitted_height = max(round(height * scale), 1)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image, (fitted_width, fitted_height), interpolation=method)
    left, top = (side - fitted_width) // 2, (side - fitted_height) // 2
    square = np.zeros((side, side, 3), np.float32)
    square[top : top + fitted_height, left : left + fitted_width] = small
    tensor = (square / np.float32(127.5) - 1).transpose(2, 0, 1)[None]
    return Letterbox(np.ascontiguousarray(tensor), scale, float(left), float(top))


def decode(raw: Values, logits: Values, centres: Values, min_score: float) -> Candidates:
    """Convert the network's outputs to boxes and points.

    Args:
        raw: float32 [N, 16], all in pixels of the input: the box's centre relative to the anchor,
            its width and height, six points relative to the anchor.
        logits: float32 [N].
        centres: Anchors, float32 [N, 2].
        min_score: Lowest score of a face. Boxes without area are left out, too.

    Returns:
        Rows float32 [M, 16]: x0, y0, x1, y1, and the six points.
    """
    scores = 1 / (1 + np.exp(-np.clip(logits, -_RAW_SCORE_LIMIT, _RAW_SCORE_LIMIT)))
    kept = (scores >= min_score) & (raw[:, 2:4] > 0).all(axis=1)
    pairs = raw[kept].reshape(-1, 8, 2)
    centre, half = pairs[:, 0] + centres[kept], pairs[:, 1] / 2
    points = pairs[:, 2:] + centres[kept, None]
    corners = np.stack([centre - half, centre + half], axis=1)
    rows = np.concatenate([corners, points], axis=1).reshape(-1, 16)
    return Candidates(np.asarray(rows, np.float32), np.asarray(scores[kept], np.float32))


def _detection(row: Values, score: float) -> Detection:
    """Convert a row, float32 [8, 2]: two corners and six points in pixels of the image."""
    x0, y0, x1, y1 = row[:2].ravel().tolist()
    return Detection((x0, y0, x1, y1), score, five_points(row[2:6]))


def five_points(four: Points) -> Points:
    """Replace the middle of the mouth by its corners.

    Args:
        four: Eyes, nose and the middle of the mouth, float32 [4, 2].

    Returns:
        Eyes, nose and the corners of the mouth, float32 [5, 2].
    """
    across = (four[1] - four[0]) * np.float32(MOUTH_WIDTH / 2)
    return np.stack([four[0], four[1], four[2], four[3] - across, four[3] + across])
