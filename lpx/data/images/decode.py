"""Decode image files to RGB pixels."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lpx.data.images.header import image_size, is_cut_off, is_turned_avif

# An RGB image, uint8 [H, W, 3].
Image = NDArray[np.uint8]

# An OpenCV may be built without these formats; it only says which of them it could write.
_OPTIONAL = {".avif": {".avif"}, ".gif": {".gif"}, ".jp2": {".jp2", ".j2k", ".j2c"}}
# Suffixes of image files that the installed OpenCV decodes; in lower case.
SUFFIXES = frozenset(
    {".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff"}
    | {".jpg", ".jpeg", ".jpe", ".jfif", ".jif"}
    | {".pbm", ".pgm", ".ppm", ".pnm"}
).union(*(known for asked, known in _OPTIONAL.items() if cv2.haveImageWriter(asked)))
# Maximum number of pixels, by the header of a file: no face crop has 64 megapixels.
MAX_PIXELS = 64_000_000
# Maximum size of a file: more than 64 megapixels take without compression.
MAX_BYTES = 512 * 1024 * 1024

_NO_IMAGE = "not an image that OpenCV can decode"
_SILENT = 0
# OpenCV 5 moved this function.
_set_log_level: Callable[[int], int] = (
    cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
)
# The log level is one for the whole process: threads count how many of them need silence.
_quiet_lock = Lock()
_quiet = 0
_level_before = 0


class UnreadableImageError(Exception):
    """A file without a usable image; the message says why, without the path."""


def read_image(
    path: Path,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    decode: Callable[[NDArray[np.uint8], int], NDArray[Any] | None] = cv2.imdecode,
) -> Image:
    """Decode an image.

    Grey becomes three equal channels, an alpha channel is dropped, 16 bits are scaled to 8, and the
    EXIF orientation is applied.

    Args:
        path: The file.
        max_pixels: Maximum number of pixels.
        max_bytes: Maximum size of the file.
        decode: Decoder, called after all checks.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        UnreadableImageError: The file is missing, empty, truncated, too large, or not an image.
    """
    data = _read(path, max_bytes)
    size = image_size(data)
    if size is None:
        raise UnreadableImageError(_NO_IMAGE)
    # Before decoding, which would allocate whatever the header says.
    if size[0] * size[1] > max_pixels:
        raise UnreadableImageError(
            f"{size[0]} x {size[1]} pixels are over the limit of {max_pixels / 1e6:g} megapixels"
        )
    # Read to find the reason: for a truncated JPEG, OpenCV returns None without one.
    if is_cut_off(data):
        raise UnreadableImageError("it is truncated: its end is missing")
    if is_turned_avif(data):
        raise UnreadableImageError(
            "its pixels are to be turned or mirrored, which OpenCV does not do for AVIF"
        )
    # OpenCV also writes to standard error what is raised here.
    with silence():
        try:
            decoded = decode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        except cv2.error as error:
            raise UnreadableImageError(_NO_IMAGE) from error
    if decoded is None:
        raise UnreadableImageError(_NO_IMAGE)
    return np.asarray(decoded, np.uint8)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        # O_NONBLOCK: opening a pipe would wait for somebody to write into it.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            data = _contents(file, max_bytes)
        finally:
            os.close(file)
    except OSError as error:
        raise UnreadableImageError(error.strerror or "cannot be read") from error
    if not data:
        raise UnreadableImageError("file is empty")
    return data


def _contents(file: int, max_bytes: int) -> bytes:
    status = os.fstat(file)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError("not a regular file")
    if status.st_size > max_bytes:
        raise UnreadableImageError(f"over the limit of {max_bytes >> 20} MiB")
    # One call usually suffices, but a system may return fewer bytes than asked for.
    parts = []
    left = status.st_size
    while left and (part := os.read(file, left)):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


@contextmanager
def silence() -> Iterator[None]:
    """Silence OpenCV's log while any thread is in this block, then restore its level."""
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
    """Resize a face crop to a square.

    Args:
        image: uint8 RGB [H, W, 3].
        size: Side, pixels.

    Returns:
        uint8 RGB [size, size, 3]; area-averaged when shrinking, bilinear when enlarging.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    method = cv2.INTER_AREA if min(height, width) > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=method), np.uint8)
