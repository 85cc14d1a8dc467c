"""Calibration methods: from a histogram to the largest magnitude to represent (the peak).

`max` and the percentiles follow from the histogram directly. `mse` and `entropy` search, for
symmetric int8 with 127 levels on either side, which every TensorRT supports. ONNX Runtime's
unsigned activations have twice the levels if a tensor is never negative; a range that is best for
127 levels is then slightly too narrow for 255, and its effect on the scores is what
`lpx calibrate --method auto` measures.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lpx.calibration.histogram import Histogram, edges

LEVELS = 127
"""Quantisation levels on either side of zero."""

# Candidates of `mse`: 64 per octave, from the maximum down to 1/64 of it.
_OCTAVES = 6
_CANDIDATES = 384
# Candidates evaluated at once: intermediate results stay in a core's cache.
_AT_ONCE = 16
# Bins, levels and candidate sizes of `entropy`, as in NVIDIA's description except for the step.
_LINEAR_BINS = 2048
_TENSORRT_LEVELS = 128
_SIZES = np.arange(_TENSORRT_LEVELS, _LINEAR_BINS + 1, 16)
# Probability that stands for 0 in a logarithm.
_NOTHING = 1e-12

Floats = NDArray[np.float64]


def mse(histogram: Histogram) -> float:
    """Return the peak that minimises the mean squared error of rounding and clipping.

    Candidates are 1/64 octave apart, from the maximum down to 1/64 of it. Values are assumed to be
    spread evenly within their bin, and the error is integrated over it.
    """
    if histogram.peak == 0:
        return 0.0
    bounds = edges()
    # Smaller values become zero with every candidate, and add the same error to each.
    least = histogram.peak * 2.0 ** -(_OCTAVES + 1) / (LEVELS + 1)
    first, last = np.searchsorted(bounds, (least, histogram.peak), side="right") - (1, 0)
    bounds = bounds[first : last + 1].copy()
    # The last bin ends at the maximum, not at its edge.
    bounds[-1] = max(np.nextafter(histogram.peak, np.inf), bounds[-2])
    width = np.diff(bounds)
    density = histogram.counts[first:last] / np.maximum(width, np.finfo(np.float64).tiny)
    # Errors are in units of the peak: the cube of a very large or small peak is not a float64.
    x, density = bounds / histogram.peak, density * histogram.peak
    # Integrated rather than taken at the centre, as a bin near the peak is as wide as a step. The
    # integral over a bin is the difference of the antiderivative at its edges; summed over bins,
    # each edge contributes its antiderivative times the change of density there.
    step_down = -np.diff(density, prepend=0.0, append=0.0)
    peaks = 2.0 ** (-_OCTAVES * np.arange(_CANDIDATES) / _CANDIDATES)
    errors = [
        _errors(x, step_down, peaks[start : start + _AT_ONCE])
        for start in range(0, _CANDIDATES, _AT_ONCE)
    ]
    return float(histogram.peak * peaks[int(np.argmin(np.concatenate(errors)))])


def _errors(x: Floats, step_down: Floats, peaks: Floats) -> Floats:
    """Return the sum of squared errors for each peak, float64 [peaks].

    Args:
        x: Bin edges, [n].
        step_down: Density below each edge minus that above it, [n].
        peaks: [peaks].
    """
    step = peaks / LEVELS
    # Clipping is rounding to the last level from further away, and has the same antiderivative:
    # (off**3 / 3 + level / 12) * step**3 at x = (level + off) * step.
    off = x / step[:, None]
    level = np.rint(off)
    np.minimum(level, LEVELS, out=level)
    off -= level
    integral = off * off
    integral *= off
    level /= 4
    integral += level
    return np.asarray(integral @ step_down * (step**3 / 3), np.float64)


def entropy(histogram: Histogram) -> float:
    """Return the peak that minimises the divergence between original and quantised distribution.

    This is the method that NVIDIA describes (Migacz, "8-bit Inference with TensorRT", GTC 2017): in
    a histogram of magnitudes with 2,048 equal bins, the first i are kept, the counts beyond are
    added to the last of them, and the result is compared with its 128-level quantisation by the
    Kullback-Leibler divergence. Two things differ: the equal bins are filled from the logarithmic
    ones, each spread evenly over its width, which smooths the tail (near the maximum one covers 8
    to 16 equal bins); and i grows in steps of 16.
    """
    if histogram.peak == 0:
        return 0.0
    linear = _linear(histogram)
    # As in NVIDIA's own tools: every scale represents the zeros of a ReLU exactly, so that their
    # number must not decide.
    linear[0] = linear[1]
    best = int(_SIZES[int(np.argmin(_divergences(linear)))])
    return histogram.peak * best / _LINEAR_BINS


def _linear(histogram: Histogram) -> Floats:
    """Return the counts in equal bins from 0 to the maximum, float64 [2048]."""
    used = int(np.flatnonzero(histogram.counts)[-1]) + 1
    bounds = edges()[: used + 1]
    bounds[-1] = np.nextafter(histogram.peak, np.inf)
    total = np.concatenate([[0.0], np.cumsum(histogram.counts[:used], dtype=np.float64)])
    grid = np.linspace(0, histogram.peak, _LINEAR_BINS + 1)
    return np.asarray(np.diff(np.interp(grid, bounds, total)), np.float64)


def _divergences(linear: Floats) -> Floats:
    """Return the divergence of the first bins from their quantisation, for each of `_SIZES`."""
    # Within a level, the quantised distribution has the same value in every bin that is not empty.
    # So a level's share of the sum of p log(p / q) follows from three sums over its bins, and these
    # are differences of running sums. Only the last bin, to which clipped values are added, is a
    # special case.
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
    # If only clipped values are in the last bin, q is 0 there: they cost log(_NOTHING).
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
    """Return the sums of values from each bound to the next, [..., n - 1]."""
    running = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return np.diff(running[bounds])


def _times_log(values: Floats, of: Floats) -> Floats:
    """Return `values` * log(`of`), and 0 for values of `of` that are 0."""
    return values * np.log(np.where(of > 0, of, 1.0))


def _percentile(percent: float) -> Callable[[Histogram], float]:
    return lambda histogram: histogram.percentile(percent)


PEAKS: dict[str, Callable[[Histogram], float]] = {
    "max": lambda histogram: histogram.peak,
    "percentile-99.999": _percentile(99.999),
    "percentile-99.99": _percentile(99.99),
    "percentile-99.9": _percentile(99.9),
    "mse": mse,
    "entropy": entropy,
}
METHODS = tuple(PEAKS)
DEFAULT_METHOD = "percentile-99.99"
