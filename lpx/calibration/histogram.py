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

from lpx.calibration.tally import BINS, SHIFT


def edges() -> NDArray[np.float64]:
    """Bin edges, float64 [BINS + 1]; the last is 2 ** 128."""
    bits = np.arange(BINS, dtype=np.uint32) << SHIFT
    return np.append(bits.view(np.float32).astype(np.float64), 2.0**128)


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

    def extend(self, low: float, high: float) -> None:
        """Take in the extremes of values that are counted."""
        self.low, self.high = min(self.low, low), max(self.high, high)

    def merge(self, other: Histogram) -> None:
        """Take in what another histogram has seen; the same as if this one had seen it."""
        self.counts[:] += other.counts
        self.extend(other.low, other.high)

    def percentile(self, percent: float) -> float:
        """Smallest bin edge that at least `percent` of the magnitudes do not exceed.

        Never above the exact maximum magnitude.
        """
        cumulative = np.cumsum(self.counts)
        wanted = np.ceil(cumulative[-1] * (percent / 100.0))
        index = int(np.searchsorted(cumulative, wanted))
        upper = np.array([(index + 1) << SHIFT], np.uint32).view(np.float32)[0]
        return min(float(upper), self.peak)
