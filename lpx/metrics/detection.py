"""Detection metrics of a detector, over all faces and per manipulation method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpx.metrics.inputs import Floats, checked_classes, checked_scores, group_codes
from lpx.metrics.roc import caught_within, counts_by_threshold, crossing, curve_of, mean_precision

# False positive rates at which the true positive rate is reported.
FALSE_POSITIVE_RATES = (0.01, 0.05, 0.1)


@dataclass(frozen=True)
class DetectionMetrics:
    """Detection metrics of one detector.

    Attributes:
        method: Manipulation method, or "all".
        fakes: Number of fakes (faces, or videos if videos were passed).
        reals: Number of reals, the same in every row.
        auc: Area under the ROC curve, in [0, 1].
        equal_error_rate: In [0, 1].
        average_precision: In [0, 1]; depends on the share of fakes.
        tpr_at_fpr: Highest true positive rate within each false positive rate of
            `FALSE_POSITIVE_RATES`; keys are written "0.01".
        accuracy_at_half: Accuracy at a threshold of 0.5.
        accuracy: Accuracy at the detector's own threshold.
        true_positive_rate: True positive rate at the detector's own threshold.
        false_positive_rate: False positive rate at the detector's own threshold.
    """

    method: str
    fakes: int
    reals: int
    auc: float
    equal_error_rate: float
    average_precision: float
    tpr_at_fpr: dict[str, float]
    accuracy_at_half: float
    accuracy: float
    true_positive_rate: float
    false_positive_rate: float


def detection_metrics(
    labels: ArrayLike, scores: ArrayLike, threshold: float, method: str = "all"
) -> DetectionMetrics:
    """Return the metrics of a detector, all from a single sort of the scores.

    Args:
        labels: [N], 1 = fake, 0 = real.
        scores: [N], higher = more likely fake.
        threshold: The detector's own; a score at or above it is called fake.
        method: Name of the row.

    Raises:
        LpxError: There is only one class, a label other than 0 and 1, or a score that is not
            finite, or lengths differ.
    """
    is_fake = checked_classes(labels)
    return _measure(is_fake, checked_scores("scores", scores, len(is_fake)), threshold, method)


def per_method(
    scores: ArrayLike, labels: ArrayLike, methods: ArrayLike, threshold: float
) -> tuple[DetectionMetrics, ...]:
    """Return the metrics of each manipulation method's fakes against all reals.

    Takes faces, or the `scores`, `labels` and `methods` of `video_scores`.

    Args:
        scores: [N], higher = more likely fake.
        labels: [N], 1 = fake, 0 = real.
        methods: [N], the manipulation method; ignored for reals.
        threshold: The detector's own.

    Returns:
        One row per method with fakes, sorted by name.

    Raises:
        LpxError: As `detection_metrics`.
    """
    is_fake = checked_classes(labels)
    checked = checked_scores("scores", scores, len(is_fake))
    names, codes = group_codes("methods", methods, len(is_fake))
    # Methods of real faces get no row: an AUC of reals alone does not exist.
    rows = []
    for code in np.unique(codes[is_fake]):
        shown = ~is_fake | (codes == code)
        rows.append(_measure(is_fake[shown], checked[shown], threshold, str(names[code])))
    return tuple(rows)


def _measure(
    is_fake: NDArray[np.bool_], scores: Floats, threshold: float, method: str
) -> DetectionMetrics:
    # Everything below follows from these counts: sorting the scores is the expensive part.
    # Labels and scores have been checked by the callers, once for all methods.
    counts = counts_by_threshold(is_fake, scores)
    fakes, reals, thresholds = counts
    curve = curve_of(counts)
    called = _called(thresholds, threshold)
    return DetectionMetrics(
        method=method,
        fakes=int(fakes[-1]),
        reals=int(reals[-1]),
        # From counts rather than by trapezia of the curve, whose float sums would differ from
        # `roc.auc` in the last digits.
        auc=_area(fakes, reals),
        equal_error_rate=crossing(curve),
        average_precision=mean_precision(counts),
        tpr_at_fpr={f"{fpr:g}": caught_within(curve, fpr) for fpr in FALSE_POSITIVE_RATES},
        accuracy_at_half=_accuracy(fakes, reals, _called(thresholds, 0.5)),
        accuracy=_accuracy(fakes, reals, called),
        true_positive_rate=int(fakes[called]) / int(fakes[-1]),
        false_positive_rate=int(reals[called]) / int(reals[-1]),
    )


def _area(fakes: NDArray[np.int64], reals: NDArray[np.int64]) -> float:
    """Return the AUC from integer counts, exact but for the last division; equals `roc.auc`."""
    # Each fake beats the reals below its score, and half of those that tie with it.
    doubled = np.diff(fakes) * (2 * (reals[-1] - reals[1:]) + np.diff(reals))
    return int(doubled.sum()) / (2 * int(fakes[-1]) * int(reals[-1]))


def _called(thresholds: Floats, threshold: float) -> int:
    """Return how many of the distinct scores, in descending order, are called fake."""
    # Compared in the scores' own dtype, as an engine that returns them would.
    return int(np.count_nonzero(thresholds >= thresholds.dtype.type(threshold)))


def _accuracy(fakes: NDArray[np.int64], reals: NDArray[np.int64], called: int) -> float:
    right = int(fakes[called]) + int(reals[-1] - reals[called])
    return right / int(fakes[-1] + reals[-1])
