"""An estimate with its interval: what DeLong and the bootstrap return, and parity reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lpx.metrics.inputs import Floats

ROUNDING = 1e-4
"""Scores, in [0, 1], that differ by no more are the same but for rounding: as much is allowed
between a checkpoint and its export."""


@dataclass(frozen=True)
class Interval:
    """An AUC with its confidence interval.

    Attributes:
        estimate: The AUC, in [0, 1].
        low: The interval's lower end, in [0, 1].
        high: The interval's upper end, in [0, 1].
        standard_error: Of the estimate, in units of AUC; 0 where nothing varies.
        method: How the interval was made: "delong", "bootstrap" or "exact".
    """

    estimate: float
    low: float
    high: float
    standard_error: float
    method: str


@dataclass(frozen=True)
class Difference:
    """AUC(candidate) - AUC(reference) with its confidence interval; negative is a loss.

    Attributes:
        estimate: The difference, in [-1, 1].
        low: The interval's lower end.
        high: The interval's upper end.
        standard_error: Of the estimate, in units of AUC; 0 where nothing varies.
        method: How the interval was made: "delong", "bootstrap" or "one pair".
    """

    estimate: float
    low: float
    high: float
    standard_error: float
    method: str


def same_scores(reference: Floats, candidate: Floats) -> bool:
    """Whether two vectors of scores, [N], are the same but for rounding."""
    return bool(np.abs(np.subtract(candidate, reference, dtype=np.float64)).max() <= ROUNDING)
