"""Boxes by which DeepStream cuts out faces as the detector saw them in training.

nvinfer cuts out exactly the box in `rect_params`, without a margin. `FaceBoxes` enlarges the boxes
of faces before the detector's nvinfer (or nvinferserver) and puts them back after it. The
arithmetic is in functions of their own, which need neither DeepStream nor any package.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

# Pixels of the frame that a face's box must cover in each direction: less shows no face.
_MIN_COVERED = 2


class Box(NamedTuple):
    """A box, in pixels of the frame that nvstreammux gives."""

    left: float
    top: float
    width: float
    height: float


# A box that nvinfer passes over, as it is smaller than `input-object-min-width`.
NOTHING = Box(0.0, 0.0, 0.0, 0.0)


def square_of_box(face: Box, frame_width: int, frame_height: int) -> Box | None:
    """Return the square of the crop recipe "square-1.3", or None if the face shows too little.

    With the box's edges rounded to whole pixels, its longer side times 1.3, rounded down, is the
    side of the square. A square that extends beyond the left or upper edge of the frame is moved
    into it; beyond the right or lower edge, it is made smaller.
    """
    edges = (face.left, face.top, face.left + face.width, face.top + face.height)
    # min() and max() may pass over a NaN, and neither NaN nor infinity can be rounded.
    if not all(map(math.isfinite, edges)):
        return None
    covered_x = min(edges[2], frame_width) - max(edges[0], 0)
    covered_y = min(edges[3], frame_height) - max(edges[1], 0)
    if min(covered_x, covered_y) < _MIN_COVERED:
        return None
    # Halves go to even numbers, as in `lpx predict`; face_boxes.h has rint() for it.
    x0, y0, x1, y1 = (round(value) for value in edges)
    side = int(max(x1 - x0, y1 - y0) * 1.3)
    left = max((x0 + x1) // 2 - side // 2, 0)
    top = max((y0 + y1) // 2 - side // 2, 0)
    side = min(side, frame_width - left, frame_height - top)
    if side < 1:
        return None
    return Box(left, top, side, side)


# Squares by crop recipe. Recipes that need landmarks are not among them.
RECIPES: dict[str, Callable[[Box, int, int], Box | None]] = {"square-1.3": square_of_box}


def on_even_pixels(square: Box, frame_width: int, frame_height: int) -> Box | None:
    """Return the square with even numbers, as nvinfer cuts it out; None if nothing is left.

    nvinfer rounds left and top up to even numbers, and width and height down. So does this, but
    where the result would extend beyond the frame, which nvinfer does not check, left or top are
    rounded down instead. Each number changes by one pixel at most.
    """
    side = int(square.width) // 2 * 2
    if side < 2:
        return None
    left = _even(int(square.left), side, frame_width)
    top = _even(int(square.top), side, frame_height)
    return Box(left, top, side, side)


def _even(start: int, side: int, end: int) -> int:
    even = start + start % 2
    # Only where `start` is odd, as the square was inside the frame: the result is never negative.
    if even + side > end:
        even -= 2
    return even


def crop_box(face: Box, frame_width: int, frame_height: int, recipe: str) -> Box | None:
    """Return the box to cut out for a face.

    Args:
        face: The box that a face detector found.
        frame_width: Width of the frame that the box is in, pixels.
        frame_height: Its height.
        recipe: A key of `RECIPES`.

    Returns:
        The box, with even numbers and inside the frame; None for a face that cannot be cut out.
    """
    square = RECIPES[recipe](face, frame_width, frame_height)
    if square is None:
        return None
    return on_even_pixels(square, frame_width, frame_height)


class FaceBoxes:
    """Enlarges the boxes of faces before inference, and puts them back after it.

    Args:
        recipe: A key of `RECIPES`; "crop" in card.json.
        kept: Number of frames whose boxes are remembered, in case frames are dropped between.
    """

    def __init__(self, recipe: str, kept: int = 256) -> None:
        if recipe not in RECIPES:
            raise ValueError(f"crop recipe {recipe} is not one of {', '.join(RECIPES)}")
        self.recipe = recipe
        self._kept = kept
        self._changed: OrderedDict[Hashable, list[tuple[Box, Box]]] = OrderedDict()

    def enlarge(
        self, key: Hashable, faces: Iterable[Any], frame_width: int, frame_height: int
    ) -> None:
        """Enlarge the boxes of a frame's faces.

        A face that cannot be cut out gets an empty box, which nvinfer passes over.

        Args:
            key: Identifies the frame, such as (source, frame number).
            faces: Objects with `rect_params`, as pyds and Service Maker have them.
            frame_width: Width of the frame that the boxes are in, pixels.
            frame_height: Its height.
        """
        changed = []
        for face in faces:
            found = _box_of(face)
            box = crop_box(found, frame_width, frame_height, self.recipe) or NOTHING
            _set_box(face, box)
            changed.append((found, box))
        self._changed[key] = changed
        # The oldest frames go first: one that was dropped on the way never comes back for its
        # boxes.
        while len(self._changed) > self._kept:
            self._changed.popitem(last=False)

    def restore(self, key: Hashable, faces: Iterable[Any]) -> None:
        """Put the boxes back that `enlarge` changed, and leave boxes that others have changed.

        Args:
            key: As for `enlarge`.
            faces: The same objects, in the same order.
        """
        # Not strict, as nothing is known of a frame that `enlarge` has not seen or has forgotten.
        for face, (found, box) in zip(faces, self._changed.pop(key, []), strict=False):
            # The numbers of `box` are whole, and so survive a `rect_params` of float32 without
            # rounding.
            if _box_of(face) == box:
                _set_box(face, found)


def _box_of(face: Any) -> Box:
    rect = face.rect_params
    return Box(rect.left, rect.top, rect.width, rect.height)


def _set_box(face: Any, box: Box) -> None:
    rect = face.rect_params
    rect.left, rect.top, rect.width, rect.height = (float(value) for value in box)
