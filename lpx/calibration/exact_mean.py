"""Channel means that do not depend on the order of the faces, bit for bit.

A sum of floats depends on the order of its addends. So each addend, rounded to float32, is split
into a 24-bit integer and a power of two. Addends of sixteen neighbouring powers are summed in one
64-bit integer, which has room for 2**24 of them, and sums of integers are exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Integers per sum, each for 16 neighbouring powers of two: together all of float32.
PARTS = 16

# Number of fraction bits of a float32, below its 8 exponent bits.
_FRACTION = 23
# Exponent of the last bit of the smallest (subnormal) float32.
_LEAST = -149
# Powers of two that share an integer: 24 bits shifted by up to 15 leave 24 bits for carries.
_POWERS = 16


def add_exactly(rows: NDArray[np.float32], sums: NDArray[np.int64]) -> None:
    """Add rows to exact sums.

    Args:
        rows: float32 [N, channels], contiguous, all finite.
        sums: int64 [channels, PARTS], updated in place.
    """
    bits = rows.view(np.int32).astype(np.int64)
    exponent = bits >> _FRACTION & 0xFF
    # Normal numbers have an implicit leading bit; subnormal ones, of exponent 0, have none, and the
    # same unit as exponent 1.
    integer = (bits & (1 << _FRACTION) - 1) | (exponent > 0).astype(np.int64) << _FRACTION
    # Now |value| = integer * 2**(power + _LEAST).
    power = np.maximum(exponent, 1) - 1
    addend = np.where(rows < 0, -integer, integer) << power % _POWERS
    part = power // _POWERS
    for number in np.unique(part):
        sums[:, number] += np.where(part == number, addend, 0).sum(axis=0)


class ExactMean:
    """Exact running mean of float32 vectors [channels].

    Attributes:
        sums: Exact sum of the vectors, int64 [channels, PARTS].
        count: Number of vectors.
    """

    def __init__(self, channels: int) -> None:
        self.sums: NDArray[np.int64] = np.zeros((channels, PARTS), np.int64)
        self.count = 0

    def merge(self, other: ExactMean) -> None:
        """Add the vectors of another mean."""
        self.sums += other.sums
        self.count += other.count

    def means(self) -> tuple[float, ...]:
        """Return the mean of each channel, correctly rounded.

        Raises:
            ValueError: There are no vectors.
        """
        if not self.count:
            raise ValueError("mean of no vectors")
        # Python integers have any size, and their division rounds just once.
        divisor = self.count << -_LEAST
        means = []
        for parts in self.sums.tolist():
            total = 0
            for number, part in enumerate(parts):
                total += part << _POWERS * number
            means.append(total / divisor)
        return tuple(means)
