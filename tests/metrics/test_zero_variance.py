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
from lpx.metrics.zero_variance import exact_interval, one_pair_half_width
from tests.metrics.samples import binormal_auc


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
    low = exact_interval(1.0, faces, 0.95).low
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


def test_reach_of_one_pair_is_delongs_where_one_pair_changed():
    """The two whose scores meet change places, and DeLong's interval is that wide then."""
    labels, reference = separated(30, 40)
    candidate = reference.copy()
    candidate[[29, 30]] = reference[[30, 29]]
    found = auc_difference(labels, reference, candidate)
    assert (found.estimate, found.method) == (pytest.approx(-1 / 1200), "delong")
    assert found.high - found.estimate == pytest.approx(one_pair_half_width(30, 40, 0.95), rel=1e-6)


def test_fewer_changes_make_no_worse_verdict():
    labels, reference = separated(60, 60)
    moved = reference + 0.01 * labels
    swapped = moved.copy()
    swapped[[59, 60]] = moved[[60, 59]]
    none, one = (auc_difference(labels, reference, scores) for scores in (moved, swapped))
    assert none.method == "one pair"
    assert none.low >= one.low
    assert verdict(none) == verdict(one) == "holds"


def test_few_videos_that_none_passes_decide_nothing():
    """Six videos a class, of which the engine passes one in twenty: mostly none is seen."""
    rng = np.random.default_rng(4)
    labels, reference = separated(6, 6)
    held = unchanged = 0
    for _ in range(400):
        lost = (rng.random(12) < 0.05) & (labels == 1)
        found = auc_difference(labels, reference, np.where(lost, -1.0, reference + 0.01))
        unchanged += found.estimate == 0
        held += verdict(found) == "holds"
    assert unchanged > 200
    assert held == 0


def test_enough_faces_decide():
    # 1.96 sqrt(2) / 0.005 is 554.4.
    for reals, fakes, expected in ((22, 25, "undecided"), (23, 25, "holds")):
        labels, reference = separated(reals, fakes)
        found = auc_difference(labels, reference, reference + 0.01 * labels)
        assert (found.estimate, found.method) == (0.0, "one pair")
        assert verdict(found) == expected


@given(st.integers(2, 20), st.integers(1, 4))
def test_as_many_faces_as_needed_decide(reals, times):
    labels, reference = separated(reals, times * reals)
    found = auc_difference(labels, reference, reference + 0.01 * labels)
    needed = faces_needed(found, len(labels))
    scale = needed / len(labels)
    shrunk = one_pair_half_width(reals, times * reals, 0.95) / scale**2
    assert (shrunk < 0.005) or verdict(found) == "holds"
    if verdict(found) == "undecided":
        assert (
            one_pair_half_width(reals, times * reals, 0.95) / (scale - 2 / len(labels)) ** 2 > 0.005
        )


def test_rounding_makes_no_other_detector():
    labels, reference = separated(4, 4)
    rounded = reference.astype(np.float32)
    for found in (
        auc_difference(labels, reference, rounded),
        auc_difference_bootstrap(labels, reference, rounded, np.arange(8) // 2),
    ):
        assert (found.low, found.estimate, found.high) == (0.0, 0.0, 0.0)
        assert verdict(found) == "holds"


def test_a_difference_that_all_pairs_show_is_no_point():
    labels = [0, 0, 1, 1]
    found = auc_difference(labels, [0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.9, 0.9])
    reach = one_pair_half_width(2, 2, 0.95)
    assert (found.low, found.estimate, found.high) == (0.5 - reach, 0.5, 0.5 + reach)


@pytest.mark.parametrize(
    ("groups", "fakes", "reals"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], 4, 4),  # every face for itself
        ([0, 0, 1, 1, 2, 2, 3, 3], 2, 2),  # two videos of each class
        ([0, 1, 2, 3, 0, 1, 2, 3], 4, 4),  # four videos of both
        ([0, 1, 2, 3, 0, 0, 1, 1], 2, 4),
    ],
)
def test_faces_of_one_group_count_once(groups, fakes, reals):
    labels, reference = separated(4, 4)
    found = auc_difference_bootstrap(labels, reference, reference + 0.1 * labels, groups, 50)
    reach = one_pair_half_width(fakes, reals, 0.95)
    assert (found.low, found.high, found.method) == (-reach, reach, "one pair")


@given(st.integers(1, 10_000), st.sampled_from([0.0, 0.5, 1.0]), st.floats(0.5, 0.999))
def test_exact_interval_contains_the_estimate_and_narrows_with_more_pairs(pairs, value, confidence):
    interval = exact_interval(value, pairs, confidence)
    assert 0 <= interval.low <= interval.estimate == value <= interval.high <= 1
    more = exact_interval(value, pairs + 1, confidence)
    assert more.high - more.low < interval.high - interval.low


def test_interval_is_of_the_auc_that_is_measured():
    labels, scores = separated(7, 9)
    assert auc_interval(labels, scores).estimate == auc(labels, scores)
