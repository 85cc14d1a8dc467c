"""Counts, extremes and channel means of activations, computed in one pass over the values.

The pass is compiled (tally.c) if a C compiler was available when lpx was installed. Otherwise NumPy
and OpenCV compute the same counts and extremes, and the same means but for rounding, in three to
four times the time.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lpx.calibration.exact_mean import add_exactly

# Low bits to drop from a magnitude to get its code: exponent and 7 bits of mantissa remain.
SHIFT = 16
# Number of codes of finite values; the codes of infinity and NaN follow.
BINS = 0x7F80
# Supported block sizes of channels in memory.
BLOCKS = (1, 2, 4, 8, 16)

# All codes, those of infinity and NaN included.
_CODES = 0x8000
# Index of the upper 16 bits of a float32, which hold its code, when it is viewed as two uint16.
_UPPER = int(sys.byteorder == "little")
# Values per step of the NumPy version: intermediate results stay in a core's cache.
_AT_ONCE = 1 << 17
# Threads tally at the same time, and each needs tables of its own.
_own = threading.local()


class Extremes(NamedTuple):
    """Smallest and largest value."""

    low: float
    high: float


def tally(
    values: NDArray[np.float32], block: int, counts: NDArray[np.int64], sums: NDArray[np.int64]
) -> Extremes | None:
    """Count values by code and add channel means to sums, unless a value is not finite.

    Args:
        values: float32 [N, channels, ...], contiguous, at least one and fewer than 2**32 values;
            the layout in memory is [N, channels / block, ..., block].
        block: One of `BLOCKS`, a divisor of the channels; 1 is ONNX's layout.
        counts: int64 [BINS], one for each code of a finite value; updated in place.
        sums: int64 [channels, PARTS], exact sums of each face's channel means; updated in place.

    Returns:
        Smallest and largest value; None if a value is not finite, and then nothing was added.

    Raises:
        ValueError: `values` is not float32, or not contiguous.
    """
    library = compiled()
    if library is None:
        return tally_in_numpy(values, block, counts, sums)
    shape = _blocked_shape(values, block)
    extremes, means = np.empty(2, np.float32), np.empty(shape[0] * values.shape[1], np.float32)
    outputs = (counts, extremes, sums, means, _tables(library))
    pointers = (array.ctypes.data for array in outputs)
    finite = library.lpx_tally(values.ctypes.data, *shape, *pointers)
    return Extremes(float(extremes[0]), float(extremes[1])) if finite else None


def _blocked_shape(values: NDArray[np.float32], block: int) -> tuple[int, ...]:
    """Return (faces, groups of channels, plane, block)."""
    # Both versions read memory directly, so that another dtype or stride would give nonsense.
    if values.dtype != np.float32 or not values.flags.c_contiguous:
        raise ValueError("values must be float32 and contiguous")
    faces, channels = values.shape[:2]
    return faces, channels // block, values.size // (faces * channels), block


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """Return the compiled tally.c; None if lpx was installed without a C compiler."""
    spec = find_spec("lpx.calibration._tally")
    if spec is None or not isinstance(spec.loader, ExtensionFileLoader):
        return None
    library = ctypes.CDLL(str(spec.origin))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.lpx_tally.argtypes = [pointer, size, size, size, ctypes.c_int, *[pointer] * 5]
    return library


def _tables(library: ctypes.CDLL) -> NDArray[np.uint32]:
    """Return this thread's counting tables; tally.c expects them all zero and leaves them so."""
    tables: NDArray[np.uint32] | None = getattr(_own, "tables", None)
    if tables is None:
        entries = ctypes.c_int32.in_dll(library, "lpx_tables").value
        tables = _own.tables = np.zeros(entries, np.uint32)
    return tables


def tally_in_numpy(
    values: NDArray[np.float32], block: int, counts: NDArray[np.int64], sums: NDArray[np.int64]
) -> Extremes | None:
    """Do what `tally` does, without compiled code."""
    # Imported here: importing OpenCV takes longer than everything else that reading scales needs.
    import cv2

    blocked = values.reshape(_blocked_shape(values, block))
    flat = blocked.reshape(-1)
    by_code = np.zeros(_CODES, np.int64)
    for start in range(0, flat.size, _AT_ONCE):
        codes = flat[start : start + _AT_ONCE].view(np.uint16)[_UPPER::2] & np.uint16(_CODES - 1)
        # OpenCV counts in float32, which is exact up to 2**24: more than the values of a step.
        counted = cv2.calcHist([codes[None]], [0], None, [_CODES], [0, _CODES])
        by_code += counted.reshape(-1).astype(np.int64)
    if by_code[BINS:].any():
        return None
    counts += by_code[:BINS]
    add_exactly(_means(blocked).reshape(len(blocked), -1), sums)
    # min() of 0.0 and -0.0 depends on their order; adding 0.0 makes both 0.0.
    return Extremes(float(flat.min()) + 0.0, float(flat.max()) + 0.0)


def _means(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the channel means, float32 [N, groups, 1, block], of [N, groups, plane, block]."""
    plane = values.shape[2]
    with np.errstate(over="ignore", invalid="ignore"):
        # A matrix product with ones is ten times as fast as NumPy's mean.
        means = np.matmul(np.ones((1, plane), np.float32), values) / np.float32(plane)
    if not np.isfinite(means).all():
        # The sum overflowed float32, although the mean cannot.
        means = values.mean(axis=2, keepdims=True, dtype=np.float64)
    return np.asarray(means, np.float32)
