from __future__ import annotations

import numpy as np
import pytest

from lpx.bench.parity import MARGIN, compare, overall
from lpx.engines.base import Prediction
from lpx.errors import LpxError
from lpx.metrics import auc

LABELS = np.arange(400) % 2


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


def test_order_kept_keeps_the_auc_though_scores_move():
    """AUC looks at order alone; the scores themselves are what the other figures are for."""
    half = prediction(reference().score / 2)
    found = compare(LABELS, reference(), half, 0.5)
    assert found.verdict == "holds"
    assert found.auc_difference.estimate == 0
    assert found.score_difference.max == pytest.approx(reference().score.max() / 2)
    assert found.flips.fake_to_real == (reference().score >= 0.5).sum()
    assert found.flips.real_to_fake == 0


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
        np.clip(reference().score + np.random.default_rng(2).normal(0, 0.1, 400), 0, 1)
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
        (["holds", "holds"], "holds"),
        ([], "undecided"),
    ],
)
def test_overall_is_the_worst(verdicts, worst):
    assert overall(verdicts) == worst
