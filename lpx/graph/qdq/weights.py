"""Quantisation of weights: options, and the clip with the least error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lpx.arguments import check_at_least, check_fields
from lpx.graph.qdq.placement import MIN_CHANNELS
from lpx.graph.qdq.rounding import weight_scales

_SHARES = np.linspace(1.0, 0.8, 81)[1:]
"""Clips to try, as a share of the largest magnitude. Where one weight of N sticks out, the best is
1 / (1 + N / (12 * 127**2)): 0.98 for 512 channels of 3x3, so in 8 bits never far below 1."""


@dataclass(frozen=True)
class WeightOptions:
    """Which weights become int8, and how: symmetric, per output channel.

    Attributes:
        clip: "max" puts the largest magnitude of a channel on level 127; "mse" cuts it where the
            mean squared error of the channel is smallest.
        rounding: "squant" lets the errors of a kernel cancel (lpx.graph.qdq.rounding); "nearest"
            does not.
        bias_correction: Move what rounding does to a channel's mean into the bias.
        equalise: Even out the ranges of channels between layers (lpx.graph.qdq.equalise). It
            changes the ranges of activations, so calibration must see the equalised model.
        min_channels: Leave convolutions with fewer channels on either side in float; a DLA, which
            takes INT8 regions whole, has none left out.
        requantise: Remove the Q/DQ pairs of a quantised model instead of refusing it.
    """

    clip: Literal["max", "mse"] = "max"
    rounding: Literal["squant", "nearest"] = "squant"
    bias_correction: bool = True
    equalise: bool = False
    min_channels: int = MIN_CHANNELS
    requantise: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least("min_channels", self.min_channels, 1)


DEFAULT_WEIGHTS = WeightOptions()


def mse_scales(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Symmetric scale per output channel with the least mean squared error of nearest rounding.

    Searched over clips from the largest magnitude downwards, which is one of them: so the error is
    never larger than that of `weight_scales`.

    Args:
        weight: Convolution weights, float32 [O, I, kh, kw].

    Returns:
        float32 [O], all positive.
    """
    widest = weight_scales(weight)
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    best, least = widest, squared_error(flat, widest)
    for share in _SHARES:
        # A product of zero would be no scale: such a channel has no bits left to win either.
        scales = np.maximum((widest * share).astype(np.float32), np.finfo(np.float32).tiny)
        error = squared_error(flat, scales)
        better = error < least
        best, least = np.where(better, scales, best), np.where(better, error, least)
    return best


def squared_error(weight: NDArray[np.floating], scales: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum over each output channel of the squared error of nearest rounding.

    Args:
        weight: [O, ...].
        scales: [O].

    Returns:
        float64 [O].
    """
    exact = weight.reshape(len(weight), -1).astype(np.float64)
    steps = scales.astype(np.float64)[:, None]
    rounded = np.clip(np.rint(exact / steps), -127, 127) * steps
    error: NDArray[np.float64] = ((rounded - exact) ** 2).sum(axis=1)
    return error
