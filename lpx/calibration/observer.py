"""What is kept of one activation while faces pass: of fixed size, and exact to merge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lpx.calibration.exact_mean import PARTS, ExactMean
from lpx.calibration.histogram import Histogram
from lpx.calibration.methods import PEAKS
from lpx.calibration.scales import TensorScale
from lpx.calibration.tally import tally


class Observer:
    """Statistics of one activation.

    Args:
        channels: Size of its second dimension; 0 where that does not count channels: then no means
            are kept.
    """

    def __init__(self, channels: int) -> None:
        self.histogram = Histogram()
        self.mean = ExactMean(channels)

    def add(self, values: NDArray[np.float32], block: int = 1) -> bool:
        """Take in a batch; False, and nothing taken, where a value is not finite.

        Args:
            values: float32 [N, channels, ...], contiguous; without channels of any shape.
            block: Channels that alternate in memory, as for `lpx.calibration.tally.tally`.
        """
        sums = self.mean.sums
        if not len(sums):
            values, sums = values.reshape(1, 1, -1), np.zeros((1, PARTS), np.int64)
        extremes = tally(values, block, self.histogram.counts, sums)
        if extremes is None:
            return False
        self.histogram.extend(*extremes)
        self.mean.count += len(values)
        return True

    def merge(self, other: Observer) -> None:
        """Take in what another observer has seen; the same as if this one had seen it."""
        self.histogram.merge(other.histogram)
        self.mean.merge(other.mean)

    def statistics(self) -> TensorScale:
        """Range by every method, and channel means."""
        seen = self.histogram
        peaks = {method: float(peak(seen)) for method, peak in PEAKS.items()}
        return TensorScale(seen.low, seen.high, seen.count, peaks, self.mean.means())
