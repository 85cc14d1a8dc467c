"""Statistics of one activation during a pass: of fixed size, and merged without rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lpx.calibration.exact_mean import PARTS, ExactMean
from lpx.calibration.histogram import Histogram
from lpx.calibration.methods import PEAKS
from lpx.calibration.scales import TensorScale
from lpx.calibration.tally import Extremes, tally


class Observer:
    """Statistics of one activation.

    Args:
        channels: Size of the second dimension; 0 if that is not a channel dimension: then no means
            are kept.
        tally: Counts the values of a batch, as `lpx.calibration.tally.tally`.
    """

    def __init__(self, channels: int, *, tally: Callable[..., Extremes | None] = tally) -> None:
        self.histogram = Histogram()
        self.mean = ExactMean(channels)
        self._tally = tally

    def add(self, values: NDArray[np.float32], block: int = 1) -> bool:
        """Add a batch, unless it has a value that is not finite.

        Args:
            values: float32 [N, channels, ...], contiguous; any shape if there are no channels.
            block: Size of the blocks of channels in memory, as for `lpx.calibration.tally.tally`.

        Returns:
            False if a value is NaN or infinite; nothing is added then.
        """
        sums = self.mean.sums
        if not len(sums):
            # Without channels all values count as one, whose mean is thrown away.
            values, sums = values.reshape(1, 1, -1), np.zeros((1, PARTS), np.int64)
        extremes = self._tally(values, block, self.histogram.counts, sums)
        if extremes is None:
            return False
        self.histogram.extend(*extremes)
        self.mean.count += len(values)
        return True

    def merge(self, other: Observer) -> None:
        """Add the statistics of another observer; the result is as if its batches came here."""
        self.histogram.merge(other.histogram)
        self.mean.merge(other.mean)

    def statistics(self) -> TensorScale:
        """Return the range by every method, and the channel means."""
        histogram = self.histogram
        return TensorScale(
            low=histogram.low,
            high=histogram.high,
            count=histogram.count,
            peaks={method: float(peak_of(histogram)) for method, peak_of in PEAKS.items()},
            means=self.mean.means(),
        )
