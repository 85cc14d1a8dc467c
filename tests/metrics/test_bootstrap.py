from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from lpx.errors import LpxError
from lpx.metrics import (
    auc,
    auc_difference,
    auc_difference_bootstrap,
    auc_interval,
    auc_interval_bootstrap,
    bootstrap,
)
from tests.metrics.samples import binormal_auc, binormal_pair, labelled


def videos_of_faces(seed=5, reals=12, fakes=30, mixed=0, per_video=(1, 12)):
    """Scores whose faces share their video's hardness; videos are real, fake, or of both."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(*per_video, size=reals + fakes + mixed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    kind = np.repeat([0.0, 1.0, 0.5], [reals, fakes, mixed])[groups]
    labels = (rng.random(len(groups)) < kind).astype(int)
    hardness = rng.standard_normal(len(sizes))[groups]
    reference = labels + hardness + 0.5 * rng.standard_normal(len(groups))
    drift = rng.standard_normal(len(sizes))[groups]
    candidate = reference - 0.1 * labels + 0.3 * drift + 0.2 * rng.standard_normal(len(groups))
    return labels, np.round(reference, 1), np.round(candidate, 1), groups


def naive_bootstrap(labels, reference, candidate, groups, resamples, seed):
    """Draw groups in a loop, concatenate their faces, and ask scikit-learn for the AUCs."""
    rng = np.random.default_rng(seed)
    faces = {group: np.flatnonzero(groups == group) for group in np.unique(groups)}
    strata: dict[tuple[int, ...], list[int]] = {}
    for group, members in faces.items():
        strata.setdefault(tuple(np.unique(labels[members])), []).append(group)
    differences = []
    for _ in range(resamples):
        drawn = [g for stratum in strata.values() for g in rng.choice(stratum, len(stratum))]
        chosen = np.concatenate([faces[group] for group in drawn])
        differences.append(
            roc_auc_score(labels[chosen], candidate[chosen])
            - roc_auc_score(labels[chosen], reference[chosen])
        )
    return np.array(differences)


@pytest.mark.parametrize("mixed", [0, 10])
def test_agrees_with_a_naive_loop_over_groups(mixed):
    labels, reference, candidate, groups = videos_of_faces(mixed=mixed)
    naive = naive_bootstrap(labels, reference, candidate, groups, resamples=600, seed=1)
    difference = auc_difference_bootstrap(labels, reference, candidate, groups, resamples=8000)
    error = naive.std(ddof=1)
    assert difference.low == pytest.approx(np.quantile(naive, 0.025), abs=0.3 * error)
    assert difference.high == pytest.approx(np.quantile(naive, 0.975), abs=0.3 * error)
    assert difference.estimate == pytest.approx(
        auc(labels, candidate) - auc(labels, reference), abs=1e-12
    )
    assert difference.method == "bootstrap"


@given(labelled(), st.randoms(use_true_random=False))
def test_weighted_auc_is_the_auc_of_the_faces_repeated(sample, random):
    labels, scores = sample
    groups = np.array([random.randrange(4) for _ in labels])
    counts = np.array([[random.randrange(1, 4) for _ in range(4)] for _ in range(3)])
    weighted = bootstrap._rank(labels == 1, scores, groups).auc(counts.astype(float))
    repeated = [
        auc(np.repeat(labels, row[groups]), np.repeat(scores, row[groups])) for row in counts
    ]
    np.testing.assert_allclose(weighted, repeated, rtol=1e-14)


def test_agrees_with_delong_where_every_face_is_its_own_group():
    labels, reference, candidate = binormal_pair(np.random.default_rng(3), 400)
    delong = auc_difference(labels, reference, candidate)
    difference = auc_difference_bootstrap(labels, reference, candidate, np.arange(len(labels)))
    error = (delong.high - delong.low) / (2 * 1.96)
    assert difference.high - difference.low == pytest.approx(delong.high - delong.low, rel=0.06)
    assert difference.low == pytest.approx(delong.low, abs=0.2 * error)
    assert difference.high == pytest.approx(delong.high, abs=0.2 * error)


def test_is_wider_than_delong_where_the_faces_of_a_video_err_together():
    labels, reference, candidate, groups = videos_of_faces(per_video=(20, 30))
    delong = auc_difference(labels, reference, candidate)
    difference = auc_difference_bootstrap(labels, reference, candidate, groups)
    assert difference.high - difference.low > 1.5 * (delong.high - delong.low)


def test_intervals_cover_the_truth_as_often_as_they_say_where_faces_share_videos():
    """1,000 sets of 140 videos whose true difference is known; DeLong's interval misses it."""
    rng = np.random.default_rng(11)
    videos, per_video = 140, 3
    groups = np.repeat(np.arange(videos), per_video)
    labels = groups % 2
    # Reals and fakes are of different videos, so that the AUC is that of independent faces.
    spread = math.sqrt(1.0 + 1.0 + 0.5)
    truth = binormal_auc(1.6 / spread) - binormal_auc(2.0 / math.sqrt(2.0))
    covers = delong_covers = 0
    for _ in range(1000):
        shared = rng.standard_normal(videos)[groups] + rng.standard_normal(len(groups))
        drift = math.sqrt(0.5) * rng.standard_normal(videos)[groups]
        reference, candidate = 2.0 * labels + shared, 1.6 * labels + shared + drift
        found = auc_difference_bootstrap(labels, reference, candidate, groups, resamples=400)
        covers += found.low <= truth <= found.high
        delong = auc_difference(labels, reference, candidate)
        delong_covers += delong.low <= truth <= delong.high
    assert 930 <= covers <= 970
    assert delong_covers < 900


def test_a_large_set_is_quick():
    """2,000 resamples of 100,000 faces take under 20 s of processor time; here a twentieth."""
    rng = np.random.default_rng(0)
    labels, reference, candidate = binormal_pair(rng, 50_000)
    groups = np.repeat(np.arange(5_000), 20)
    started = time.process_time()
    auc_difference_bootstrap(labels, reference, candidate, groups, resamples=100)
    assert time.process_time() - started < 1.0


def test_identical_scores_give_a_point_at_zero():
    labels, reference, _, groups = videos_of_faces()
    difference = auc_difference_bootstrap(labels, reference, reference, groups)
    assert (difference.estimate, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_one_seed_gives_one_interval_whatever_the_block():
    sample = videos_of_faces(mixed=3)
    first = auc_difference_bootstrap(*sample, resamples=300, seed=7)
    assert auc_difference_bootstrap(*sample, resamples=300, seed=7) == first
    assert auc_difference_bootstrap(*sample, resamples=300, seed=8) != first
    assert auc_difference_bootstrap(*sample, resamples=300, seed=7, block_weights=1) == first


def test_groups_may_be_names_or_objects():
    labels, reference, candidate, groups = videos_of_faces()
    expected = auc_difference_bootstrap(labels, reference, candidate, groups, resamples=50)
    names = [f"{group:03d}.mp4" for group in groups]
    for named in (names, np.array(names, dtype=object)):
        result = auc_difference_bootstrap(labels, reference, candidate, named, resamples=50)
        assert result == expected


def test_few_groups_of_a_class_never_leave_a_resample_without_it():
    labels, reference, candidate, groups = videos_of_faces(reals=2, fakes=40)
    difference = auc_difference_bootstrap(labels, reference, candidate, groups)
    assert np.isfinite([difference.low, difference.high]).all()


@pytest.mark.parametrize(
    ("labels", "groups", "named"),
    [
        ([0, 0, 1, 1, 1], ["r", "r", "a", "b", "b"], "real"),
        ([0, 0, 0, 1, 1], ["r", "s", "s", "a", "a"], "fake"),
        ([0, 1, 0, 1, 1], ["v", "v", "v", "v", "v"], "real"),
    ],
)
def test_a_class_that_no_resample_would_vary_is_refused(labels, groups, named):
    scores = [0.1, 0.2, 0.3, 0.4, 0.5]
    with pytest.raises(LpxError, match=f"the {named} faces are in 1 of"):
        auc_difference_bootstrap(labels, scores, scores, groups)


@pytest.mark.parametrize(
    "parameter", [{"resamples": 1}, {"confidence": 1.5}, {"seed": -1}], ids=str
)
def test_parameters_out_of_range_are_refused(parameter):
    with pytest.raises(LpxError, match=f"{next(iter(parameter))} must be"):
        auc_difference_bootstrap([0, 1], [0.1, 0.2], [0.1, 0.2], [0, 1], **parameter)


def test_groups_of_another_length_are_refused():
    with pytest.raises(LpxError, match="groups has 1 values"):
        auc_difference_bootstrap([0, 1], [0.1, 0.2], [0.1, 0.2], [0])


def test_an_interval_over_groups_is_wider_than_delongs_where_faces_depend():
    rng = np.random.default_rng(8)
    groups = np.repeat(np.arange(40), 10)
    labels = groups % 2
    scores = 0.8 * labels + rng.normal(size=40)[groups] + 0.1 * rng.normal(size=400)
    found, independent = (
        auc_interval_bootstrap(labels, scores, groups),
        auc_interval(labels, scores),
    )
    assert found.estimate == pytest.approx(independent.estimate)
    assert found.method == "bootstrap"
    assert found.high - found.low > 2 * (independent.high - independent.low)


def test_an_interval_of_a_perfect_separation_counts_groups():
    groups = np.repeat(np.arange(10), 10)
    found = auc_interval_bootstrap(groups % 2, groups % 2 + 0.0, groups)
    assert (found.estimate, found.high, found.method) == (1.0, 1.0, "exact")
    assert found.low == pytest.approx(0.025 ** (1 / 5))
