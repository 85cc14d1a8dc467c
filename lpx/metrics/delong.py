"""DeLong's intervals of an AUC and of a difference of paired AUCs, in O(N log N).

DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), computed from ranks as in Sun and Xu, IEEE
Signal Processing Letters 21 (2014). Faces are assumed independent: if several come from one video
the interval is too narrow, and `auc_difference_bootstrap` is the one to trust.

With perfect separation the estimated variance is 0, which says nothing about unseen faces; the
interval is then that of `lpx.metrics.zero_variance`. Two engines whose scores are equal but for
rounding are the same detector, whatever the faces, and their difference is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpx.errors import LpxError
from lpx.metrics.inputs import Floats, check_confidence, checked_classes, checked_scores
from lpx.metrics.intervals import Interval, normal_quantile, same_scores
from lpx.metrics.ranks import doubled_placements
from lpx.metrics.zero_variance import exact_interval, one_pair_half_width


def auc_interval(labels: ArrayLike, scores: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the AUC with DeLong's normal interval, clipped to [0, 1].

    Args:
        labels: [N], 1 = fake, 0 = real; at least two of each.
        scores: [N], higher = more likely fake.
        confidence: Nominal coverage of the interval, in (0, 1).

    Returns:
        The AUC and its interval; method "delong", or "exact" if the estimated variance is 0.

    Raises:
        LpxError: There are fewer than two faces of a class, a label other than 0 and 1, or a score
            that is not finite, or lengths differ.
        InvalidArgumentError: `confidence` is outside (0, 1).
    """
    check_confidence(confidence)
    is_fake = _checked_pairs_of_classes(labels)
    placed = _place(is_fake, checked_scores("scores", scores, len(is_fake)))
    error = _standard_error(placed.of_fakes, placed.of_reals)
    # A variance of 0 would give an interval without width, which no finite sample justifies.
    if not error:
        pairs = min(len(placed.of_fakes), len(placed.of_reals))
        return exact_interval(placed.auc, pairs, confidence)
    half_width = normal_quantile(confidence) * error
    return Interval(
        # Near 0 and 1 the normal interval reaches past values that an AUC can take.
        estimate=placed.auc,
        low=max(0.0, placed.auc - half_width),
        high=min(1.0, placed.auc + half_width),
        method="delong",
    )


def auc_difference(
    labels: ArrayLike,
    reference_scores: ArrayLike,
    candidate_scores: ArrayLike,
    confidence: float = 0.95,
) -> Interval:
    """Return AUC(candidate) - AUC(reference) on the same faces, with DeLong's normal interval.

    Args:
        labels: [N], 1 = fake, 0 = real; at least two of each.
        reference_scores: [N], the reference's score of each face.
        candidate_scores: [N], the candidate's score of the same faces in the same order.
        confidence: Nominal coverage of the interval, in (0, 1).

    Returns:
        The difference and its interval; method "delong", or "one pair" if scores differ but the
        estimated variance is 0. A negative difference is a loss.

    Raises:
        LpxError: There are fewer than two faces of a class, a label other than 0 and 1, or a score
            that is not finite, or lengths differ.
        InvalidArgumentError: `confidence` is outside (0, 1).
    """
    check_confidence(confidence)
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
    # Equal placements of different scores are luck; only scores that are the same have no error.
    if not error and not same_scores(before, after):
        fakes, reals = len(reference.of_fakes), len(reference.of_reals)
        return Interval.about(estimate, one_pair_half_width(fakes, reals, confidence), "one pair")
    return Interval.about(estimate, normal_quantile(confidence) * error, "delong")


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
        # The sum stays an integer until the one division, so that equal rankings give equal AUCs.
        auc=int(reals_below.sum()) / (2 * len(fake) * len(real)),
        of_fakes=reals_below / (2 * len(real)),
        # Fakes below a real one are its losses; the component is the share of its wins.
        of_reals=1.0 - fakes_below / (2 * len(fake)),
    )


def _standard_error(of_fakes: NDArray[np.float64], of_reals: NDArray[np.float64]) -> float:
    return math.sqrt(of_fakes.var(ddof=1) / len(of_fakes) + of_reals.var(ddof=1) / len(of_reals))


def _checked_pairs_of_classes(labels: ArrayLike) -> NDArray[np.bool_]:
    is_fake = checked_classes(labels)
    fakes = int(is_fake.sum())
    reals = len(is_fake) - fakes
    # The sample variance divides by n - 1, so that a class of one face has none.
    if min(fakes, reals) < 2:
        raise LpxError(
            f"labels: {fakes} fake and {reals} real",
            "DeLong's variance needs at least two faces of each class",
            "add faces of the smaller class",
        )
    return is_fake
