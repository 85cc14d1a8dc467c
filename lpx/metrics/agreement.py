"""Agreement between a candidate's scores and the reference's, and detection of constant scores.

AUC depends only on the ranking of real and fake faces. An engine with constant scores has an AUC of
0.5, which is no loss if the reference is no better; an engine that halves every score keeps the
reference's AUC but calls every face real. Lin's concordance correlation coefficient (Biometrics 45,
1989), 2 cov(r, c) / (var(r) + var(c) + (mean(r) - mean(c))^2), is 1 for equal scores and decreases
with noise, with an offset and with a change of scale. McBride (NIWA report HAM2005-062, 2005) calls
agreement below 0.90 poor.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpx.metrics.inputs import Floats, check_confidence, checked_scores, group_codes
from lpx.metrics.intervals import ROUNDING, Interval, normal_quantile, same_scores

# A candidate whose scores vary by less than this share of the reference's standard deviation
# counts as constant: int8 rounding moves even a broken engine's scores a little.
DEAD_SHARE = 0.01


def is_identical(agreement: Interval) -> bool:
    """Return True if a concordance was measured on scores that are equal but for rounding.

    Only `concordance` of such scores has an interval that begins at 1: all others are clipped
    below it.
    """
    return agreement.low == 1.0


def concordance(
    reference: ArrayLike,
    candidate: ArrayLike,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Return Lin's concordance with a jackknife interval over groups.

    The interval is normal on Fisher's z scale, with the standard error of a leave-one-group-out
    jackknife (Efron and Tibshirani 1993, chapter 11).

    Args:
        reference: [N], the reference's scores.
        candidate: [N], the candidate's scores of the same faces in the same order.
        groups: [N], each face's group, such as its video; None assumes independent faces.
        confidence: Nominal coverage of the interval, in (0, 1).

    Returns:
        The estimate, in [-1, 1], and its interval: [1, 1] if the scores agree to rounding, [-1, 1]
        if there is only one group, and [0, 0] if exactly one of the two is constant.

    Raises:
        LpxError: A score is not finite, or lengths differ.
        InvalidArgumentError: `confidence` is outside (0, 1).
    """
    check_confidence(confidence)
    before = checked_scores("reference", reference).astype(np.float64)
    after = checked_scores("candidate", candidate, len(before)).astype(np.float64)
    # Scores that are constant and equal agree perfectly, although their coefficient is undefined.
    if same_scores(before, after):
        return Interval(1.0, 1.0, 1.0)
    # Without groups every face is its own, so the jackknife leaves out one face at a time.
    codes: NDArray[np.integer[Any]] = np.arange(len(before))
    if groups is not None:
        _, codes = group_codes("groups", groups, len(before))
    # Moments about the common mean: differences of sums of squares would lose most of their digits
    # to cancellation when the scores are nearly equal.
    middle = (before.mean() + after.mean()) / 2
    r, c = before - middle, after - middle
    columns = (np.ones(len(r)), r, c, r * r, c * c, r * c)
    sums = np.stack([np.bincount(codes, weights=column) for column in columns])
    whole = float(_coefficient(sums.sum(axis=1)))
    count = sums.shape[1]
    # If the only group is left out, nothing remains: there is no spread to estimate.
    if count < 2:
        return Interval(whole, -1.0, 1.0)
    # The coefficient is a function of sums, so that leaving a group out is a subtraction.
    # Fisher's transformation makes the distribution of a correlation nearly normal, also close to
    # 1.
    left_out = np.arctanh(_clipped(_coefficient(sums.sum(axis=1)[:, None] - sums)))
    # The leave-one-out values are strongly correlated, hence the jackknife's factor (n - 1) / n.
    spread = math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
    reach = normal_quantile(confidence) * spread
    centre = math.atanh(float(_clipped(np.asarray(whole))))
    return Interval(whole, math.tanh(centre - reach), math.tanh(centre + reach))


def _coefficient(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the concordance from (n, sum r, sum c, sum r^2, sum c^2, sum rc), [6, ...].

    It is undefined, and 0 here, if both are constant and equal.
    """
    # Leaving out the only group with faces leaves a count of 0, which must not divide.
    n = np.maximum(sums[0], 1.0)
    mean_r, mean_c = sums[1] / n, sums[2] / n
    covariance = sums[5] / n - mean_r * mean_c
    spread = sums[3] / n - mean_r**2 + sums[4] / n - mean_c**2 + (mean_r - mean_c) ** 2
    return np.asarray(
        np.divide(2 * covariance, spread, out=np.zeros_like(spread), where=spread > 1e-15)
    )


def _clipped(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # arctanh is infinite at -1 and 1.
    return np.clip(values, -1 + 1e-9, 1 - 1e-9)


def is_dead(reference: ArrayLike, candidate: ArrayLike) -> bool:
    """Return True if a candidate gives all faces one score although the reference does not.

    Args:
        reference: [N], the reference's scores.
        candidate: [N], the candidate's scores of the same faces in the same order.

    Returns:
        True if the candidate's scores span at most `ROUNDING`, or have a standard deviation below
        `DEAD_SHARE` of the reference's; False if the reference's own scores span at most
        `ROUNDING`, as those of a single face do.

    Raises:
        LpxError: A score is not finite, there are no scores, or lengths differ.
    """
    before = checked_scores("reference", reference)
    after = checked_scores("candidate", candidate, len(before))
    # A reference that is constant itself cannot show that the candidate is broken.
    if np.ptp(before) <= ROUNDING:
        return False
    return bool(np.ptp(after) <= ROUNDING or _spread(after) < DEAD_SHARE * _spread(before))


def _spread(scores: Floats) -> float:
    # Summing many float32 squares in float32 would lose the small spreads that this is about.
    return float(scores.std(dtype=np.float64))
