"""One row of figures, against the functions that give each figure alone, and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as peer

from lpx.metrics import (
    accuracy,
    auc,
    average_precision,
    detection_metrics,
    equal_error_rate,
    per_method,
    tpr_at_fpr,
    video_scores,
)
from tests.metrics.samples import labelled

LABELS = [1, 0, 1, 1, 0, 1]
METHODS = ["FaceSwap", "real", "Deepfakes", "FaceSwap", "real", "Deepfakes"]
SCORES = [0.25, 0.5, 1.0, 0.75, 0.125, 0.5]


@given(labelled(), st.sampled_from([-0.5, 0.0, 0.25, 2.0]))
def test_one_sorting_says_what_each_function_says(sample, threshold):
    labels, scores = sample
    row = detection_metrics(labels, scores, threshold)
    assert (row.fakes, row.reals) == (int(sum(labels)), int(len(labels) - sum(labels)))
    assert row.auc == auc(labels, scores)
    assert row.equal_error_rate == equal_error_rate(labels, scores)
    assert row.average_precision == average_precision(labels, scores)
    assert row.tpr_at_fpr == {f"{f:g}": tpr_at_fpr(labels, scores, f) for f in (0.01, 0.05, 0.1)}
    assert row.accuracy_at_half == pytest.approx(accuracy(labels, scores, 0.5))
    assert row.accuracy == pytest.approx(accuracy(labels, scores, threshold))
    called, is_fake = np.asarray(scores) >= threshold, np.asarray(labels) == 1
    assert row.true_positive_rate == called[is_fake].mean()
    assert row.false_positive_rate == called[~is_fake].mean()


@given(labelled())
def test_agrees_with_scikit_learn(sample):
    labels, scores = sample
    row = detection_metrics(labels, scores, 0.25)
    assert row.auc == pytest.approx(peer.roc_auc_score(labels, scores))
    assert row.average_precision == pytest.approx(peer.average_precision_score(labels, scores))
    assert row.accuracy == pytest.approx(peer.accuracy_score(labels, scores >= 0.25))
    fpr, tpr, _ = peer.roc_curve(labels, scores, drop_intermediate=False)
    for rate in (0.01, 0.05, 0.1):
        assert row.tpr_at_fpr[f"{rate:g}"] == pytest.approx(tpr[fpr <= rate].max())


def test_one_row_per_method_against_all_reals():
    rows = per_method(SCORES, LABELS, METHODS, 0.5)
    assert [(row.method, row.fakes, row.reals) for row in rows] == [
        ("Deepfakes", 2, 2),
        ("FaceSwap", 2, 2),
    ]
    reals = [0.5, 0.125]
    for row, fakes in zip(rows, ([1.0, 0.5], [0.25, 0.75]), strict=True):
        assert row == detection_metrics([0, 0, 1, 1], reals + fakes, 0.5, row.method)
    assert [row.auc for row in rows] == [0.875, 0.75]
    assert [row.accuracy for row in rows] == [0.75, 0.5]


def test_reals_may_carry_a_methods_name():
    rows = per_method([0.1, 0.2, 0.9], [0, 0, 1], ["swap", "", "swap"], 0.5)
    assert [(row.method, row.fakes, row.reals, row.auc) for row in rows] == [("swap", 1, 2, 1.0)]


def test_videos_go_in_as_faces_do():
    videos = video_scores(SCORES, LABELS, METHODS, ["000_003", "000", "000_003"] * 2)
    rows = per_method(videos.scores, videos.labels, videos.methods, 0.5)
    assert [(row.method, row.fakes) for row in rows] == [("Deepfakes", 1), ("FaceSwap", 1)]


def test_scores_keep_their_own_type():
    # 0.1 in float32 lies above 0.1 in float64: a face at the threshold must count as called.
    scores = np.array([0.1, 0.0], np.float32)
    assert detection_metrics([1, 0], scores, 0.1).accuracy == 1.0
