"""A histogram of magnitudes that needs no range beforehand and merges exactly.

Bins are logarithmic: a float32's exponent and its leading mantissa bits, read off its bit pattern.
So every finite value has its bin, all bins have a relative width of at most 1/128, and the result
depends neither on the batch size nor on the order of the data.

The sign is not kept. Every scale is symmetric about zero, so the error that a scale makes is the
same on either side; whether a tensor is ever negative is what its exact minimum says; and how much
of a ReLU's output is zero stands in the first bin.
"""

from __future__ import annotations

import sys
import threading

import numpy as np
from numpy.typing import NDArray

_SHIFT = 16  # keeps 8 exponent bits and 7 of the 23 mantissa bits, and the sign, which is masked
_MAGNITUDE = np.uint16(0x7FFF)
BINS = 0x7F80_0000 >> _SHIFT
"""Number of bins: all finite magnitudes; the first one past them would hold infinity."""
_USUAL = np.array([2.0**-80, 2.0**32], np.float32).view(np.uint32) >> _SHIFT
"""Bins from 2**-80 to 2**32, where all but zeros lies as a rule."""
_MOST = 1 << 24
"""Codes to count at once: counts are float32, as OpenCV hands them back; exact up to here."""

Codes = NDArray[np.uint16]


def edges() -> NDArray[np.float64]:
    """Bin edges, float64 [BINS + 1]; the last is 2 ** 128."""
    bits = np.arange(BINS, dtype=np.uint32) << _SHIFT
    return np.append(bits.view(np.float32).astype(np.float64), 2.0**128)


BLOCK = 1 << 17
"""Values to encode at once: half a MiB, which a core's cache holds from one step to the next."""
_UPPER = int(sys.byteorder == "little")
_scratch = threading.local()


def encode(values: NDArray[np.float32], codes: Codes) -> None:
    """Write each value's code, which is the upper half of its magnitude's bits, into `codes`.

    Args:
        values: float32 [N], contiguous.
        codes: uint16 [N], contiguous.
    """
    # Imported here: it takes longer than all else that reading scales needs.
    import cv2

    lower: Codes | None = getattr(_scratch, "lower", None)
    if lower is None:
        lower = _scratch.lower = np.empty(BLOCK, np.uint16)
    halves = values.view(np.uint16).reshape(1, -1, 2)
    for start in range(0, len(values), BLOCK):
        part = codes[start : start + BLOCK]
        # Faster than a shift, though the lower halves are written for nothing.
        planes = [lower[: len(part)].reshape(1, -1), part.reshape(1, -1)]
        cv2.split(halves[:, start : start + BLOCK], planes if _UPPER else planes[::-1])
        np.bitwise_and(part, _MAGNITUDE, out=part)


class Histogram:
    """Counts of |x| in logarithmic bins, with exact minimum, maximum and count.

    Attributes:
        low: Smallest value seen; infinite where none was.
        high: Largest value seen.
        counts: Values seen per bin, int64 [BINS].
    """

    def __init__(self) -> None:
        self.low = np.inf
        self.high = -np.inf
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)

    @property
    def count(self) -> int:
        """Number of values seen."""
        return int(self.counts.sum())

    @property
    def peak(self) -> float:
        """Exact largest magnitude."""
        return max(abs(self.low), abs(self.high))

    def add(self, values: NDArray[np.float32]) -> bool:
        """Count values of any shape.

        Returns:
            Whether all were finite; if not, none is counted.
        """
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            return False
        codes = np.empty(flat.size, np.uint16)
        encode(flat, codes)
        self.add_codes(codes, low, high)
        return True

    def add_codes(self, codes: Codes, low: float, high: float) -> None:
        """Count values by their codes.

        Args:
            codes: uint16 [N], contiguous, from `encode`, of finite values.
            low: The smallest of the values.
            high: The largest.
        """
        for start in range(0, len(codes), _MOST):
            self._count(codes[start : start + _MOST].reshape(1, -1))
        self.low, self.high = min(self.low, low), max(self.high, high)

    def _count(self, codes: Codes) -> None:
        import cv2

        # Few bins are several times as cheap as all of them, and the zeros of a ReLU are out of
        # them: a processor waits long to count twice, one after the other, in one place.
        first, end = (int(bound) for bound in _USUAL)
        usual = cv2.calcHist([codes], [0], None, [end - first], [first, end]).reshape(-1)
        nonzero = cv2.countNonZero(codes)
        if int(usual.sum(dtype=np.float64)) == nonzero:
            self.counts[first:end] += usual.astype(np.int64)
            self.counts[0] += codes.size - nonzero
        else:
            whole = cv2.calcHist([codes], [0], None, [BINS], [0, BINS]).reshape(-1)
            self.counts += whole.astype(np.int64)

    def merge(self, other: Histogram) -> None:
        """Take in what another histogram has seen; the same as if this one had seen it."""
        self.counts[:] += other.counts
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def percentile(self, percent: float) -> float:
        """Smallest bin edge that at least `percent` of the magnitudes do not exceed.

        Never above the exact maximum magnitude.
        """
        cumulative = np.cumsum(self.counts)
        wanted = np.ceil(cumulative[-1] * (percent / 100.0))
        index = int(np.searchsorted(cumulative, wanted))
        upper = np.array([(index + 1) << _SHIFT], np.uint32).view(np.float32)[0]
        return min(float(upper), self.peak)
