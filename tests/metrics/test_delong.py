from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.errors import LpxError
from lpx.metrics import auc, auc_difference, auc_interval
from tests.metrics.samples import binormal_auc, binormal_pair, labelled


def brute_force_covariance(labels, score_vectors):
    """DeLong's covariance matrix of the AUCs from all m*n comparisons, as the paper has it."""
    by_fake, by_real = [], []
    for scores in score_vectors:
        fake, real = scores[labels == 1].astype(float), scores[labels == 0].astype(float)
        wins = (fake[:, None] > real) + 0.5 * (fake[:, None] == real)
        by_fake.append(wins.mean(axis=1))
        by_real.append(wins.mean(axis=0))
    fakes, reals = len(by_fake[0]), len(by_real[0])
    return np.atleast_2d(np.cov(by_fake)) / fakes + np.atleast_2d(np.cov(by_real)) / reals


@given(labelled(vectors=2, least_per_class=2))
def test_difference_agrees_with_brute_force(sample):
    labels, reference, candidate = sample
    covariance = brute_force_covariance(labels, [reference, candidate])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    difference = auc_difference(labels, reference, candidate)
    assert difference.estimate == auc(labels, candidate) - auc(labels, reference)
    if difference.method == "one pair":
        assert variance == pytest.approx(0, abs=1e-12)
        return
    error = (difference.high - difference.low) / (2 * 1.959963984540054)
    assert error**2 == pytest.approx(variance, abs=1e-12)
    assert difference.method == "delong"


@given(labelled(least_per_class=2), st.sampled_from([0.8, 0.95, 0.99]))
def test_interval_agrees_with_brute_force(sample, confidence):
    labels, scores = sample
    variance = brute_force_covariance(labels, [scores])[0, 0]
    interval = auc_interval(labels, scores, confidence)
    assert interval.estimate == auc(labels, scores)
    if interval.method == "exact":
        assert variance == pytest.approx(0, abs=1e-12)
    else:
        half_width = NormalDist().inv_cdf(0.5 + confidence / 2) * np.sqrt(variance)
        assert interval.low == pytest.approx(max(0, interval.estimate - half_width), abs=1e-9)
        assert interval.high == pytest.approx(min(1, interval.estimate + half_width), abs=1e-9)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1


@given(labelled(least_per_class=2))
def test_identical_scores_give_a_point_at_zero(sample):
    labels, scores = sample
    difference = auc_difference(labels, scores, scores)
    assert (difference.estimate, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_swapping_reference_and_candidate_mirrors_the_interval():
    labels, reference, candidate = binormal_pair(np.random.default_rng(1), 50)
    forth = auc_difference(labels, reference, candidate)
    back = auc_difference(labels, candidate, reference)
    assert (back.low, back.high) == (-forth.high, -forth.low)


def test_agrees_with_a_published_example():
    """109 CT images rated from 1 to 5 by one reader: Hanley and McNeil, Radiology 143 (1982).

    AUC and DeLong's interval are those that Stata's manual prints for these data ([R] roctab).
    """
    ratings = np.arange(1, 6)
    normal, abnormal = np.repeat(ratings, [33, 6, 6, 11, 2]), np.repeat(ratings, [3, 2, 2, 11, 33])
    labels = np.repeat([0, 1], [len(normal), len(abnormal)])
    found = auc_interval(labels, np.concatenate([normal, abnormal]).astype(float))
    assert found.estimate == pytest.approx(0.8932, abs=5e-5)
    assert (found.low, found.high) == pytest.approx((0.83295, 0.95339), abs=5e-6)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """1,000 paired sets from a binormal model whose AUCs are known."""
    rng = np.random.default_rng(2024)
    true_candidate = binormal_auc(1.0)
    true_difference = true_candidate - binormal_auc(1.2)
    difference_covers = interval_covers = 0
    for _ in range(1000):
        labels, reference, candidate = binormal_pair(rng, 150)
        difference = auc_difference(labels, reference, candidate)
        interval = auc_interval(labels, candidate)
        difference_covers += difference.low <= true_difference <= difference.high
        interval_covers += interval.low <= true_candidate <= interval.high
    assert 930 <= difference_covers <= 970
    assert 930 <= interval_covers <= 970


@pytest.mark.parametrize("labels", [[0, 1, 1, 1], [1, 0, 0, 0]])
def test_a_class_of_one_face_has_no_variance(labels):
    with pytest.raises(LpxError, match="at least two faces of each class"):
        auc_interval(labels, [0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, float("nan")])
def test_confidence_outside_its_range_is_refused(confidence):
    with pytest.raises(LpxError, match="confidence must be"):
        auc_interval([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], confidence)
