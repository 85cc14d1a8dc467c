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
_SIZES = np.arange(_TENSORRT_LEVELS, _LINEAR_BINS + 1, 16)
_NOTHING = 1e-12
_AT_ONCE = 16
"""Peaks to try in one go: what is computed of them stays in a core's cache."""

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
    # The integral over a bin is a difference between its edges; so an edge adds its integral up to
    # there times the difference between the densities on either side.
    step_down = -np.diff(density, prepend=0.0, append=0.0)
    peaks = 2.0 ** (-_OCTAVES * np.arange(_CANDIDATES) / _CANDIDATES)
    errors = [
        _errors(x, step_down, peaks[start : start + _AT_ONCE])
        for start in range(0, _CANDIDATES, _AT_ONCE)
    ]
    return float(seen.peak * peaks[int(np.argmin(np.concatenate(errors)))])


def _errors(x: Floats, step_down: Floats, peaks: Floats) -> Floats:
    """Sums of squared errors with levels up to each peak, float64 [peaks].

    Args:
        x: Edges of bins, [n].
        step_down: Density below each edge less that above it, [n].
        peaks: [peaks].
    """
    step = peaks / LEVELS
    # Clipping is rounding to the last level from afar, and has the same integral: from 0 to x it is
    # (off**3 / 3 + level / 12) * step**3, where x is level + off steps.
    off = x / step[:, None]
    level = np.rint(off)
    np.minimum(level, LEVELS, out=level)
    off -= level
    integral = off * off
    integral *= off
    level /= 4
    integral += level
    return np.asarray(integral @ step_down * (step**3 / 3), np.float64)


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
    best = int(_SIZES[int(np.argmin(_divergences(linear)))])
    return seen.peak * best / _LINEAR_BINS


def _linear(seen: Histogram) -> Floats:
    """Counts in equal bins from 0 to the maximum, float64 [2048]."""
    used = int(np.flatnonzero(seen.counts)[-1]) + 1
    bounds = edges()[: used + 1]
    bounds[-1] = np.nextafter(seen.peak, np.inf)
    total = np.concatenate([[0.0], np.cumsum(seen.counts[:used], dtype=np.float64)])
    grid = np.linspace(0, seen.peak, _LINEAR_BINS + 1)
    return np.asarray(np.diff(np.interp(grid, bounds, total)), np.float64)


def _divergences(linear: Floats) -> Floats:
    """Divergence of the first bins from themselves at 128 levels, for each of `_SIZES`.

    Within a level the quantised distribution is one value wherever there is something, so what a
    level adds to the sum of p log(p / q) follows from three sums over its bins, and those are
    differences of running sums. Only the last bin, which takes what was clipped, is apart.
    """
    bounds = np.arange(_TENSORRT_LEVELS + 1) * _SIZES[:, None] // _TENSORRT_LEVELS
    filled = (linear > 0).astype(np.float64)
    running = np.cumsum(linear)
    total, quantised = running[-1], running[_SIZES - 1]
    if total == 0:
        return np.full(len(_SIZES), np.inf)
    kept = _between(linear, bounds)
    level = kept / np.maximum(_between(filled, bounds), 1)
    clipped = total - quantised
    last = linear[_SIZES - 1]
    # A bin that holds nothing but what was clipped has no counterpart, and costs dearly.
    lost = np.where(last > 0, 0.0, clipped)
    p_log_p = _between(_times_log(linear, linear), bounds).sum(axis=1)
    p_log_p += _times_log(last + clipped, last + clipped) - _times_log(last, last)
    matched = kept.copy()
    matched[:, -1] += clipped - lost
    p_log_q = _times_log(matched, level).sum(axis=1) + lost * np.log(_NOTHING)
    norm = np.log(total) - (1 - lost / total) * np.log(np.maximum(quantised, _NOTHING))
    divergence = (p_log_p - p_log_q) / total - norm
    return np.where(quantised > 0, divergence, np.inf)


def _between(values: Floats, bounds: NDArray[np.int64]) -> Floats:
    """Sums of values from each bound to the next, [..., n - 1]."""
    running = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return np.diff(running[bounds])


def _times_log(values: Floats, of: Floats) -> Floats:
    """`values` times the logarithm of `of`, 0 where that is 0."""
    return values * np.log(np.where(of > 0, of, 1.0))


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
