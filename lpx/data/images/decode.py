"""From an image file to RGB pixels."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
from numpy.typing import NDArray

from lpx.data.images.header import image_size, is_cut_off, is_turned_avif

Image = NDArray[np.uint8]
"""An RGB image, uint8 [H, W, 3]."""

# An OpenCV may be built without these; whether it is, it tells by what it could write.
_OPTIONAL = {".avif": {".avif"}, ".gif": {".gif"}, ".jp2": {".jp2", ".j2k", ".j2c"}}
SUFFIXES = frozenset(
    {".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff"}
    | {".jpg", ".jpeg", ".jpe", ".jfif", ".jif"}
    | {".pbm", ".pgm", ".ppm", ".pnm"}
).union(*(known for asked, known in _OPTIONAL.items() if cv2.haveImageWriter(asked)))
"""What the names of images end in that the installed OpenCV decodes; in lower case."""
MAX_PIXELS = 64_000_000
"""A larger image is refused, by what its header says: no face crop has 64 megapixels."""
MAX_BYTES = 512 * 1024 * 1024
"""A larger file is refused: it is more than 64 megapixels take without compression."""

_NO_IMAGE = "not an image that OpenCV can decode"
_SILENT = 0
# OpenCV 5 moved it.
_set_log_level: Callable[[int], int] = (
    cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
)
_quiet_lock = Lock()
_quiet = 0
_level_before = 0


class UnreadableImageError(Exception):
    """An image file that holds no usable image; the message says why, without the path."""


def read_image(path: Path) -> Image:
    """Decode one image.

    Grey becomes three equal channels, an alpha channel is dropped, 16 bits are scaled to 8, and the
    EXIF orientation is applied.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        UnreadableImageError: Missing, empty, cut off (even where decoders fill in grey), too
            large or no image at all.
    """
    data = _read(path)
    size = image_size(data)
    if size is None:
        raise UnreadableImageError(_NO_IMAGE)
    if size[0] * size[1] > MAX_PIXELS:
        raise UnreadableImageError(
            f"{size[0]} x {size[1]} pixels are over the limit of {MAX_PIXELS / 1e6:g} megapixels"
        )
    if is_cut_off(data):
        raise UnreadableImageError("it is cut off: its end is missing")
    if is_turned_avif(data):
        raise UnreadableImageError(
            "its pixels are to be turned or mirrored, which OpenCV does not do for AVIF"
        )
    # OpenCV warns on standard error of what is raised here as an error.
    with silence():
        try:
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        except cv2.error as error:
            raise UnreadableImageError(_NO_IMAGE) from error
    if decoded is None:
        raise UnreadableImageError(_NO_IMAGE)
    return np.asarray(decoded, np.uint8)


def _read(path: Path) -> bytes:
    try:
        # Otherwise opening a pipe would wait for somebody to write into it.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            data = _contents(file)
        finally:
            os.close(file)
    except OSError as error:
        raise UnreadableImageError(error.strerror or "cannot be read") from error
    if not data:
        raise UnreadableImageError("file is empty")
    return data


def _contents(file: int) -> bytes:
    status = os.fstat(file)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError("not a regular file")
    if status.st_size > MAX_BYTES:
        raise UnreadableImageError(f"over the limit of {MAX_BYTES >> 20} MiB")
    # One call where the system gives all at once, as it does but for very large files.
    parts = []
    left = status.st_size
    while left and (part := os.read(file, left)):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


@contextmanager
def silence() -> Iterator[None]:
    """Keep OpenCV's log quiet while any thread is in here; the level before is put back."""
    global _quiet, _level_before
    with _quiet_lock:
        if not _quiet:
            _level_before = _set_log_level(_SILENT)
        _quiet += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet -= 1
            if not _quiet:
                _set_log_level(_level_before)


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
