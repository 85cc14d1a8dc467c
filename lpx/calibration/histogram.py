"""A histogram of magnitudes that needs no range beforehand and merges exactly.

Bins are logarithmic: a float32's exponent and its leading mantissa bits, read off its bit pattern.
So every finite value has its bin, all bins have a relative width of at most 1/128, and the result
depends neither on the batch size nor on the order of the data.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SHIFT = 16  # keeps 8 exponent bits and 7 of the 23 mantissa bits
BINS = 0x7F80_0000 >> _SHIFT
"""Number of bins: all finite magnitudes; the first one past them would hold infinity."""


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

    def add(self, values: NDArray[np.float32]) -> bool:
        """Count values of any shape.

        Returns:
            Whether all were finite; if not, none is counted.
        """
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            return False
        self.low, self.high = min(self.low, low), max(self.high, high)
        bits = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)
        # Shifting left first drops the sign bit.
        self.counts += np.bincount((bits << 1) >> (_SHIFT + 1), minlength=BINS)
        return True

    def percentile(self, percent: float) -> float:
        """Smallest bin edge that at least `percent` of the magnitudes do not exceed.

        Never above the exact maximum magnitude.
        """
        cumulative = np.cumsum(self.counts)
        wanted = np.ceil(cumulative[-1] * (percent / 100.0))
        index = int(np.searchsorted(cumulative, wanted))
        upper = np.array([(index + 1) << _SHIFT], np.uint32).view(np.float32)[0]
        return min(float(upper), max(abs(self.low), abs(self.high)))
