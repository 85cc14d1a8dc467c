"""ROC curve, AUC, EER, average precision and operating points.

A face is called fake if its score is at or above the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpx.arguments import check_number
from lpx.errors import InvalidArgumentError
from lpx.metrics.inputs import Floats, checked_classes, checked_labels, checked_scores
from lpx.metrics.ranks import doubled_placements


@dataclass(frozen=True, eq=False)
class RocCurve:
    """Every operating point of a detector, from "nothing is fake" to "everything is fake".

    Attributes:
        fpr: float64 [K], share of real faces called fake; ascends from 0 to 1.
        tpr: float64 [K], share of fake faces called fake; ascends from 0 to 1.
        thresholds: float64 [K], infinity and then every distinct score, descending.
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve.

    It is the Mann-Whitney statistic: the probability that a fake face scores higher than a real
    one, with ties counted half (Hanley and McNeil 1982). Exact but for the last division.

    Args:
        labels: [N], 1 = fake, 0 = real.
        scores: [N], higher = more likely fake.

    Returns:
        The AUC, in [0, 1].

    Raises:
        LpxError: There is only one class, so that AUC is undefined, a label other than 0 and 1, or
            a score that is not finite, or lengths differ.
    """
    is_fake = checked_classes(labels)
    checked = checked_scores("scores", scores, len(is_fake))
    fake, real = checked[is_fake], checked[~is_fake]
    wins = int(doubled_placements(fake, real).sum())
    return wins / (2 * len(fake) * len(real))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """Return the ROC curve with one point per distinct score, including collinear points.

    Args:
        labels: [N], 1 = fake, 0 = real.
        scores: [N], higher = more likely fake.

    Returns:
        The curve; it has one point more than there are distinct scores.

    Raises:
        LpxError: There is only one class, a label other than 0 and 1, or a score that is not
            finite, or lengths differ.
    """
    is_fake = checked_classes(labels)
    checked = checked_scores("scores", scores, len(is_fake))
    return curve_of(counts_by_threshold(is_fake, checked))


class ThresholdCounts(NamedTuple):
    """Number of faces at or above each distinct score, from the highest score down.

    Attributes:
        fakes: int64 [K + 1]; begins with 0, for the threshold that calls nothing fake.
        reals: int64 [K + 1], likewise.
        thresholds: [K], the distinct scores in descending order.
    """

    fakes: NDArray[np.int64]
    reals: NDArray[np.int64]
    thresholds: NDArray[np.floating[Any]]


def curve_of(counts: ThresholdCounts) -> RocCurve:
    """Return the ROC curve of counts."""
    return RocCurve(
        fpr=counts.reals / counts.reals[-1],
        tpr=counts.fakes / counts.fakes[-1],
        # The first point calls nothing fake, which only an infinite threshold does for every score.
        thresholds=np.concatenate(([np.inf], counts.thresholds)),
    )


def equal_error_rate(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the equal error rate, at which FPR and FNR = 1 - TPR are equal.

    If no threshold makes them equal, it is interpolated linearly between the two neighbouring ROC
    points.

    Args:
        labels: [N], 1 = fake, 0 = real.
        scores: [N], higher = more likely fake.

    Returns:
        The equal error rate, in [0, 1].

    Raises:
        LpxError: As `roc_curve`.
    """
    return crossing(roc_curve(labels, scores))


def crossing(curve: RocCurve) -> float:
    """Return the equal error rate of a curve; see `equal_error_rate`."""
    excess = curve.fpr + curve.tpr - 1.0  # FPR - FNR: increases from -1 to 1
    # The curve ends with an excess of 1, so that there always is such a point.
    after = int(np.argmax(excess >= 0))
    # It is never the first point, whose excess is -1.
    before = after - 1
    # The excess grows strictly from point to point, as each adds a face: this does not divide by 0.
    share = -excess[before] / (excess[after] - excess[before])
    return float(curve.fpr[before] + share * (curve.fpr[after] - curve.fpr[before]))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the average precision, with fake as the positive class.

    It is the sum over thresholds of (increase of recall) * precision, without interpolation, as in
    scikit-learn. It depends on the share of fakes: compare it only on the same faces.

    Args:
        labels: [N], 1 = fake, 0 = real.
        scores: [N], higher = more likely fake.

    Returns:
        The average precision, in [0, 1].

    Raises:
        LpxError: As `roc_curve`.
    """
    is_fake = checked_classes(labels)
    checked = checked_scores("scores", scores, len(is_fake))
    return mean_precision(counts_by_threshold(is_fake, checked))


def mean_precision(counts: ThresholdCounts) -> float:
    """Return the average precision of counts; see `average_precision`."""
    fakes, reals = counts.fakes, counts.reals
    # The first point is left out, as it calls no face fake and has no precision.
    precision = fakes[1:] / (fakes[1:] + reals[1:])
    # A sum of steps rather than trapezia: interpolation between precisions is too optimistic.
    return float(np.sum(np.diff(fakes) * precision) / fakes[-1])


def threshold_at_fpr(labels: ArrayLike, scores: ArrayLike, fpr: float) -> float:
    """Return the lowest score that, as a threshold, calls at most a share `fpr` of reals fake.

    Args:
        labels: [N], 1 = fake, 0 = real.
        scores: [N], higher = more likely fake.
        fpr: Allowed false positive rate, in [0, 1].

    Returns:
        One of the scores; if even the highest one calls too many reals fake, the next larger number
        of the scores' dtype, at which nothing is called fake.

    Raises:
        LpxError: As `roc_curve`.
        InvalidArgumentError: `fpr` is outside [0, 1].
    """
    check_number("fpr", fpr, least=0.0, most=1.0)
    curve = roc_curve(labels, scores)
    point = _last_within(curve, fpr)
    if point > 0:
        return float(curve.thresholds[point])
    highest = checked_scores("scores", scores).max()
    # Next in the scores' own dtype: one step of float64 above a float32 score rounds back to it.
    return float(np.nextafter(highest, np.inf, dtype=highest.dtype))


def tpr_at_fpr(labels: ArrayLike, scores: ArrayLike, fpr: float) -> float:
    """Return the highest true positive rate within a false positive rate.

    It is the TPR at `threshold_at_fpr`, which a threshold attains; nothing is interpolated.

    Args:
        labels: [N], 1 = fake, 0 = real.
        scores: [N], higher = more likely fake.
        fpr: Allowed false positive rate, in [0, 1].

    Returns:
        The true positive rate, in [0, 1].

    Raises:
        LpxError: As `roc_curve`.
        InvalidArgumentError: `fpr` is outside [0, 1].
    """
    check_number("fpr", fpr, least=0.0, most=1.0)
    return caught_within(roc_curve(labels, scores), fpr)


def caught_within(curve: RocCurve, fpr: float) -> float:
    """Return the highest TPR of a curve's points at or below a false positive rate."""
    return float(curve.tpr[_last_within(curve, fpr)])


def accuracy(labels: ArrayLike, scores: ArrayLike, threshold: float) -> float:
    """Return the share of faces classified correctly at a threshold.

    Accepts a single class, so that reals and fakes can be examined separately.

    Args:
        labels: [N], 1 = fake, 0 = real.
        scores: [N], higher = more likely fake.
        threshold: A face is called fake if its score is at or above this.

    Returns:
        The accuracy, in [0, 1].

    Raises:
        LpxError: There is a label other than 0 and 1 or a score that is not finite, or lengths
            differ.
        InvalidArgumentError: `threshold` is NaN.
    """
    is_fake = checked_labels(labels)
    checked = checked_scores("scores", scores, len(is_fake))
    return float(np.mean(called_fake(checked, threshold) == is_fake))


def called_fake(scores: Floats, threshold: float) -> NDArray[np.bool_]:
    """Apply a threshold in the scores' own dtype, as an engine that returns them would.

    Args:
        scores: float [N].
        threshold: A score at or above it is called fake.

    Returns:
        bool [N].

    Raises:
        InvalidArgumentError: `threshold` is NaN.
    """
    if math.isnan(threshold):
        # Every comparison with NaN is False, so that all faces would silently be called real.
        raise InvalidArgumentError("threshold", "must not be NaN", threshold)
    return np.asarray(scores >= scores.dtype.type(threshold), dtype=np.bool_)


def counts_by_threshold(is_fake: NDArray[np.bool_], scores: Floats) -> ThresholdCounts:
    """Count fakes and reals at or above each distinct score, from the highest down.

    Args:
        is_fake: bool [N].
        scores: float [N], finite.
    """
    ordered, flags = _descending(is_fake, scores)
    # A threshold includes all tied scores at once, so only the last of a tie is a point.
    last_of_tie = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    fakes = np.cumsum(flags, dtype=np.int64)[last_of_tie]
    reals = last_of_tie + 1 - fakes
    return ThresholdCounts(np.append(0, fakes), np.append(0, reals), ordered[last_of_tie])


class _Ordered(NamedTuple):
    """Scores in descending order, [N], and a flag for those of fakes, [N]."""

    scores: Floats
    is_fake: NDArray[Any]


def _descending(is_fake: NDArray[np.bool_], scores: Floats) -> _Ordered:
    # The order within a tie does not matter: only the counts at its end are used.
    if scores.dtype != np.float32:
        order = np.argsort(scores)[::-1]
        return _Ordered(scores[order], is_fake[order])
    # Score and label are packed into one integer that sorts like the score: for two million faces
    # this took two thirds of the time of argsort. The bit patterns of negative floats run backwards
    # and are inverted; adding 0 turns -0 into 0, with which it ties.
    bits = (scores + np.float32(0)).view(np.uint32)
    sign = np.uint32(1 << 31)
    keys = np.where(bits & sign, ~bits, bits | sign).astype(np.uint64)
    keys = np.sort((keys << np.uint64(1)) | is_fake)[::-1]
    bits = (keys >> np.uint64(1)).astype(np.uint32)
    ordered = np.where(bits & sign, bits ^ sign, ~bits).view(np.float32)
    return _Ordered(ordered, keys & np.uint64(1))


def _last_within(curve: RocCurve, fpr: float) -> int:
    # "right" includes points that are exactly at the rate.
    return int(np.searchsorted(curve.fpr, fpr, side="right")) - 1
