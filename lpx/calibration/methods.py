"""From a histogram to the largest magnitude worth representing, by every method.

`max` and the percentiles are read off directly. `mse` and `entropy` search, for int8 symmetric with
127 levels on either side: that is what every TensorRT knows. ONNX Runtime's unsigned activations
have twice the levels where a tensor is never negative; a range that is best for 127 is then a
little too narrow for 255, and by how much the scores mind is what `--method auto` measures.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lpx.calibration.histogram import Histogram, edges

LEVELS = 127
_OCTAVES = 6
_CANDIDATES = 384
_LINEAR_BINS = 2048
_TENSORRT_LEVELS = 128
_STRIDE = 16

Floats = NDArray[np.float64]


def mse(seen: Histogram) -> float:
    """Peak that makes the mean squared error of rounding and clipping least.

    Candidates lie 1/64 octave apart, from the maximum down to 1/64 of it. Values are taken to be
    spread evenly within their bin, and the error is integrated over it: near the peak a bin is as
    wide as a step, so that its centre would not do.
    """
    if seen.peak == 0:
        return 0.0
    bounds = edges()
    # What is smaller becomes zero with every candidate, and makes the same error with each.
    least = seen.peak * 2.0 ** -(_OCTAVES + 1) / (LEVELS + 1)
    first, last = np.searchsorted(bounds, (least, seen.peak), side="right") - (1, 0)
    bounds = bounds[first : last + 1].copy()
    bounds[-1] = max(np.nextafter(seen.peak, np.inf), bounds[-2])
    width = np.diff(bounds)
    density = seen.counts[first:last] / np.maximum(width, np.finfo(np.float64).tiny)
    # Errors are in units of the peak, whose cube need not be a number.
    x, density = bounds / seen.peak, density * seen.peak
    peaks = 2.0 ** (-_OCTAVES * np.arange(_CANDIDATES) / _CANDIDATES)
    errors = [float(density @ np.diff(_error_up_to(x, peak))) for peak in peaks]
    return float(seen.peak * peaks[int(np.argmin(errors))])


def _error_up_to(x: Floats, peak: float) -> Floats:
    """Integral of the squared error from 0 to x, with levels up to `peak`."""
    step = peak / LEVELS
    # Clipping is rounding to the last level from afar, and has the same integral.
    steps = x / step
    level = np.minimum(np.rint(steps), LEVELS)
    off = steps - level
    return np.asarray(step**3 * (level / 12 + off * off * off / 3), np.float64)


def entropy(seen: Histogram) -> float:
    """Peak that makes the divergence of the quantised from the original distribution least.

    This is the method that NVIDIA describes (Migacz, "8-bit Inference with TensorRT", GTC 2017):
    of a histogram of magnitudes with 2,048 equal bins, the first i are kept, what lies beyond is
    added to the last of them, and the whole is compared with itself at 128 levels by the
    Kullback-Leibler divergence. Two things differ. The equal bins are filled from the logarithmic
    ones, each spread evenly over its width: near the maximum one covers 8 to 16 equal bins, which
    smooths the tail. And i goes in steps of 16. As in NVIDIA's own tools, the first bin takes the
    second's count, for the zeros of a ReLU are represented exactly by any scale.
    """
    if seen.peak == 0:
        return 0.0
    linear = _linear(seen)
    linear[0] = linear[1]
    sizes = np.arange(_TENSORRT_LEVELS, _LINEAR_BINS + 1, _STRIDE)
    divergences = [_divergence(linear, int(size)) for size in sizes]
    best = int(sizes[int(np.argmin(divergences))])
    return seen.peak * best / _LINEAR_BINS


def _linear(seen: Histogram) -> Floats:
    """Counts in equal bins from 0 to the maximum, float64 [2048]."""
    used = int(np.flatnonzero(seen.counts)[-1]) + 1
    bounds = edges()[: used + 1]
    bounds[-1] = np.nextafter(seen.peak, np.inf)
    total = np.concatenate([[0.0], np.cumsum(seen.counts[:used], dtype=np.float64)])
    grid = np.linspace(0, seen.peak, _LINEAR_BINS + 1)
    return np.asarray(np.diff(np.interp(grid, bounds, total)), np.float64)


def _divergence(linear: Floats, size: int) -> float:
    """Divergence of the first `size` bins from themselves at 128 levels."""
    kept = linear[:size]
    original = kept.copy()
    original[-1] += linear[size:].sum()
    starts = np.arange(_TENSORRT_LEVELS) * size // _TENSORRT_LEVELS
    filled = kept > 0
    counts = np.add.reduceat(filled.astype(np.float64), starts)
    level = np.add.reduceat(kept, starts) / np.maximum(counts, 1)
    quantised = np.repeat(level, np.diff(np.append(starts, size))) * filled
    if not quantised.any():
        return np.inf
    p, q = original / original.sum(), quantised / quantised.sum()
    where = p > 0
    # A bin that holds nothing but what was clipped has no counterpart, and costs dearly.
    ratio = p[where] / np.maximum(q[where], 1e-12)
    return float((p[where] * np.log(ratio)).sum())


def _percentile(percent: float) -> Callable[[Histogram], float]:
    return lambda seen: seen.percentile(percent)


PEAKS: dict[str, Callable[[Histogram], float]] = {
    "max": lambda seen: seen.peak,
    "percentile-99.999": _percentile(99.999),
    "percentile-99.99": _percentile(99.99),
    "percentile-99.9": _percentile(99.9),
    "mse": mse,
    "entropy": entropy,
}
METHODS = tuple(PEAKS)
DEFAULT_METHOD = "percentile-99.99"
