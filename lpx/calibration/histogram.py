"""A histogram of magnitudes that needs no range beforehand and merges exactly.

Bins are logarithmic: a float32's exponent and its leading mantissa bits, read off its bit pattern.
So every finite value has its bin, all bins have a relative width of at most 1/128, and the result
depends neither on the batch size nor on the order of the data.

The sign is not kept. Every scale is symmetric about zero, so the error that a scale makes is the
same on either side; whether a tensor is ever negative is what its exact minimum says; and how much
of a ReLU's output is zero stands in the first bin.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SHIFT = 16  # keeps the sign, 8 exponent bits and 7 of the 23 mantissa bits
_SIGN = 1 << 15
BINS = 0x7F80_0000 >> _SHIFT
"""Number of bins: all finite magnitudes; the first one past them would hold infinity."""
_MOST = 1 << 24
"""Codes counted at once: OpenCV hands its counts back as float32, exact up to here."""

Codes = NDArray[np.uint16]


def edges() -> NDArray[np.float64]:
    """Bin edges, float64 [BINS + 1]; the last is 2 ** 128."""
    bits = np.arange(BINS, dtype=np.uint32) << _SHIFT
    return np.append(bits.view(np.float32).astype(np.float64), 2.0**128)


_EVERY_OTHER = np.tile(np.array([0, _SIGN], np.uint16), 1 << 16)
BLOCK = len(_EVERY_OTHER)
"""Values to encode at once: half a MiB, which a core's cache holds from one step to the next."""


def encode(values: NDArray[np.float32], codes: Codes) -> None:
    """Write each value's code, which is the upper half of its bits, into `codes`.

    Every other sign is flipped. It is dropped anyhow, and so the zeros of a ReLU, one after the
    other, are counted in two places in turn: a processor waits long to count twice in one place.

    Args:
        values: float32 [N], contiguous.
        codes: uint16 [N].
    """
    for start in range(0, len(values), BLOCK):
        part = codes[start : start + BLOCK]
        bits = values[start : start + BLOCK].view(np.uint32)
        np.right_shift(bits, _SHIFT, out=part, casting="unsafe")
        np.bitwise_xor(part, _EVERY_OTHER[: len(part)], out=part)


class Histogram:
    """Counts of |x| in logarithmic bins, with exact minimum, maximum and count."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.low = np.inf
        self.high = -np.inf

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
        codes = np.empty(flat.size, np.uint16)
        encode(flat, codes)
        return self.add_codes(codes, float(flat.min()), float(flat.max()))

    def add_codes(self, codes: Codes, low: float, high: float) -> bool:
        """Count values by their codes.

        Args:
            codes: uint16 [N], contiguous, from `encode`.
            low: The smallest of the values.
            high: The largest; neither is looked at where a value is not finite.

        Returns:
            Whether all were finite; if not, none is counted.
        """
        # Imported here: it takes longer than all else that reading scales needs.
        import cv2

        seen = np.zeros(_SIGN, np.int64)
        for start in range(0, len(codes), _MOST):
            part = codes[start : start + _MOST].reshape(1, -1)
            found = cv2.calcHist([part], [0], None, [2 * _SIGN], [0, 2 * _SIGN])
            seen += found.reshape(2, _SIGN).sum(axis=0, dtype=np.int64)
        # Infinity and NaN have bins too, past those of finite magnitudes.
        if seen[BINS:].any():
            return False
        self.counts += seen[:BINS]
        self.low, self.high = min(self.low, low), max(self.high, high)
        return True

    def merge(self, other: Histogram) -> None:
        """Take in what another histogram has seen; the same as if this one had seen it."""
        self.counts += other.counts
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
