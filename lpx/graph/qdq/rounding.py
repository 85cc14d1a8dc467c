"""Rounding of weights to integers so that errors cancel instead of adding up.

Rounding each weight to the nearest level leaves every kernel with a random net error, and a smooth
input multiplies exactly that. Rounding a few weights the other way keeps the net error of each
kernel, then of each output channel, within half a level: the data-free method of Guo et al.,
"SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", ICLR 2022. The
remaining shift of the mean is added to the bias (Nagel et al., "Data-Free Quantization Through
Weight Equalization and Bias Correction", ICCV 2019), using the calibrated channel means of the
input.

Depthwise kernels, which have no other weights to average with, gain most; see docs/benchmarks.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def weight_scales(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return symmetric scales per output channel: largest magnitude / 127; 1 for all zeros.

    Args:
        weight: Convolution weights, float32 [O, I, kh, kw].

    Returns:
        float32 [O], all positive.
    """
    peak = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    return np.where(peak > 0, peak / 127, 1.0).astype(np.float32)


def nearest_levels(weight: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return the nearest integer level of each weight; shapes as in `round_levels`."""
    exact = weight.astype(np.float64) / scales.reshape(-1, 1, 1, 1)
    return np.clip(np.rint(exact), -127, 127).astype(np.int8)


def round_levels(weight: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return integer levels of convolution weights whose errors cancel.

    Args:
        weight: float32 [O, I, kh, kw].
        scales: float32 [O].

    Returns:
        int8 [O, I, kh, kw] in [-127, 127], each at most one level from the nearest.
    """
    outputs, inputs = weight.shape[:2]
    exact = (weight / scales.reshape(-1, 1, 1, 1)).astype(np.float64).reshape(outputs, inputs, -1)
    # The error of clipping is left to the bias: flipping other weights for it would spoil them.
    exact = np.clip(exact, -127, 127)
    levels = np.rint(exact)
    if exact.shape[2] > 1:
        levels = _balance(levels, exact)
    if inputs > 1:
        flat = (outputs, 1, -1)
        levels = _balance(levels.reshape(flat), exact.reshape(flat))
    return np.clip(levels, -127, 127).reshape(weight.shape).astype(np.int8)


def _balance(levels: NDArray[np.float64], exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """Flip roundings along the last axis until each row's net error is within half a level."""
    error = levels - exact
    net = error.sum(axis=-1, keepdims=True)
    sign = np.sign(net)
    # Those that came closest to being rounded the other way are flipped first: argsort of argsort
    # is the rank.
    gain = error * sign
    rank = np.argsort(np.argsort(-gain, axis=-1, kind="stable"), axis=-1, kind="stable")
    flip = (rank < np.rint(np.abs(net))) & (gain > 0)
    return np.asarray(levels - flip * sign, np.float64)


def bias_shift(
    weight: NDArray[np.float32], rounded: NDArray[np.float32], means: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return what to add to a bias so that rounding the weights does not shift the mean output.

    Args:
        weight: float32 [O, I / groups, kh, kw].
        rounded: The same weights after quantisation and dequantisation.
        means: float32 [I], mean of each input channel.

    Returns:
        float32 [O].
    """
    error = (weight.astype(np.float64) - rounded).sum(axis=(2, 3))
    groups = len(means) // weight.shape[1]
    per_group = means.reshape(groups, -1)
    group_of_output = np.repeat(np.arange(groups), len(weight) // groups)
    shift: NDArray[np.float32] = (error * per_group[group_of_output]).sum(axis=1).astype(np.float32)
    return shift
