"""Means of channels that do not depend on the order in which faces come, to the last bit.

A sum of floats depends on their order. So each addend, rounded to float32, is added as what it is:
a 24-bit integer times a power of two. Sixteen neighbouring powers share one 64-bit integer, which
holds 2**24 addends, and sums of integers are exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PARTS = 16
"""Integers of a sum, each of 16 neighbouring powers of two: those of all of float32."""

_FRACTION = 23  # bits of a float32's fraction, below its 8 of exponent
_LEAST = -149  # exponent of the last bit of the smallest float32
_POWERS = 16


def add_exactly(rows: NDArray[np.float32], sums: NDArray[np.int64]) -> None:
    """Add rows up.

    Args:
        rows: float32 [N, channels], contiguous, all finite.
        sums: int64 [channels, PARTS], added to.
    """
    bits = rows.view(np.int32).astype(np.int64)
    exponent = bits >> _FRACTION & 0xFF
    integer = (bits & (1 << _FRACTION) - 1) | (exponent > 0).astype(np.int64) << _FRACTION
    # A value is integer * 2**(power + _LEAST).
    power = np.maximum(exponent, 1) - 1
    addend = np.where(rows < 0, -integer, integer) << power % _POWERS
    part = power // _POWERS
    for number in np.unique(part):
        sums[:, number] += np.where(part == number, addend, 0).sum(axis=0)


class ExactMean:
    """Mean of float32 vectors [channels].

    Attributes:
        sums: Their exact sum, int64 [channels, PARTS].
        count: How many they are.
    """

    def __init__(self, channels: int) -> None:
        self.sums: NDArray[np.int64] = np.zeros((channels, PARTS), np.int64)
        self.count = 0

    def merge(self, other: ExactMean) -> None:
        """Take in what another mean has seen."""
        self.sums += other.sums
        self.count += other.count

    def means(self) -> tuple[float, ...]:
        """The mean of each channel, correctly rounded."""
        if not self.count:
            raise ValueError("the mean of nothing")
        # Python divides integers of any size with one rounding.
        divisor = self.count << -_LEAST
        return tuple(
            sum(part << _POWERS * number for number, part in enumerate(row) if part) / divisor
            for row in self.sums.tolist()
        )
