from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from lpx.errors import LpxError
from lpx.metrics import (
    accuracy,
    auc,
    average_precision,
    equal_error_rate,
    roc_curve,
    threshold_at_fpr,
    tpr_at_fpr,
)
from tests.metrics.samples import labelled


@given(labelled())
def test_auc_agrees_with_scikit_learn_through_ties(sample):
    labels, scores = sample
    assert auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)


@given(labelled())
def test_average_precision_agrees_with_scikit_learn(sample):
    labels, scores = sample
    expected = sk.average_precision_score(labels, scores)
    assert average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)


@given(labelled())
def test_roc_curve_agrees_with_scikit_learn(sample):
    labels, scores = sample
    curve = roc_curve(labels, scores)
    fpr, tpr, thresholds = sk.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.fpr, fpr)
    np.testing.assert_allclose(curve.tpr, tpr)
    np.testing.assert_array_equal(curve.thresholds, thresholds)


@given(labelled())
def test_auc_is_the_area_under_the_curve_and_complements_under_negation(sample):
    labels, scores = sample
    curve = roc_curve(labels, scores)
    assert auc(labels, scores) == pytest.approx(sk.auc(curve.fpr, curve.tpr), abs=1e-12)
    assert auc(labels, -scores) == pytest.approx(1 - auc(labels, scores), abs=1e-12)


def test_auc_by_hand():
    assert auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    assert auc([0, 1], [0.5, 0.5]) == 0.5
    assert auc([False, True], [0, 1]) == 1.0
    assert auc([1, 0], [-0.0, 0.0]) == 0.5


def test_auc_of_many_ties_does_not_overflow_or_round():
    labels = np.tile([0, 1], 100_000)
    assert auc(labels, np.zeros(200_000, dtype=np.float16)) == 0.5


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 0.0),
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9], 1.0),
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], 0.5),
        ([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], 0.5),
        # (FPR, TPR) goes (0, 2/3) -> (1/2, 2/3): FPR = 1 - TPR at FPR 1/3.
        ([0, 1, 0, 1, 1], [0.3, 0.1, 0.5, 0.8, 0.9], 1 / 3),
    ],
)
def test_equal_error_rate_by_hand(labels, scores, expected):
    assert equal_error_rate(labels, scores) == pytest.approx(expected)


@given(labelled())
def test_equal_error_rate_lies_on_the_curve(sample):
    labels, scores = sample
    rate = equal_error_rate(labels, scores)
    curve = roc_curve(labels, scores)
    assert 0 <= rate <= 1
    # Some straight piece of the curve passes through (rate, 1 - rate).
    pieces = zip(curve.fpr, curve.fpr[1:], curve.tpr, curve.tpr[1:], strict=False)
    assert any(
        x0 - 1e-12 <= rate <= x1 + 1e-12
        and y0 - 1e-12 <= 1 - rate <= y1 + 1e-12
        and abs((x1 - x0) * (1 - rate - y0) - (y1 - y0) * (rate - x0)) < 1e-12
        for x0, x1, y0, y1 in pieces
    )


@given(labelled(), st.sampled_from([0.0, 0.01, 0.1, 1 / 3, 0.5, 1.0]))
def test_threshold_at_fpr_keeps_its_promise_and_wastes_nothing(sample, fpr):
    labels, scores = sample
    reals, fakes = scores[labels == 0], scores[labels == 1]
    threshold = threshold_at_fpr(labels, scores, fpr)
    assert np.mean(reals >= np.float32(threshold)) <= fpr
    assert np.mean(fakes >= np.float32(threshold)) == tpr_at_fpr(labels, scores, fpr)
    lower = scores[scores < np.float32(threshold)]
    if lower.size:
        assert np.mean(reals >= lower.max()) > fpr


def test_threshold_above_every_score_is_finite_and_calls_nothing_fake():
    scores = np.array([0.9, 0.1], dtype=np.float32)
    threshold = threshold_at_fpr([0, 1], scores, 0.0)
    assert np.float32(0.9) < threshold < 0.91
    assert accuracy([0, 1], scores, threshold) == 0.5
    assert tpr_at_fpr([0, 1], scores, 0.0) == 0.0


def test_accuracy_counts_a_score_on_the_threshold_as_fake():
    assert accuracy([1, 0, 0, 1], [0.5, 0.4, 0.6, 0.2], 0.5) == 0.5
    assert accuracy([1, 1], np.array([0.1, 0.1], dtype=np.float32), 0.1) == 1.0


@pytest.mark.parametrize("measure", [tpr_at_fpr, threshold_at_fpr])
@pytest.mark.parametrize("fpr", [-0.1, 1.1, float("nan")])
def test_fpr_outside_its_range_is_refused(measure, fpr):
    with pytest.raises(LpxError, match="fpr must be"):
        measure([0, 1], [0.1, 0.2], fpr)


def test_a_threshold_that_is_nan_is_refused():
    with pytest.raises(LpxError, match="threshold must not be NaN"):
        accuracy([0, 1], [0.1, 0.2], float("nan"))
