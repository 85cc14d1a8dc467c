"""From unit logits to one score per face.

The mean of logits is algebraically global average pooling followed by a linear layer, so only a
non-linear aggregate makes the image-level label supervise regions indirectly; see docs/science.md.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from lpx.errors import LpxError


def mean_prob(logits: Tensor, parameter: float) -> Tensor:
    """Mean of the units' probabilities: one bounded vote per unit."""
    return logits.sigmoid().mean(dim=1)


def lse(logits: Tensor, parameter: float) -> Tensor:
    """sigmoid((1/r) log mean exp(r s)), r = `parameter`: a soft maximum (multiple-instance)."""
    scaled = logits * parameter
    # The maximum is taken out first: exp overflows in half precision from 11 on.
    peak = scaled.amax(dim=1, keepdim=True)
    pooled = (scaled - peak).exp().mean(dim=1).log() + peak.squeeze(1)
    return (pooled / parameter).sigmoid()


def topk(logits: Tensor, parameter: float) -> Tensor:
    """sigmoid(mean of the k largest logits), k = ceil(`parameter` * N)."""
    # 0.07 * 100 is a little over 7 in binary: without the margin k would be one too large.
    k = max(1, math.ceil(parameter * logits.shape[1] - 1e-6))
    return torch.topk(logits, k, dim=1).values.mean(dim=1).sigmoid()


def mean_logit(logits: Tensor, parameter: float) -> Tensor:
    """sigmoid(mean of logits): the same as global average pooling and a linear layer."""
    return logits.mean(dim=1).sigmoid()


AGGREGATES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "mean_prob": mean_prob,
    "lse": lse,
    "topk": topk,
    "mean_logit": mean_logit,
}
DEFAULT_PARAMETER = {"lse": 2.0, "topk": 0.15}
"""r of `lse` and k/N of `topk` where the user names none; the others take no parameter."""


def aggregate(name: str, logits: Tensor, parameter: float = 0.0) -> Tensor:
    """Pool unit logits to scores.

    Args:
        name: A key of `AGGREGATES`.
        logits: [B, h, w]; computed in float32 (float64 stays float64).
        parameter: r of `lse` (> 0), k/N of `topk` (in (0, 1]); unused otherwise.

    Returns:
        Scores [B] in [0, 1].
    """
    flat = logits.flatten(1)
    if flat.dtype != torch.float64:
        flat = flat.float()
    return AGGREGATES[name](flat, parameter)


def check_aggregate(name: str, parameter: float | None) -> float:
    """The parameter to use with aggregate `name`.

    Raises:
        LpxError: Unknown aggregate, or a parameter out of range.
    """
    if name not in AGGREGATES:
        raise LpxError(
            f"unknown aggregate {name!r}",
            f"known aggregates: {', '.join(AGGREGATES)}",
            "name one of these with --aggregate",
        )
    value = DEFAULT_PARAMETER.get(name, 0.0) if parameter is None else parameter
    largest = {"lse": sys.float_info.max, "topk": 1.0}.get(name)
    if largest is not None and not 0 < value <= largest:
        raise LpxError(
            f"aggregate {name} with parameter {value:g}",
            "lse wants r > 0 (1 to 4 are usual), topk a fraction in (0, 1]",
            "set --aggregate-parameter accordingly",
        )
    return value
