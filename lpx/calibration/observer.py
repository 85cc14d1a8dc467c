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
    """Statistics of one activation, float32 [N, channels, ...]."""

    def __init__(self, channels: int) -> None:
        self.histogram = Histogram()
        self.mean = ExactMean(channels)

    def add(self, values: NDArray[np.float32]) -> bool:
        """Take in a batch; False, and nothing taken, where a value is not finite."""
        # Its reductions are several times as fast as NumPy's, and sums are in float64.
        import cv2

        faces, channels = values.shape[:2]
        planes = values.reshape(faces * channels, -1)
        width = planes.shape[1]
        codes = _codes(planes.size)
        sums = np.empty(len(planes), np.float64)
        low, high = np.inf, -np.inf
        step = max(1, BLOCK // width)
        for start in range(0, len(planes), step):
            block = planes[start : start + step]
            encode(block.reshape(-1), codes[start * width : start * width + block.size])
            least, most = cv2.minMaxLoc(block)[:2]
            low, high = min(low, least), max(high, most)
            rows = cv2.reduce(block, 1, cv2.REDUCE_SUM, dtype=cv2.CV_64F)
            sums[start : start + step] = rows[:, 0]
        # A sum of finite float32 is finite in float64; of anything else it never is.
        if not np.isfinite(sums).all():
            return False
        self.histogram.add_codes(codes, low, high)
        means = (sums / width).astype(np.float32)
        self.mean.add(means.reshape(faces, channels))
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
