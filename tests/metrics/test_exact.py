from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lpx.metrics import (
    auc,
    auc_difference,
    auc_difference_bootstrap,
    auc_interval,
    faces_needed,
    verdict,
)
from lpx.metrics.exact import unvaried

from .samples import binormal_auc


def separated(reals, fakes):
    """Labels and scores of a perfect separation."""
    labels = np.repeat([0, 1], [reals, fakes])
    return labels, labels + np.linspace(0, 0.5, reals + fakes)


@given(st.integers(2, 50), st.integers(2, 50), st.sampled_from([0.8, 0.95, 0.99]))
def test_perfect_separation_has_the_bound_of_as_many_successes_as_trials(reals, fakes, confidence):
    labels, scores = separated(reals, fakes)
    found = auc_interval(labels, scores, confidence)
    trials = min(reals, fakes)
    bound = stats.binomtest(trials, trials).proportion_ci(confidence, method="exact").low
    assert (found.estimate, found.high, found.method) == (1.0, 1.0, "exact")
    assert found.low == pytest.approx(bound)
    turned = auc_interval(labels, -scores, confidence)
    assert (turned.low, turned.high) == pytest.approx((0.0, 1 - bound))


def test_equal_scores_say_little():
    found = auc_interval([0, 0, 0, 1, 1, 1], np.full(6, 0.3))
    tied = 0.025 ** (1 / 3)
    assert (found.low, found.high) == pytest.approx((tied / 2, 1 - tied / 2))


def single_outliers(rng, sets, faces, area):
    """A fake scores below every real as often as the AUC lacks of 1: where the bound is reached."""
    fakes = np.where(rng.random((sets, faces)) < area, 1.0, -1.0)
    return np.zeros((sets, faces)), fakes


def binormal(rng, sets, faces, area):
    separation = stats.norm.ppf(area) * math.sqrt(2)
    assert binormal_auc(separation) == pytest.approx(area)
    return rng.standard_normal((sets, faces)), rng.standard_normal((sets, faces)) + separation


def exponential(rng, sets, faces, area):
    rate = area / (1 - area)
    return rng.exponential(1.0, (sets, faces)), rng.exponential(rate, (sets, faces))


@pytest.mark.parametrize("draw", [single_outliers, binormal, exponential])
@pytest.mark.parametrize("faces", [5, 30])
def test_bound_misses_the_truth_in_no_more_than_it_says(draw, faces):
    """A true AUC just below the bound: perfect separation, which would miss it, has to be rare."""
    rng = np.random.default_rng(faces)
    low, _ = unvaried(1.0, faces, 0.95, 0.0, 1.0)
    reals, fakes = draw(rng, 20_000, faces, low - 1e-9)
    missed = (reals.max(axis=1) < fakes.min(axis=1)).mean()
    assert missed <= 0.025 + 3 * math.sqrt(0.025 / 20_000)
    if draw is single_outliers:
        # No narrower bound holds for every distribution.
        assert missed >= 0.025 - 3 * math.sqrt(0.025 / 20_000)


def test_intervals_of_few_well_separated_faces_cover_the_truth():
    """Twenty faces a class at an AUC of 0.99: where the separation is perfect, always.

    DeLong's own interval, where one face or two are on the wrong side, misses now and then.
    """
    rng = np.random.default_rng(3)
    reals, fakes = binormal(rng, 600, 20, 0.99)
    labels = np.repeat([0, 1], 20)
    found = [auc_interval(labels, np.concatenate(pair)) for pair in zip(reals, fakes, strict=True)]
    covers = np.array([f.low <= 0.99 <= f.high for f in found])
    perfect = np.array([f.estimate == 1 for f in found])
    assert np.mean(perfect) > 0.2
    assert covers[perfect].all()
    # A point at 1 would cover nothing.
    assert np.mean(covers & ~perfect) < 0.7
    assert np.mean(covers) > 0.85


def test_a_loss_beyond_the_margin_is_hardly_ever_called_parity():
    """An engine that loses one face in a hundred, benched on 50 a class that hold none mostly."""
    rng = np.random.default_rng(4)
    labels, reference = separated(50, 50)
    held = []
    for _ in range(500):
        lost = (rng.random(100) < 0.01) & (labels == 1)
        candidate = np.where(lost, -1.0, reference + 0.01)
        held.append(verdict(auc_difference(labels, reference, candidate)) == "holds")
        grouped = auc_difference_bootstrap(labels, reference, candidate, np.arange(100) // 2, 40)
        held.append(verdict(grouped) == "holds")
    assert np.mean(held) <= 0.025


def test_unchanged_order_holds_where_there_are_enough_faces():
    for faces, expected in ((735, "undecided"), (736, "holds")):
        labels, reference = separated(faces, faces + 100)
        found = auc_difference(labels, reference, reference + 0.01 * labels)
        assert (found.estimate, found.method) == (0.0, "exact")
        assert verdict(found) == expected
    labels, reference = separated(40, 60)
    few = auc_difference(labels, reference, reference + 0.01 * labels)
    # Of 100 faces, 40 are of the smaller class; 736 of that have to be.
    assert faces_needed(few, 100) == pytest.approx(736 * 100 / 40, rel=0.01)


def test_rounding_makes_no_other_detector():
    labels, reference = separated(4, 4)
    rounded = reference.astype(np.float32)
    for found in (
        auc_difference(labels, reference, rounded),
        auc_difference_bootstrap(labels, reference, rounded, np.arange(8) // 2),
    ):
        assert (found.low, found.estimate, found.high) == (0.0, 0.0, 0.0)
        assert verdict(found) == "holds"


def test_a_difference_that_all_pairs_show_is_bounded_too():
    labels = [0, 0, 1, 1]
    found = auc_difference(labels, [0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.9, 0.9])
    same = math.sqrt(0.025)
    assert found.estimate == 0.5
    assert (found.low, found.high) == pytest.approx((1.5 * same - 1, 1 - same / 2))
    assert verdict(found) == "undecided"
    assert faces_needed(found, 4) is None


@pytest.mark.parametrize(
    ("groups", "pairs"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], 4),  # every face for itself
        ([0, 0, 1, 1, 2, 2, 3, 3], 2),  # two videos of each class
        ([0, 1, 2, 3, 0, 1, 2, 3], 2),  # four videos of both: a pair takes two
        ([0, 1, 2, 3, 0, 0, 1, 1], 2),
    ],
)
def test_faces_of_one_group_count_once(groups, pairs):
    labels, reference = separated(4, 4)
    found = auc_difference_bootstrap(labels, reference, reference + 0.1 * labels, groups, 50)
    assert found.method == "exact"
    assert (found.low, found.high) == unvaried(0.0, pairs, 0.95, -1.0, 1.0)


def test_no_pair_bounds_nothing():
    assert unvaried(0.0, 0, 0.95, -1.0, 1.0) == (-1.0, 1.0)


@given(st.integers(1, 10_000), st.floats(-1, 1), st.floats(0.5, 0.999))
def test_bounds_hold_the_estimate_and_shrink(pairs, value, confidence):
    low, high = unvaried(value, pairs, confidence, -1.0, 1.0)
    assert -1 - 1e-12 <= low <= value + 1e-12
    assert value - 1e-12 <= high <= 1 + 1e-12
    more = unvaried(value, pairs + 1, confidence, -1.0, 1.0)
    assert more[1] - more[0] < high - low


def test_interval_is_of_the_auc_that_is_measured():
    labels, scores = separated(7, 9)
    assert auc_interval(labels, scores).estimate == auc(labels, scores)
