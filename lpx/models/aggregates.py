"""Aggregates: functions from unit logits to one score per face.

The mean of logits is algebraically global average pooling followed by a linear layer, so only a
non-linear aggregate makes the image-level label supervise regions indirectly; see docs/science.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lpx.arguments import check_choice, check_number


def mean_prob(logits: Tensor, parameter: float) -> Tensor:
    """Return the mean of the units' probabilities: one bounded vote per unit."""
    return logits.sigmoid().mean(dim=1)


def lse(logits: Tensor, parameter: float) -> Tensor:
    """Return sigmoid((1/r) log mean exp(r s)), r = `parameter`: a soft maximum."""
    scaled = logits * parameter
    # The maximum is subtracted first: exp overflows in half precision from 11.1 on.
    peak = scaled.amax(dim=1, keepdim=True)
    pooled = (scaled - peak).exp().mean(dim=1).log() + peak.squeeze(1)
    return (pooled / parameter).sigmoid()


def topk(logits: Tensor, parameter: float) -> Tensor:
    """Return sigmoid(mean of the k largest logits), k = ceil(`parameter` * N)."""
    # 0.07 * 100 is slightly above 7 in binary: without the margin k would be one too large.
    k = max(1, math.ceil(parameter * logits.shape[1] - 1e-6))
    return torch.topk(logits, k, dim=1).values.mean(dim=1).sigmoid()


def mean_logit(logits: Tensor, parameter: float) -> Tensor:
    """Return sigmoid(mean of logits): global average pooling followed by a linear layer."""
    return logits.mean(dim=1).sigmoid()


AGGREGATES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "mean_prob": mean_prob,
    "lse": lse,
    "topk": topk,
    "mean_logit": mean_logit,
}
DEFAULT_PARAMETER = {"lse": 2.0, "topk": 0.15}
"""Default r of `lse` and k/N of `topk`; the other aggregates take no parameter."""


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
    """Return the parameter to use with an aggregate: the given one or, for None, its default.

    Raises:
        InvalidArgumentError: An unknown aggregate, or a parameter out of range.
    """
    check_choice("aggregate", name, AGGREGATES)
    if name == "lse":
        why = "it is r of the soft maximum; 1 to 4 are usual"
        check_number("aggregate_parameter", parameter, above=0, why=why)
    elif name == "topk":
        why = "it is the fraction of units whose logits are averaged"
        check_number("aggregate_parameter", parameter, above=0, most=1, why=why)
    if parameter is None:
        return DEFAULT_PARAMETER.get(name, 0.0)
    return parameter
