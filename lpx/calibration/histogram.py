"""Histogram of magnitudes that needs no range in advance and merges exactly.

Bins are logarithmic: the bin of a value is its float32 exponent and leading mantissa bits, taken
from its bit pattern. So every finite value has a bin, bins have a relative width of at most 1/128,
and the result depends neither on the batch size nor on the order of the data.

The sign is not kept. Every scale is symmetric about zero, so that its error is the same on both
sides; the exact minimum shows if a tensor is ever negative, and the first bin how much of a ReLU's
output is zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lpx.calibration.tally import BINS, SHIFT


def edges() -> NDArray[np.float64]:
    """Return the bin edges, float64 [BINS + 1]; the last is 2 ** 128."""
    bits = np.arange(BINS, dtype=np.uint32) << SHIFT
    return np.append(bits.view(np.float32).astype(np.float64), 2.0**128)


class Histogram:
    """Counts of |x| in logarithmic bins, with exact minimum, maximum and count.

    Attributes:
        low: Smallest value; infinity if there is none.
        high: Largest value; -infinity if there is none.
        counts: Number of values per bin, int64 [BINS].
    """

    def __init__(self) -> None:
        self.low = np.inf
        self.high = -np.inf
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @property
    def peak(self) -> float:
        """Largest magnitude, exact."""
        return max(abs(self.low), abs(self.high))

    def extend(self, low: float, high: float) -> None:
        """Widen the range by the extremes of values that were added to `counts`."""
        self.low, self.high = min(self.low, low), max(self.high, high)

    def merge(self, other: Histogram) -> None:
        """Add the values of another histogram; the result is as if they had been counted here."""
        self.counts[:] += other.counts
        self.extend(other.low, other.high)

    def percentile(self, percent: float) -> float:
        """Return the smallest bin edge that at least `percent` of the magnitudes do not exceed.

        It is capped at the exact maximum magnitude, which a bin edge may exceed.
        """
        cumulative = np.cumsum(self.counts)
        wanted = np.ceil(cumulative[-1] * (percent / 100.0))
        index = int(np.searchsorted(cumulative, wanted))
        upper = np.array([(index + 1) << SHIFT], np.uint32).view(np.float32)[0]
        return min(float(upper), self.peak)
