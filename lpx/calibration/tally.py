"""What calibration does with every value of every activation.

Counts, extremes and channel means come of one reading, which is compiled (tally.c) where a C
compiler was there when lpx was installed. Else NumPy and OpenCV do it: the same counts and
extremes, and the same means but for rounding, in three to four times as long.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from lpx.calibration.exact_mean import add_exactly

SHIFT = 16
"""A value's code is its magnitude's bits without this many: exponent, 7 bits of mantissa."""
BINS = 0x7F80
"""Number of codes of finite values; those of infinities and NaN come after."""
BLOCKS = (1, 2, 4, 8, 16)
"""Channels that may alternate in memory."""

_CODES = 0x8000
_UPPER = int(sys.byteorder == "little")  # place of a float32's upper half
_AT_ONCE = 1 << 17  # intermediate results stay in a core's cache
_own = threading.local()


def tally(
    values: NDArray[np.float32], block: int, counts: NDArray[np.int64], sums: NDArray[np.int64]
) -> tuple[float, float] | None:
    """Count values by their codes and add means of channels up, unless a value is not finite.

    Args:
        values: float32 [N, channels, ...], contiguous, at least one and fewer than 2**32; what
            memory holds is [N, channels / block, ..., block].
        block: One of `BLOCKS`, which divides the channels; 1 is ONNX's order.
        counts: int64 [BINS], one for each code of a finite value; added to.
        sums: int64 [channels, PARTS], exact sums to which each face's means are added.

    Returns:
        The smallest and the largest value; None where a value is not finite, and nothing was added.

    Raises:
        ValueError: The values lie in memory otherwise.
    """
    if values.dtype != np.float32 or not values.flags.c_contiguous:
        raise ValueError("values must be float32 and contiguous")
    faces, channels = values.shape[:2]
    shape = faces, channels // block, values.size // (faces * channels), block
    library = compiled()
    if library is None:
        return _in_steps(values.reshape(shape), counts, sums)
    extremes, means = np.empty(2, np.float32), np.empty(faces * channels, np.float32)
    written = (counts, extremes, sums, means, _tables(library))
    pointers = (array.ctypes.data for array in written)
    finite = library.lpx_tally(values.ctypes.data, *shape, *pointers)
    return (float(extremes[0]), float(extremes[1])) if finite else None


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """tally.c, compiled; None where lpx was installed without a C compiler."""
    spec = find_spec("lpx.calibration._tally")
    if spec is None or not isinstance(spec.loader, ExtensionFileLoader):
        return None
    library = ctypes.CDLL(str(spec.origin))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.lpx_tally.argtypes = [pointer, size, size, size, ctypes.c_int, *[pointer] * 5]
    return library


def _tables(library: ctypes.CDLL) -> NDArray[np.uint32]:
    """What tally.c counts in, and leaves all zero; each thread has its own."""
    tables: NDArray[np.uint32] | None = getattr(_own, "tables", None)
    if tables is None:
        entries = ctypes.c_int32.in_dll(library, "lpx_tables").value
        tables = _own.tables = np.zeros(entries, np.uint32)
    return tables


def _in_steps(
    values: NDArray[np.float32], counts: NDArray[np.int64], sums: NDArray[np.int64]
) -> tuple[float, float] | None:
    """The same of values [N, groups, plane, block]."""
    # Imported here: it takes longer than all else that reading scales needs.
    import cv2

    flat = values.reshape(-1)
    found = np.zeros(_CODES, np.int64)
    for start in range(0, flat.size, _AT_ONCE):
        codes = flat[start : start + _AT_ONCE].view(np.uint16)[_UPPER::2] & np.uint16(_CODES - 1)
        # Its counts are floats, exact up to 2**24.
        counted = cv2.calcHist([codes[None]], [0], None, [_CODES], [0, _CODES])
        found += counted.reshape(-1).astype(np.int64)
    if found[BINS:].any():
        return None
    counts += found[:BINS]
    add_exactly(_means(values).reshape(len(values), -1), sums)
    # Whether a zero is negative would depend on the order of the values: none is.
    return float(flat.min()) + 0.0, float(flat.max()) + 0.0


def _means(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each channel of values [N, groups, plane, block], float32 [N, groups, 1, block]."""
    plane = values.shape[2]
    with np.errstate(over="ignore", invalid="ignore"):
        # Ten times as fast as NumPy's mean.
        means = np.matmul(np.ones((1, plane), np.float32), values) / np.float32(plane)
    if not np.isfinite(means).all():
        means = values.mean(axis=2, keepdims=True, dtype=np.float64)
    return np.asarray(means, np.float32)
