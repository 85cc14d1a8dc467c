"""Crop recipes: from an image and a face in it to the picture that a detector of fakes takes.

A model judges crops cut as in its training only, so each recipe has a name that stands in the model
card and in the face set. Coordinates are continuous, as in `lpx.data.detect`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lpx.data.detect.base import Box, Detection, Points
from lpx.data.images.decode import Image
from lpx.errors import LpxError

Matrix = NDArray[np.float64]
"""float64 [2, 3]: (x, y) of the image -> matrix @ (x, y, 1) of the crop."""

ALIGNED_SIDE = 256
ALIGNED_TARGETS = (
    (96.870, 120.433),
    (158.825, 120.090),
    (128.044, 155.669),
    (102.592, 191.939),
    (153.899, 191.656),
)
"""Where DeepfakeBench puts the five points in a 256-pixel crop; there, as in OpenCV, a pixel's
middle is at whole numbers."""

ALIGNED_LANDMARKS = (160, 387, 4, 39, 405)
"""FaceMesh's landmarks for dlib's points 37, 44, 30, 49 and 55, counted from 0: on the left and
right upper eyelid, the tip of the nose, beside the left corner of the mouth on the upper lip and
beside the right one on the lower lip. The nearest landmark of each, by root mean square over the
204 faces of the Face Research Lab London Set: 2.9, 2.4, 2.7, 2.9 and 3.0 pixels on faces that are
134 pixels wide, where the next best is up to 1.5 times as far."""

_HALF_PIXEL = 0.5


@dataclass(frozen=True, eq=False)
class Crop:
    """A face cut out of an image.

    Attributes:
        pixels: uint8 RGB [h, w, 3].
        matrix: From the image's coordinates to the crop's.
    """

    pixels: Image
    matrix: Matrix

    def map_points(self, points: Points) -> Points:
        """Points of the image in the crop's coordinates, float32 [P, 2]."""
        return np.asarray(points @ self.matrix[:, :2].T + self.matrix[:, 2], np.float32)


@dataclass(frozen=True)
class CropRecipe:
    """How a face is cut out.

    Attributes:
        name: As in model cards and face sets.
        needs_landmarks: Whether `cut` needs FaceMesh's landmarks.
        cut: (image, detection's box, landmarks or None) -> crop.
    """

    name: str
    needs_landmarks: bool
    cut: Callable[[Image, Box, Points | None], Crop]


def crop(recipe: str, image: Image, detection: Detection, mesh: Points | None = None) -> Crop:
    """Cut a face out of an image.

    Args:
        recipe: A key of `RECIPES`.
        image: uint8 RGB [H, W, 3].
        detection: The face.
        mesh: FaceMesh's landmarks of it, float32 [468, 2]; recipes that do not need them ignore
            them.

    Raises:
        LpxError: There is no such recipe, or the face lies outside the image.
        ValueError: The recipe needs landmarks and there are none.
    """
    known = find_recipe(recipe)
    if known.needs_landmarks and mesh is None:
        raise ValueError(f"crop recipe {recipe} needs landmarks")
    return known.cut(image, detection.box, mesh)


def find_recipe(name: str) -> CropRecipe:
    """The recipe called `name`.

    Raises:
        LpxError: There is none.
    """
    if name not in RECIPES:
        raise LpxError(
            f"there is no crop recipe {name!r}",
            f"lpx knows {', '.join(RECIPES)}",
            "use the one that the model was trained on; its card names it",
        )
    return RECIPES[name]


def square_of_box(image: Image, box: Box, mesh: Points | None = None) -> Crop:
    """FaceForensics++'s own crop, "square-1.3", in the image's resolution.

    With the box (x0, y0, x1, y1) rounded to whole pixels and W, H the image's size:

        side   = floor(1.3 * max(x1 - x0, y1 - y0))
        left   = max(floor((x0 + x1) / 2) - floor(side / 2), 0)
        top    = max(floor((y0 + y1) / 2) - floor(side / 2), 0)
        side   = min(side, W - left, H - top)

    So a square that reaches out to the left or above moves into the image, and one that reaches out
    to the right or below gets smaller. The box there is dlib's frontal detector's. Others draw
    other boxes: on 68 studio faces, BlazeFace's was 1.11 times as wide as dlib's (standard
    deviation 0.05) and had the same middle; CenterFace's 1.27 times (0.07), 6 % further up.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (round(value) for value in box)
    side = int(max(x1 - x0, y1 - y0) * 1.3)
    left = max((x0 + x1) // 2 - side // 2, 0)
    top = max((y0 + y1) // 2 - side // 2, 0)
    return _slice(image, left, top, min(side, width - left, height - top))


def square_of_landmarks(image: Image, box: Box, mesh: Points | None) -> Crop:
    """A square around the landmarks, "square-1.75-landmarks", in the image's resolution.

    With the landmarks' bounding box (x0, y0, x1, y1), and W, H the image's size:

        side   = min(round(1.75 * max(x1 - x0, y1 - y0)), W, H)
        left   = round((x0 + x1 - side) / 2), moved into 0 .. W - side
        top    = round((y0 + y1 - side) / 2), moved into 0 .. H - side

    So a face near the border is not in the middle, but as large as any other, and every pixel is
    the image's own.
    """
    assert mesh is not None
    height, width = image.shape[:2]
    low, high = mesh.min(axis=0).astype(np.float64), mesh.max(axis=0).astype(np.float64)
    side = min(round(1.75 * float((high - low).max())), width, height)
    left, top = (round(float(value)) for value in (low + high - side) / 2)
    left, top = min(max(left, 0), width - side), min(max(top, 0), height - side)
    return _slice(image, left, top, side)


def aligned(image: Image, box: Box, mesh: Points | None) -> Crop:
    """DeepfakeBench's crop, "aligned-1.3-256", 256 x 256.

    The similarity transform that brings five landmarks nearest to `ALIGNED_TARGETS` in the sense of
    least squares, sampled bilinearly; what lies outside the image is black. DeepfakeBench takes the
    landmarks from dlib; here they are FaceMesh's nearest ones, `ALIGNED_LANDMARKS`. On 68 studio
    faces that made the face 1.6 % smaller (standard deviation 1.7 %), turned it by 0.7 degrees
    (0.7) and moved it by 1.9 pixels of 256.
    """
    assert mesh is not None
    targets = np.array(ALIGNED_TARGETS) + _HALF_PIXEL
    matrix = similarity(mesh[list(ALIGNED_LANDMARKS)].astype(np.float64), targets)
    at_middles = matrix.copy()
    at_middles[:, 2] += matrix[:, :2] @ (_HALF_PIXEL, _HALF_PIXEL) - _HALF_PIXEL
    size = (ALIGNED_SIDE, ALIGNED_SIDE)
    pixels = cv2.warpAffine(image, at_middles, size, flags=cv2.INTER_LINEAR)
    return Crop(np.asarray(pixels, np.uint8), matrix)


def similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> Matrix:
    """The rotation, uniform scale and shift that bring points nearest to others.

    Least squares without reflection: Umeyama, "Least-squares estimation of transformation
    parameters between two point patterns", 1991.

    Args:
        source: float64 [P, 2], not all the same.
        target: float64 [P, 2].
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred = source - source_mean
    covariance = (target - target_mean).T @ centred / len(source)
    left, singular, right = np.linalg.svd(covariance)
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    scale = (singular * signs).sum() / centred.var(axis=0).sum()
    turn = scale * (left * signs) @ right
    return np.column_stack([turn, target_mean - turn @ source_mean])


def _slice(image: Image, left: int, top: int, side: int) -> Crop:
    if side < 1 or left >= image.shape[1] or top >= image.shape[0]:
        raise LpxError(
            f"the face at x = {left}, y = {top} lies outside the image",
            f"the image has {image.shape[1]} x {image.shape[0]} pixels",
            "check where the box came from",
        )
    pixels = np.ascontiguousarray(image[top : top + side, left : left + side])
    return Crop(pixels, np.array([[1.0, 0.0, -left], [0.0, 1.0, -top]]))


RECIPES: dict[str, CropRecipe] = {
    recipe.name: recipe
    for recipe in (
        CropRecipe("square-1.3", False, square_of_box),
        CropRecipe("aligned-1.3-256", True, aligned),
        CropRecipe("square-1.75-landmarks", True, square_of_landmarks),
    )
}
