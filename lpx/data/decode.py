"""From an image file to RGB pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""An RGB image, uint8 [H, W, 3]."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
MAX_PIXELS = 64_000_000
"""A larger image is refused: no face crop has 64 megapixels."""

_SILENT = 0
# OpenCV 5 moved it.
_set_log_level: Callable[[int], int] = (
    cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
)


class UnreadableImageError(Exception):
    """An image file that holds no usable image; the message says why, without the path."""


@contextmanager
def silent() -> Iterator[None]:
    """Keep OpenCV from saying on standard error what is raised as an error."""
    level = _set_log_level(_SILENT)
    try:
        yield
    finally:
        _set_log_level(level)


def read_image(path: Path) -> Image:
    """Decode one image.

    Grey becomes three equal channels, an alpha channel is dropped, 16 bits are scaled to 8, and the
    EXIF orientation is applied.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        UnreadableImageError: Missing, empty, truncated, too large or no image at all.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(error.strerror or "cannot be read") from error
    if not data:
        raise UnreadableImageError("file is empty")
    try:
        with silent():
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise UnreadableImageError("not an image that OpenCV can decode") from error
    if decoded is None:
        raise UnreadableImageError("not an image that OpenCV can decode")
    if decoded.shape[0] * decoded.shape[1] > MAX_PIXELS:
        raise UnreadableImageError(f"over {MAX_PIXELS // 1_000_000} megapixels")
    return np.asarray(decoded, np.uint8)


def fit(image: Image, size: int) -> Image:
    """Resize a face crop to the square that a detector takes.

    Args:
        image: uint8 RGB [H, W, 3].
        size: Side in pixels.

    Returns:
        uint8 RGB [size, size, 3]; area-averaged when shrinking, bilinear when enlarging.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    method = cv2.INTER_AREA if min(height, width) > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=method), np.uint8)
