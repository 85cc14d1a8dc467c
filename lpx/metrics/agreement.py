"""Whether a candidate's scores follow the reference's: Lin's concordance, and constant scores.

An AUC sees the order of real and fake faces alone. An engine whose scores are all the same has an
AUC of 0.5, which is not a loss for a reference that is no better; one whose scores are halved has
the reference's AUC, and calls every face real. Lin's concordance correlation coefficient
(Biometrics 45, 1989), 2 cov(r, c) / (var(r) + var(c) + (mean(r) - mean(c))^2), is 1 where the
scores are equal and falls with noise, with a shift, and with another spread. McBride (NIWA report
HAM2005-062, 2005) calls agreement poor below 0.90.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpx.metrics.inputs import Floats, check_between, checked_scores, group_codes
from lpx.metrics.intervals import ROUNDING, same_scores

DEAD_SHARE = 0.01
"""Share of the reference's standard deviation below which a candidate's scores are constant."""


@dataclass(frozen=True)
class Concordance:
    """Lin's concordance of two vectors of scores, with its confidence interval.

    Attributes:
        estimate: In [-1, 1]; 1 where both score every face alike.
        low: The interval's lower end.
        high: The interval's upper end.
    """

    estimate: float
    low: float
    high: float

    @property
    def same(self) -> bool:
        """Whether the scores are the same but for rounding."""
        return self.low == 1.0


def concordance(
    reference: ArrayLike,
    candidate: ArrayLike,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Concordance:
    """Return Lin's concordance with a jackknife interval over groups.

    The interval is normal on Fisher's z scale, its standard error that of the jackknife which
    leaves out one group at a time (Efron and Tibshirani 1993, chapter 11).

    Args:
        reference: [N], the reference's scores.
        candidate: [N], the candidate's scores of the same faces in the same order.
        groups: [N], each face's group, such as its video; None takes faces for independent.
        confidence: The interval's nominal coverage, in (0, 1).

    Returns:
        The estimate and its interval: [1, 1] where scores agree to rounding, [-1, 1] where a single
        group gives none, and 0 without width where one side is constant and the other is not.

    Raises:
        LpxError: A score that is not finite, lengths that differ, or `confidence` outside (0, 1).
    """
    check_between("confidence", confidence, 0.0, 1.0, closed=False)
    before = checked_scores("reference", reference).astype(np.float64)
    after = checked_scores("candidate", candidate, len(before)).astype(np.float64)
    if same_scores(before, after):
        return Concordance(1.0, 1.0, 1.0)
    codes: NDArray[np.integer[Any]] = np.arange(len(before))
    if groups is not None:
        _, codes = group_codes("groups", groups, len(before))
    # Moments about the common mean: sums of squares of nearly equal scores would cancel.
    middle = (before.mean() + after.mean()) / 2
    r, c = before - middle, after - middle
    columns = (np.ones(len(r)), r, c, r * r, c * c, r * c)
    sums = np.stack([np.bincount(codes, weights=column) for column in columns])
    whole = float(_coefficient(sums.sum(axis=1)))
    count = sums.shape[1]
    if count < 2:
        return Concordance(whole, -1.0, 1.0)
    left_out = np.arctanh(_clipped(_coefficient(sums.sum(axis=1)[:, None] - sums)))
    spread = math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * spread
    centre = math.atanh(float(_clipped(np.asarray(whole))))
    return Concordance(whole, math.tanh(centre - reach), math.tanh(centre + reach))


def _coefficient(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Concordance from (n, sum r, sum c, sum r^2, sum c^2, sum rc), [6, ...]; 0 where undefined."""
    n = np.maximum(sums[0], 1.0)
    mean_r, mean_c = sums[1] / n, sums[2] / n
    covariance = sums[5] / n - mean_r * mean_c
    spread = sums[3] / n - mean_r**2 + sums[4] / n - mean_c**2 + (mean_r - mean_c) ** 2
    return np.asarray(
        np.divide(2 * covariance, spread, out=np.zeros_like(spread), where=spread > 1e-15)
    )


def _clipped(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(values, -1 + 1e-9, 1 - 1e-9)


def is_dead(reference: ArrayLike, candidate: ArrayLike) -> bool:
    """Whether a candidate gives all faces one score although the reference does not.

    Args:
        reference: [N], the reference's scores.
        candidate: [N], the candidate's scores of the same faces in the same order.

    Returns:
        True where the candidate's scores lie within `ROUNDING` of each other, or their standard
        deviation is below `DEAD_SHARE` of the reference's; False where the reference's own scores
        lie within `ROUNDING` of each other, and with fewer than two faces.

    Raises:
        LpxError: A score that is not finite, no scores, or lengths that differ.
    """
    before = checked_scores("reference", reference)
    after = checked_scores("candidate", candidate, len(before))
    if np.ptp(before) <= ROUNDING:
        return False
    return bool(np.ptp(after) <= ROUNDING or _spread(after) < DEAD_SHARE * _spread(before))


def _spread(scores: Floats) -> float:
    return float(scores.std(dtype=np.float64))
