"""What is kept of one activation while faces pass: of fixed size, and exact to merge."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from lpx.calibration.exact_mean import ExactMean
from lpx.calibration.histogram import BLOCK, Codes, Histogram, encode
from lpx.calibration.methods import PEAKS
from lpx.calibration.scales import TensorScale

_scratch = threading.local()


class Observer:
    """Statistics of one activation."""

    def __init__(self, channels: int) -> None:
        self.histogram = Histogram()
        self.mean = ExactMean(channels)

    def add(self, values: NDArray[np.float32], means: NDArray[np.float32]) -> bool:
        """Take in a batch; False, and nothing taken, where a value is not finite.

        Args:
            values: float32 of any shape, in any order.
            means: Their mean per face and channel, float32 [N, channels]: not finite where one of
                the values is not.
        """
        if not np.isfinite(means).all():
            return False
        # Its reductions are several times as fast as NumPy's.
        import cv2

        flat = values.reshape(1, -1)
        codes = _codes(flat.size)
        low, high = np.inf, -np.inf
        for start in range(0, flat.size, BLOCK):
            block = flat[:, start : start + BLOCK]
            encode(block[0], codes[start : start + BLOCK])
            least, most = cv2.minMaxLoc(block)[:2]
            low, high = min(low, least), max(high, most)
        self.histogram.add_codes(codes, low, high)
        self.mean.add(means)
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


def _codes(size: int) -> Codes:
    """Room for codes, kept per thread: fresh memory costs as much as filling it."""
    room: Codes | None = getattr(_scratch, "codes", None)
    if room is None or room.size < size:
        room = np.empty(size, np.uint16)
        _scratch.codes = room
    return room[:size]
