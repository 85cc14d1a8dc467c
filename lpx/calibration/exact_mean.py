"""Means of channels that do not depend on the order in which faces come, to the last bit.

A sum of floats depends on their order. So each addend, rounded to float32, is added as what it is:
a 24-bit integer times a power of two. Sixteen neighbouring powers share one 64-bit integer, which
holds 2**24 addends, and sums of integers are exact.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

_LEAST = -149  # exponent of float32's last bit
_WIDTH = 16
_BINS = (128 - _LEAST) // _WIDTH + 1


class ExactMean:
    """Running mean of float32 vectors [channels]."""

    def __init__(self, channels: int) -> None:
        self.sums: NDArray[np.int64] = np.zeros((channels, _BINS), np.int64)
        self.count = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        """Take in rows, float32 [N, channels], all finite."""
        fraction, exponent = np.frexp(rows)
        integer = np.ldexp(fraction, 24).astype(np.int64)
        # A value is integer * 2**(exponent - 24); the least exponent float32 has is -148.
        power = np.maximum(exponent - _LEAST - 1, 0)
        channels = np.arange(rows.shape[1])
        for number, where in zip(integer << (power % _WIDTH), power // _WIDTH, strict=True):
            self.sums[channels, where] += number
        self.count += len(rows)

    def merge(self, other: ExactMean) -> None:
        """Take in what another mean has seen."""
        self.sums += other.sums
        self.count += other.count

    def means(self) -> tuple[float, ...]:
        """The mean of each channel, correctly rounded."""
        if not self.count:
            raise ValueError("the mean of nothing")
        unit = Fraction(2) ** (_LEAST + 1 - 24)
        totals = (
            sum(int(part) << (_WIDTH * place) for place, part in enumerate(row) if part)
            for row in self.sums
        )
        return tuple(float(total * unit / self.count) for total in totals)
