"""A number with its confidence interval, and the test for scores that differ by rounding only."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lpx.metrics.inputs import Floats

# The tolerance between a checkpoint and its export: a difference of this size is rounding, and no
# verdict may depend on it.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Interval:
    """A number with its confidence interval.

    Attributes:
        estimate: The number, in units of what it measures.
        low: Lower end of the interval.
        high: Upper end of the interval.
        method: How the interval was made, such as "delong", "bootstrap", "exact" or "one pair"; ""
            where there is only one way.
    """

    estimate: float
    low: float
    high: float
    method: str = ""

    @classmethod
    def about(cls, estimate: float, half_width: float, method: str = "") -> Interval:
        """Return the symmetric interval about an estimate."""
        return cls(estimate, estimate - half_width, estimate + half_width, method)


def normal_quantile(confidence: float) -> float:
    """Return the half-width, in standard errors, of a normal interval with this coverage."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def same_scores(reference: Floats, candidate: Floats) -> bool:
    """Return True if two score vectors, [N], differ by at most `ROUNDING`."""
    # In float64, as the difference of two float32 scores would be rounded to float32 again.
    return bool(np.abs(np.subtract(candidate, reference, dtype=np.float64)).max() <= ROUNDING)
