"""The ROC curve and what is read off it: AUC, EER, average precision, operating points.

Everywhere a face is called fake where its score is at or above the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpx.metrics.inputs import (
    Floats,
    check_between,
    checked_classes,
    checked_labels,
    checked_scores,
)
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

    The Mann-Whitney statistic: the probability that a fake face scores above a real one, ties
    counted half (Hanley and McNeil 1982). Exact but for the last division.

    Args:
        labels: [N], 1 = fake, 0 = real.
        scores: [N], higher = more likely fake.

    Returns:
        The AUC, in [0, 1].

    Raises:
        LpxError: One class only (AUC is undefined), a label other than 0 and 1, a score that
            is not finite, or lengths that differ.
    """
    is_fake = checked_classes(labels)
    checked = checked_scores("scores", scores, len(is_fake))
    fake, real = checked[is_fake], checked[~is_fake]
    wins = int(doubled_placements(fake, real).sum())
    return wins / (2 * len(fake) * len(real))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """Return the ROC curve with one point per distinct score, none dropped.

    Args:
        labels: [N], 1 = fake, 0 = real.
        scores: [N], higher = more likely fake.

    Returns:
        The curve, of one point more than there are distinct scores.

    Raises:
        LpxError: One class only, a label other than 0 and 1, a score that is not finite, or
            lengths that differ.
    """
    is_fake = checked_classes(labels)
    checked = checked_scores("scores", scores, len(is_fake))
    return curve_of(*counts_by_threshold(is_fake, checked))


def curve_of(
    fakes: NDArray[np.int64], reals: NDArray[np.int64], thresholds: NDArray[np.floating[Any]]
) -> RocCurve:
    """The curve of the counts that `counts_by_threshold` gives."""
    return RocCurve(
        fpr=reals / reals[-1],
        tpr=fakes / fakes[-1],
        thresholds=np.concatenate(([np.inf], thresholds)),
    )


def equal_error_rate(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the error rate at which as many reals as fakes are called wrongly, in shares.

    Where no threshold makes FPR and 1 - TPR equal, the crossing is taken on the straight line
    between the two ROC points beside it.

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
    """The equal error rate of a curve; see `equal_error_rate`."""
    excess = curve.fpr + curve.tpr - 1.0  # FPR - FNR: climbs from -1 to 1
    after = int(np.argmax(excess >= 0))
    before = after - 1
    share = -excess[before] / (excess[after] - excess[before])
    return float(curve.fpr[before] + share * (curve.fpr[after] - curve.fpr[before]))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the average precision of calling faces fake.

    The sum over thresholds of (recall gained) * precision, without interpolation, as in
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
    fakes, reals, _ = counts_by_threshold(is_fake, checked)
    return mean_precision(fakes, reals)


def mean_precision(fakes: NDArray[np.int64], reals: NDArray[np.int64]) -> float:
    """The average precision of the counts that `counts_by_threshold` gives."""
    precision = fakes[1:] / (fakes[1:] + reals[1:])
    return float(np.sum(np.diff(fakes) * precision) / fakes[-1])


def threshold_at_fpr(labels: ArrayLike, scores: ArrayLike, fpr: float) -> float:
    """Return the lowest score that, as a threshold, calls at most a share `fpr` of reals fake.

    Args:
        labels: [N], 1 = fake, 0 = real.
        scores: [N], higher = more likely fake.
        fpr: The false positive rate allowed, in [0, 1].

    Returns:
        One of the scores; where even the highest one calls too many reals fake, the next
        number above it in the scores' dtype, at which nothing is called fake.

    Raises:
        LpxError: As `roc_curve`, and where `fpr` lies outside [0, 1].
    """
    check_between("fpr", fpr, 0.0, 1.0, closed=True)
    curve = roc_curve(labels, scores)
    point = _last_within(curve, fpr)
    if point > 0:
        return float(curve.thresholds[point])
    highest = checked_scores("scores", scores).max()
    return float(np.nextafter(highest, np.inf, dtype=highest.dtype))


def tpr_at_fpr(labels: ArrayLike, scores: ArrayLike, fpr: float) -> float:
    """Return the share of fakes caught while at most a share `fpr` of reals is called fake.

    It is the TPR at `threshold_at_fpr`, one that a threshold attains; nothing is interpolated.

    Args:
        labels: [N], 1 = fake, 0 = real.
        scores: [N], higher = more likely fake.
        fpr: The false positive rate allowed, in [0, 1].

    Returns:
        The true positive rate, in [0, 1].

    Raises:
        LpxError: As `threshold_at_fpr`.
    """
    check_between("fpr", fpr, 0.0, 1.0, closed=True)
    return caught_within(roc_curve(labels, scores), fpr)


def caught_within(curve: RocCurve, fpr: float) -> float:
    """The highest TPR of a curve's points at or below a false positive rate."""
    return float(curve.tpr[_last_within(curve, fpr)])


def accuracy(labels: ArrayLike, scores: ArrayLike, threshold: float) -> float:
    """Return the share of faces called rightly at a threshold.

    One class alone is enough here, so that reals and fakes can be looked at apart.

    Args:
        labels: [N], 1 = fake, 0 = real.
        scores: [N], higher = more likely fake.
        threshold: A face is called fake where its score is at or above this.

    Returns:
        The accuracy, in [0, 1].

    Raises:
        LpxError: A label other than 0 and 1, a score that is not finite, lengths that differ,
            or a threshold that is NaN.
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
        LpxError: `threshold` is NaN.
    """
    check_between("threshold", threshold, -np.inf, np.inf, closed=True)
    return np.asarray(scores >= scores.dtype.type(threshold), dtype=np.bool_)


def counts_by_threshold(
    is_fake: NDArray[np.bool_], scores: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating[Any]]]:
    """Count fakes and reals at or above each distinct score, from the highest down.

    The counts begin with 0, for the threshold that calls nothing fake.
    """
    ordered, flags = _descending(is_fake, scores)
    # A threshold takes tied scores all at once, so only the last of a tie is a point.
    last_of_tie = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    fakes = np.cumsum(flags, dtype=np.int64)[last_of_tie]
    reals = last_of_tie + 1 - fakes
    return np.append(0, fakes), np.append(0, reals), ordered[last_of_tie]


def _descending(is_fake: NDArray[np.bool_], scores: Floats) -> tuple[Floats, NDArray[Any]]:
    """Scores from the highest down, and whether each is a fake's."""
    if scores.dtype != np.float32:
        order = np.argsort(scores)[::-1]
        return scores[order], is_fake[order]
    # Score and label in one integer of the same order: NumPy sorts these several times as fast as
    # it finds an order. Negative floats' bits run backwards; -0 becomes 0, with which it ties.
    bits = (scores + np.float32(0)).view(np.uint32)
    sign = np.uint32(1 << 31)
    keys = np.where(bits & sign, ~bits, bits | sign).astype(np.uint64)
    keys = np.sort((keys << np.uint64(1)) | is_fake)[::-1]
    bits = (keys >> np.uint64(1)).astype(np.uint32)
    ordered = np.where(bits & sign, bits ^ sign, ~bits).view(np.float32)
    return ordered, keys & np.uint64(1)


def _last_within(curve: RocCurve, fpr: float) -> int:
    return int(np.searchsorted(curve.fpr, fpr, side="right")) - 1
