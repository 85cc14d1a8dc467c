"""Options for integer weights, and scales that minimise the squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lpx.arguments import check_at_least, check_fields
from lpx.graph.qdq.placement import MIN_CHANNELS
from lpx.graph.qdq.rounding import weight_scales

# Clips to try, as a share of the largest magnitude. If one weight of N is much larger than the
# others, the best is 1 / (1 + N / (12 * 127**2)): 0.98 for 512 channels of 3x3, so in 8 bits never
# far below 1.
_SHARES = np.linspace(1.0, 0.8, 81)[1:]


@dataclass(frozen=True)
class WeightOptions:
    """Options for int8 weights, which are symmetric and per output channel.

    Attributes:
        clip: "max" maps the largest magnitude of a channel to level 127; "mse" clips it where the
            mean squared error of the channel is smallest.
        rounding: "squant" makes the errors of a kernel cancel (lpx.graph.qdq.rounding); "nearest"
            rounds each weight by itself.
        bias_correction: Compensate the shift of a channel's mean by rounding in its bias.
        equalise: Equalise the ranges of channels between layers (lpx.graph.qdq.equalise). It
            changes the ranges of activations, so calibration must use the equalised model.
        min_channels: Leave convolutions with fewer channels on either side in float; ignored for a
            DLA, which runs INT8 regions as a whole.
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
    """Return symmetric scales per output channel with the least error of nearest rounding.

    The search begins with the largest magnitude, so that the squared error is never larger than
    that of `weight_scales`.

    Args:
        weight: Convolution weights, float32 [O, I, kh, kw].

    Returns:
        float32 [O], all positive.
    """
    widest = weight_scales(weight)
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    best, least = widest, squared_error(flat, widest)
    for share in _SHARES:
        # The product may underflow to zero, which is not a scale.
        scales = np.maximum((widest * share).astype(np.float32), np.finfo(np.float32).tiny)
        error = squared_error(flat, scales)
        better = error < least
        best, least = np.where(better, scales, best), np.where(better, error, least)
    return best


def squared_error(weight: NDArray[np.floating], scales: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the squared error of nearest rounding, summed over each output channel.

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
