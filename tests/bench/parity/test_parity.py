from __future__ import annotations

import numpy as np
import pytest

from lpx.bench.parity.parity import CONCORDANCE, MARGIN, compare, discrimination, overall
from lpx.engines.base import Prediction
from lpx.errors import LpxError
from lpx.metrics import auc

LABELS = np.arange(400) % 2
RNG = np.random.default_rng(9)


def prediction(scores):
    scores = np.asarray(scores, np.float32)
    return Prediction(scores, np.repeat(scores[:, None, None], 9, axis=1).reshape(-1, 3, 3))


def reference(seed=0):
    logits = np.random.default_rng(seed).normal(1.5 * LABELS, 1.0)
    return prediction(1 / (1 + np.exp(-logits)))


def test_identical_scores_hold_with_nothing_lost():
    found = compare(LABELS, reference(), reference(), 0.5)
    assert found.verdict == "holds"
    assert found.faces_needed is None
    difference = found.auc_difference
    assert (difference.estimate, difference.low, difference.high) == (0, 0, 0)
    assert (found.score_difference.max, found.score_difference.p99) == (0, 0)
    assert found.flips.total == 0
    assert found.maps.mean_abs_difference == 0
    assert found.maps.rank_correlation == 1


def test_shuffled_scores_fail():
    shuffled = prediction(np.random.default_rng(1).permutation(reference().score))
    found = compare(LABELS, reference(), shuffled, 0.5)
    assert found.verdict == "fails"
    assert found.auc_difference.high < -MARGIN
    assert found.auc.estimate == auc(LABELS, shuffled.score)
    assert found.auc_difference.estimate == pytest.approx(
        auc(LABELS, shuffled.score) - auc(LABELS, reference().score)
    )


def test_order_kept_keeps_the_auc_but_scores_that_move_do_not_follow():
    half = prediction(reference().score / 2)
    found = compare(LABELS, reference(), half, 0.5)
    assert found.auc_difference.estimate == 0
    assert found.verdict == "fails"
    assert found.concordance.high < CONCORDANCE
    assert not found.dead
    assert found.score_difference.max == pytest.approx(reference().score.max() / 2)
    assert found.flips.fake_to_real == (reference().score >= 0.5).sum()
    assert found.flips.real_to_fake == 0


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("spread", [0.0, 1e-5, 1e-3])
def test_an_engine_that_gives_one_score_is_dead_and_fails(reverse, spread):
    """With classes reversed its AUC of 0.5 is higher than the reference's."""
    truth = prediction(1 - reference().score) if reverse else reference()
    constant = prediction(0.5 + spread * np.random.default_rng(3).random(400))
    found = compare(LABELS, truth, constant, 0.5)
    assert found.verdict == "fails"
    assert found.dead
    assert found.auc_difference.high < -MARGIN, "a loss in the reference's direction"


def test_a_reversed_reference_is_followed_in_its_direction():
    truth = prediction(1 - reference().score)
    known = discrimination(LABELS, truth.score, None)
    assert known.direction == "real higher"
    assert compare(LABELS, truth, truth, 0.5).verdict == "holds"
    noisy = prediction(np.clip(truth.score + RNG.normal(0, 0.25, 400), 0, 1))
    found = compare(LABELS, truth, noisy, 0.5)
    assert auc(LABELS, noisy.score) > auc(LABELS, truth.score), "nearer to 0.5"
    assert found.auc_difference.estimate < 0
    assert found.verdict == "fails"


def test_a_reference_that_cannot_tell_the_classes_apart_decides_nothing():
    scores = np.random.default_rng(4).random(400)
    assert discrimination(LABELS, scores, None).direction == "none"
    assert compare(LABELS, prediction(scores), prediction(scores), 0.5).verdict == "uninformative"
    close = prediction(np.clip(scores + RNG.normal(0, 0.01, 400), 0, 1))
    assert compare(LABELS, prediction(scores), close, 0.5).verdict == "uninformative"
    constant = prediction(np.full(400, 0.5))
    assert compare(LABELS, prediction(scores), constant, 0.5).verdict == "fails"


@pytest.mark.parametrize(
    ("per_class", "verdict"), [(1, "undecided"), (2, "undecided"), (9, "undecided"), (10, "holds")]
)
def test_a_handful_of_videos_decides_nothing(per_class, verdict):
    groups = LABELS + 2 * (np.arange(400) // 2 % per_class)
    close = prediction(np.clip(reference().score + RNG.normal(0, 1e-3, 400), 0, 1))
    assert compare(LABELS, reference(), close, 0.5, groups=groups).verdict == verdict


def test_the_same_scores_need_no_videos():
    groups = LABELS.copy()
    assert compare(LABELS, reference(), reference(), 0.5, groups=groups).verdict == "holds"


def test_a_dead_engine_fails_however_few_the_videos():
    constant = prediction(np.full(400, 0.3))
    assert compare(LABELS, reference(), constant, 0.5, groups=LABELS.copy()).verdict == "fails"


def test_small_noise_on_few_faces_is_undecided_and_says_how_many_would_do():
    few = slice(0, 40)
    noisy = prediction(
        np.clip(reference().score + np.random.default_rng(2).normal(0, 0.1, 400), 0, 1)
    )
    found = compare(
        LABELS[few], prediction(reference().score[few]), prediction(noisy.score[few]), 0.5
    )
    assert found.verdict == "undecided"
    assert found.faces_needed is None or found.faces_needed > 40


def test_wider_margin_is_easier():
    noisy = prediction(
        np.clip(reference().score + np.random.default_rng(2).normal(0, 0.05, 400), 0, 1)
    )
    assert compare(LABELS, reference(), noisy, 0.5, margin=0.0).verdict != "holds"
    assert compare(LABELS, reference(), noisy, 0.5, margin=0.2).verdict == "holds"


def test_one_class_or_nan_is_an_error():
    with pytest.raises(LpxError, match="labels"):
        compare(np.ones(400, np.int64), reference(), reference(), 0.5)
    broken = reference().score.copy()
    broken[7] = np.nan
    with pytest.raises(LpxError, match=r"\[7\] is nan"):
        compare(LABELS, reference(), prediction(broken), 0.5)


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (["holds"], "holds"),
        (["holds", "undecided"], "undecided"),
        (["undecided", "fails", "holds"], "fails"),
        (["undecided", "uninformative"], "uninformative"),
        (["holds", "holds"], "holds"),
        ([], "undecided"),
    ],
)
def test_overall_is_the_worst(verdicts, worst):
    assert overall(verdicts) == worst
