"""Crop recipes: cut a face out of an image for a deepfake detector.

A model can only judge crops that are cut as in its training, so each recipe has a name that is
recorded in the model card and in the face set. Coordinates are continuous, as in `lpx.data.detect`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lpx.arguments import check_choice
from lpx.data.detect.base import Box, Detection, Points
from lpx.data.images.decode import Image
from lpx.errors import LpxError

# float64 [2, 3]: (x, y) of the image -> matrix @ (x, y, 1) of the crop.
Matrix = NDArray[np.float64]

ALIGNED_SIDE = 256
# Positions of the five points in DeepfakeBench's crop of 256 pixels. As in OpenCV, the middle of
# a pixel has whole numbers.
ALIGNED_TARGETS = (
    (96.870, 120.433),
    (158.825, 120.090),
    (128.044, 155.669),
    (102.592, 191.939),
    (153.899, 191.656),
)

# FaceMesh's landmarks for dlib's points 37, 44, 30, 49 and 55, counted from 0: on the left and
# right upper eyelid, the tip of the nose, beside the left corner of the mouth on the upper lip
# and beside the right one on the lower lip.
ALIGNED_LANDMARKS = (160, 387, 4, 39, 405)
# Each is the landmark nearest to dlib's point by root mean square over the 204 faces of the Face
# Research Lab London Set: 2.9, 2.4, 2.7, 2.9 and 3.0 pixels on faces that are 134 pixels wide. The
# next best landmark is up to 1.5 times as far.

# Difference between continuous coordinates and OpenCV's.
_HALF_PIXEL = 0.5


@dataclass(frozen=True, eq=False)
class Crop:
    """A face cut out of an image.

    Attributes:
        pixels: uint8 RGB [h, w, 3].
        matrix: Maps the image's coordinates to the crop's.
    """

    pixels: Image
    matrix: Matrix

    def map_points(self, points: Points) -> Points:
        """Map points of the image to the crop's coordinates, float32 [P, 2]."""
        return np.asarray(points @ self.matrix[:, :2].T + self.matrix[:, 2], np.float32)


@dataclass(frozen=True)
class CropRecipe:
    """A rule for cutting out a face.

    Attributes:
        name: Name in model cards and face sets.
        needs_landmarks: Whether `cut` needs FaceMesh's landmarks.
        cut: Takes the image, the detection's box, and the landmarks or None.
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
        InvalidArgumentError: The recipe does not exist.
        LpxError: The face is outside the image.
        ValueError: The recipe needs landmarks and there are none.
    """
    known = find_recipe(recipe)
    if known.needs_landmarks and mesh is None:
        raise ValueError(f"crop recipe {recipe} needs landmarks")
    return known.cut(image, detection.box, mesh)


def find_recipe(name: str) -> CropRecipe:
    """Return the recipe with a name.

    Raises:
        InvalidArgumentError: There is none.
    """
    check_choice("crop", name, RECIPES)
    return RECIPES[name]


def square_of_box(image: Image, box: Box, mesh: Points | None = None) -> Crop:
    """Cut like FaceForensics++, "square-1.3", in the image's resolution.

    With the box (x0, y0, x1, y1) rounded to whole pixels and W, H the image's size:

        side   = floor(1.3 * max(x1 - x0, y1 - y0))
        left   = max(floor((x0 + x1) / 2) - floor(side / 2), 0)
        top    = max(floor((y0 + y1) / 2) - floor(side / 2), 0)
        side   = min(side, W - left, H - top)

    So a square that extends beyond the left or upper edge is moved into the image, and one that
    extends beyond the right or lower edge is made smaller. FaceForensics++ takes the box from
    dlib's frontal detector. Other detectors draw other boxes: on 68 studio faces, BlazeFace's was
    1.11 times as wide as dlib's (standard deviation 0.05) and had the same middle; CenterFace's
    was 1.27 times as wide (0.07), 6 % further up.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (round(value) for value in box)
    side = int(max(x1 - x0, y1 - y0) * 1.3)
    left = max((x0 + x1) // 2 - side // 2, 0)
    top = max((y0 + y1) // 2 - side // 2, 0)
    return _slice(image, left, top, min(side, width - left, height - top))


def square_of_landmarks(image: Image, box: Box, mesh: Points | None) -> Crop:
    """Cut a square around the landmarks, "square-1.75-landmarks", in the image's resolution.

    With the landmarks' bounding box (x0, y0, x1, y1), and W, H the image's size:

        side   = min(round(1.75 * max(x1 - x0, y1 - y0)), W, H)
        left   = round((x0 + x1 - side) / 2), moved into 0 .. W - side
        top    = round((y0 + y1 - side) / 2), moved into 0 .. H - side

    So a face near the border is off-centre but as large as any other, and no pixel is invented.
    """
    assert mesh is not None
    height, width = image.shape[:2]
    low, high = mesh.min(axis=0).astype(np.float64), mesh.max(axis=0).astype(np.float64)
    side = min(round(1.75 * float((high - low).max())), width, height)
    left, top = (round(float(value)) for value in (low + high - side) / 2)
    left, top = min(max(left, 0), width - side), min(max(top, 0), height - side)
    return _slice(image, left, top, side)


def aligned(image: Image, box: Box, mesh: Points | None) -> Crop:
    """Cut and align like DeepfakeBench, "aligned-1.3-256", 256 x 256 pixels.

    The similarity transform that brings five landmarks closest to `ALIGNED_TARGETS` (least
    squares), sampled bilinearly; pixels outside the image are black. DeepfakeBench takes the
    landmarks from dlib; here they are the nearest ones of FaceMesh, `ALIGNED_LANDMARKS`. On 68
    studio faces this made the face 1.6 % smaller (standard deviation 1.7 %), turned it by 0.7
    degrees (0.7) and moved it by 1.9 pixels of 256.
    """
    assert mesh is not None
    targets = np.array(ALIGNED_TARGETS) + _HALF_PIXEL
    matrix = similarity(mesh[list(ALIGNED_LANDMARKS)].astype(np.float64), targets)
    # cv2.warpAffine takes coordinates of pixel middles.
    at_middles = matrix.copy()
    at_middles[:, 2] += matrix[:, :2] @ (_HALF_PIXEL, _HALF_PIXEL) - _HALF_PIXEL
    size = (ALIGNED_SIDE, ALIGNED_SIDE)
    pixels = cv2.warpAffine(image, at_middles, size, flags=cv2.INTER_LINEAR)
    return Crop(np.asarray(pixels, np.uint8), matrix)


def similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> Matrix:
    """Fit the rotation, uniform scale and shift that bring points closest to others.

    Least squares without reflection: Umeyama, "Least-squares estimation of transformation
    parameters between two point patterns", 1991.

    Args:
        source: float64 [P, 2], not all the same.
        target: float64 [P, 2].

    Returns:
        Maps `source` to `target`.
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred = source - source_mean
    covariance = (target - target_mean).T @ centred / len(source)
    left, singular, right = np.linalg.svd(covariance)
    # Without these signs, the best fit could be a reflection.
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    scale = (singular * signs).sum() / centred.var(axis=0).sum()
    turn = scale * (left * signs) @ right
    return np.column_stack([turn, target_mean - turn @ source_mean])


def _slice(image: Image, left: int, top: int, side: int) -> Crop:
    if side < 1 or left >= image.shape[1] or top >= image.shape[0]:
        raise LpxError(
            f"the face at x = {left}, y = {top} is outside the image",
            f"the image has {image.shape[1]} x {image.shape[0]} pixels",
            "check the bounding box",
        )
    pixels = np.ascontiguousarray(image[top : top + side, left : left + side])
    return Crop(pixels, np.array([[1.0, 0.0, -left], [0.0, 1.0, -top]]))


# Crop recipes by name.
RECIPES: dict[str, CropRecipe] = {
    "square-1.3": CropRecipe("square-1.3", needs_landmarks=False, cut=square_of_box),
    "aligned-1.3-256": CropRecipe("aligned-1.3-256", needs_landmarks=True, cut=aligned),
    "square-1.75-landmarks": CropRecipe(
        "square-1.75-landmarks", needs_landmarks=True, cut=square_of_landmarks
    ),
}
