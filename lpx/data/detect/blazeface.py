"""BlazeFace, full range: faces up to some five metres from the camera.

Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs", 2019. Input,
anchors and thresholds as in MediaPipe's graph `face_detection_full_range`.
"""

from __future__ import annotations

import cv2
import numpy as np

from lpx.data.detect.base import Detection, Points, Values, suppress
from lpx.data.detect.session import open_session, read_model, shipped
from lpx.data.images.decode import Image

MODEL = "blazeface_full_range.onnx"
SHA256 = "1cfc34642ad943ce516b11fd8adf062a41f9e7f179794a01f03c962cdc130c48"
SIDE = 192
STRIDE = 4
MIN_SCORE = 0.5
SAME_FACE = 0.3
"""Boxes that overlap by more are one face's."""

MOUTH_WIDTH = 0.87
"""Between the corners of the mouth, in distances between the eyes: the mean over 102 neutral (0.81)
and 102 smiling (0.93) faces of the Face Research Lab London Set."""

_RAW_SCORE_LIMIT = 80.0
"""exp(-score) of more would overflow float32."""


class BlazeFace:
    """The detector that ships with lpx.

    It knows six points of a face: eyes, nose, the middle of the mouth and the ears. The corners of
    the mouth in a `Detection` are placed beside its middle along the line of the eyes, an estimate:
    against FaceMesh on 68 studio faces, eyes are off by 1.5 % of the face's width (root mean
    square), the nose by 4 %, the corners of the mouth by 5 %.

    It sees the whole image at 192 pixels, so a face must not be too small in it: of studio faces
    7 % as wide as the image's longer side 200 of 204 were found, at 5 % about two thirds, at 4 %
    one in six.

    Args:
        threads: ONNX Runtime's, for one call.
        min_score: A face with a lower score is none.
    """

    name = "blazeface"

    def __init__(self, threads: int = 1, min_score: float = MIN_SCORE) -> None:
        self.min_score = min_score
        self.session = open_session(read_model(shipped(MODEL), SHA256), threads)
        self.anchors = anchors()

    def detect(self, image: Image) -> tuple[Detection, ...]:
        """Find all faces in an image, uint8 RGB [H, W, 3]; the most certain first."""
        tensor, scale, left, top = letterbox(image, SIDE)
        raw, logits = self.session.run(None, {"input": tensor})
        rows, scores = decode(raw[0], logits[0, :, 0], self.anchors, self.min_score)
        rows, scores = suppress(rows, scores, SAME_FACE, average=True)
        # All columns are x and y in turn.
        rows = (rows.reshape(len(rows), 8, 2) - np.array([left, top], np.float32)) / np.float32(
            scale
        )
        return tuple(_detection(row, float(score)) for row, score in zip(rows, scores, strict=True))


def anchors() -> Values:
    """Centres of the cells that BlazeFace looks at, float32 [2304, 2], (x, y) in its input."""
    centres = np.arange(STRIDE / 2, SIDE, STRIDE, dtype=np.float32)
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)


def letterbox(image: Image, side: int) -> tuple[Values, float, float, float]:
    """Fit an image into a square without distortion, the rest black.

    Returns:
        float32 [1, 3, side, side] in [-1, 1]; the scale; the margins left and above in pixels of
        the square. A point (x, y) of the image lies at scale * (x, y) + (left, top).
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
    return np.ascontiguousarray(tensor), scale, float(left), float(top)


def decode(raw: Values, logits: Values, centres: Values, min_score: float) -> tuple[Values, Values]:
    """From the network's outputs to boxes and points.

    Args:
        raw: float32 [N, 16], all in pixels of the input: the box's centre relative to the anchor,
            its width and height, six points relative to the anchor.
        logits: float32 [N].
        centres: The anchors, float32 [N, 2].
        min_score: What scores less is left out, and so are boxes without an area.

    Returns:
        float32 [M, 16]: x0, y0, x1, y1, and the six points; float32 [M], scores.
    """
    scores = 1 / (1 + np.exp(-np.clip(logits, -_RAW_SCORE_LIMIT, _RAW_SCORE_LIMIT)))
    kept = (scores >= min_score) & (raw[:, 2:4] > 0).all(axis=1)
    pairs = raw[kept].reshape(-1, 8, 2)
    centre, half = pairs[:, 0] + centres[kept], pairs[:, 1] / 2
    points = pairs[:, 2:] + centres[kept, None]
    corners = np.stack([centre - half, centre + half], axis=1)
    rows = np.concatenate([corners, points], axis=1).reshape(-1, 16)
    return np.asarray(rows, np.float32), np.asarray(scores[kept], np.float32)


def _detection(row: Values, score: float) -> Detection:
    """Args: row: float32 [8, 2], two corners and six points in pixels of the image."""
    x0, y0, x1, y1 = (float(value) for value in row[:2].ravel())
    return Detection((x0, y0, x1, y1), score, five_points(row[2:6]))


def five_points(four: Points) -> Points:
    """Eyes, nose and the middle of the mouth -> eyes, nose and the corners of the mouth."""
    across = (four[1] - four[0]) * np.float32(MOUTH_WIDTH / 2)
    return np.stack([four[0], four[1], four[2], four[3] - across, four[3] + across])
