"""Resize as other software does: nearest, bilinear, and bilinear with antialiasing.

All put the middles of pixels at whole numbers and a half: pixel i of the result is centred on
(i + 0.5) * input / output of the crop.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from lpx.data.images.decode import Image

# Pillow computes with weights of this many bits after the binary point.
_WEIGHT_BITS = 22
# Most values of a float64 block: 64 MiB.
_BLOCK_VALUES = 1 << 23


def even(image: Image) -> Image:
    """Drop the last row or column of an odd height or width.

    Args:
        image: uint8 [H, W, 3].

    Returns:
        uint8 [h, w, 3], even; a side of one pixel stays, as nothing would be left.
    """
    height, width = image.shape[:2]
    return image[: max(1, height - height % 2), : max(1, width - width % 2)]


def nearest(image: Image, size: int) -> Image:
    """Resize to a square by the pixel that contains each centre.

    Args:
        image: uint8 [H, W, 3].
        size: Side, pixels.
    """
    height, width = image.shape[:2]
    # In integers: (i + 0.5) * height / size, rounded down.
    middles = 2 * np.arange(size) + 1
    rows, columns = middles * height // (2 * size), middles * width // (2 * size)
    return np.asarray(image[rows][:, columns], np.uint8)


def bilinear(image: Image, size: int) -> Image:
    """Resize to a square by the four nearest pixels, without antialiasing.

    When shrinking by more than 2, pixels between the samples have no influence, and fine detail
    turns into noise.

    Args:
        image: uint8 [H, W, 3].
        size: Side, pixels.
    """
    resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def antialiased(image: Image, size: int) -> Image:
    """Resize to a square as Pillow's `resize(..., BILINEAR)` does: with antialiasing.

    The weights are a triangle as wide as two pixels of the result (of the crop, if enlarging). The
    width comes first, and is rounded to 8 bits before the height. So the pixels of a square crop
    are Pillow's; Pillow 13 may begin with the height of others, which changes some by one level.

    Args:
        image: uint8 [H, W, 3].
        size: Side, pixels.
    """
    height, width = image.shape[:2]
    narrowed = np.empty((size, height, 3), np.uint8)
    step = max(1, _BLOCK_VALUES // (3 * width))
    # By blocks of rows: a crop of 64 megapixels would take 1.5 GB as float64.
    for top in range(0, height, step):
        columns = image[top : top + step].transpose(1, 0, 2)
        narrowed[:, top : top + step] = _weighted(columns, size)
    return _weighted(narrowed.transpose(1, 0, 2), size)


def _weighted(image: Image, size: int) -> Image:
    """Resize the first axis of [H, W, 3]."""
    height, width, _ = image.shape
    lines = image.reshape(height, width * 3).astype(np.float64)
    sums = (_weights(height, size) @ lines) / (1 << _WEIGHT_BITS)
    rounded = np.clip(np.floor(sums + 0.5), 0, 255).astype(np.uint8)
    return rounded.reshape(size, width, 3)


@lru_cache(maxsize=16)
def _weights(length: int, size: int) -> NDArray[np.float64]:
    """Return the weight of each pixel of a line in each of the result, float64 [size, length].

    They are whole numbers, so that sums are exact in any order: a rounding that depends on the
    processor would give other pixels.
    """
    scale = length / size
    support = max(scale, 1.0)
    centres = (np.arange(size) + 0.5)[:, None] * scale
    pixels = np.arange(length)[None]
    first = np.maximum(np.floor(centres - support + 0.5), 0)
    last = np.minimum(np.floor(centres + support + 0.5), length)
    triangle = np.maximum(0, 1 - np.abs(pixels + 0.5 - centres) / support)
    triangle[(pixels < first) | (pixels >= last)] = 0
    shares = triangle / triangle.sum(axis=1, keepdims=True)
    weights: NDArray[np.float64] = np.floor(shares * (1 << _WEIGHT_BITS) + 0.5)
    weights.setflags(write=False)
    return weights
