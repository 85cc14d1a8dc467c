"""DeLong's variance of an AUC and of a difference of paired AUCs, in O(N log N).

DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), computed from ranks as in Sun and Xu,
IEEE Signal Processing Letters 21 (2014). Faces are taken to be independent: where several come
from one video the interval is too narrow, and `auc_difference_bootstrap` is the one to trust.

Where nothing varies, as with a perfect separation, the variance is 0 and says nothing of faces not
seen: the interval is that of `lpx.metrics.zero_variance` then. Two engines that score every face
    alike
but for rounding are one detector, whatever the faces, and their difference is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpx.errors import LpxError
from lpx.metrics.inputs import Floats, check_between, checked_classes, checked_scores
from lpx.metrics.intervals import Difference, Interval, same_scores
from lpx.metrics.ranks import doubled_placements
from lpx.metrics.zero_variance import exact_ends, one_pair_reach


def auc_interval(labels: ArrayLike, scores: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the AUC with DeLong's normal interval, cut off at 0 and 1; at 0 or 1 with the exact.

    Args:
        labels: [N], 1 = fake, 0 = real; at least two of each.
        scores: [N], higher = more likely fake.
        confidence: The interval's nominal coverage, in (0, 1).

    Returns:
        The AUC and its interval, method "delong", or "exact" where nothing varies.

    Raises:
        LpxError: Fewer than two faces of a class, a label other than 0 and 1, a score that is
            not finite, lengths that differ, or `confidence` outside (0, 1).
    """
    check_between("confidence", confidence, 0.0, 1.0, closed=False)
    is_fake = _checked_pairs_of_classes(labels)
    placed = _place(is_fake, checked_scores("scores", scores, len(is_fake)))
    error = _standard_error(placed.of_fakes, placed.of_reals)
    if not error:
        pairs = min(len(placed.of_fakes), len(placed.of_reals))
        ends = exact_ends(placed.auc, pairs, confidence)
        return Interval(placed.auc, *ends, error, method="exact")
    reach = _quantile(confidence) * error
    return Interval(
        estimate=placed.auc,
        low=max(0.0, placed.auc - reach),
        high=min(1.0, placed.auc + reach),
        standard_error=error,
        method="delong",
    )


def auc_difference(
    labels: ArrayLike,
    reference_scores: ArrayLike,
    candidate_scores: ArrayLike,
    confidence: float = 0.95,
) -> Difference:
    """Return AUC(candidate) - AUC(reference) on the same faces, with DeLong's normal interval.

    Args:
        labels: [N], 1 = fake, 0 = real; at least two of each.
        reference_scores: [N], the reference's score of each face.
        candidate_scores: [N], the candidate's score of the same faces in the same order.
        confidence: The interval's nominal coverage, in (0, 1).

    Returns:
        The difference and its interval, method "delong", or "one pair" where nothing varies
        although scores differ.

    Raises:
        LpxError: Fewer than two faces of a class, a label other than 0 and 1, a score that is
            not finite, lengths that differ, or `confidence` outside (0, 1).
    """
    check_between("confidence", confidence, 0.0, 1.0, closed=False)
    is_fake = _checked_pairs_of_classes(labels)
    before = checked_scores("reference_scores", reference_scores, len(is_fake))
    after = checked_scores("candidate_scores", candidate_scores, len(is_fake))
    reference, candidate = _place(is_fake, before), _place(is_fake, after)
    estimate = candidate.auc - reference.auc
    # The variance of the differences is the contrast (-1, 1) of DeLong's covariance matrix,
    # without the cancellation of subtracting its nearly equal entries.
    error = _standard_error(
        candidate.of_fakes - reference.of_fakes, candidate.of_reals - reference.of_reals
    )
    if not error and not same_scores(before, after):
        reach = one_pair_reach(len(reference.of_fakes), len(reference.of_reals), confidence)
        return Difference(estimate, estimate - reach, estimate + reach, error, method="one pair")
    reach = _quantile(confidence) * error
    return Difference(estimate, estimate - reach, estimate + reach, error, method="delong")


@dataclass(frozen=True, eq=False)
class _Placed:
    """An AUC and its structural components: V10 [m] of the fakes, V01 [n] of the reals."""

    auc: float
    of_fakes: NDArray[np.float64]
    of_reals: NDArray[np.float64]


def _place(is_fake: NDArray[np.bool_], scores: Floats) -> _Placed:
    fake, real = scores[is_fake], scores[~is_fake]
    reals_below = doubled_placements(fake, real)
    fakes_below = doubled_placements(real, fake)
    return _Placed(
        auc=int(reals_below.sum()) / (2 * len(fake) * len(real)),
        of_fakes=reals_below / (2 * len(real)),
        of_reals=1.0 - fakes_below / (2 * len(fake)),
    )


def _standard_error(of_fakes: NDArray[np.float64], of_reals: NDArray[np.float64]) -> float:
    return math.sqrt(of_fakes.var(ddof=1) / len(of_fakes) + of_reals.var(ddof=1) / len(of_reals))


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _checked_pairs_of_classes(labels: ArrayLike) -> NDArray[np.bool_]:
    is_fake = checked_classes(labels)
    fakes = int(is_fake.sum())
    reals = len(is_fake) - fakes
    if min(fakes, reals) < 2:
        raise LpxError(
            f"labels: {fakes} fake and {reals} real",
            "DeLong's variance needs at least two faces of each class",
            "add faces of the smaller class",
        )
    return is_fake
