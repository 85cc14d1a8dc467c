"""What every measure refuses, and in which words."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import lpx.metrics
from lpx.errors import LpxError
from lpx.metrics import (
    accuracy,
    auc,
    auc_difference,
    auc_difference_bootstrap,
    auc_interval,
    average_precision,
    equal_error_rate,
    per_method,
    roc_curve,
    threshold_at_fpr,
    tpr_at_fpr,
    video_scores,
)

NEED_BOTH_CLASSES = {
    "auc": auc,
    "roc_curve": roc_curve,
    "equal_error_rate": equal_error_rate,
    "average_precision": average_precision,
    "tpr_at_fpr": lambda labels, scores: tpr_at_fpr(labels, scores, 0.1),
    "threshold_at_fpr": lambda labels, scores: threshold_at_fpr(labels, scores, 0.1),
    "auc_interval": auc_interval,
    "auc_difference": lambda labels, scores: auc_difference(labels, scores, scores),
    "bootstrap": lambda labels, scores: auc_difference_bootstrap(
        labels, scores, scores, np.arange(np.size(labels))
    ),
    "per_method": lambda labels, scores: per_method(scores, labels, ["a"] * np.size(labels), 0.5),
}
ALL = NEED_BOTH_CLASSES | {
    "accuracy": lambda labels, scores: accuracy(labels, scores, 0.5),
    "video_scores": lambda labels, scores: video_scores(
        scores, labels, ["a"] * np.size(labels), np.arange(np.size(labels))
    ),
}

need_both_classes = pytest.mark.parametrize(
    "measure", NEED_BOTH_CLASSES.values(), ids=NEED_BOTH_CLASSES.keys()
)
every_measure = pytest.mark.parametrize("measure", ALL.values(), ids=ALL.keys())


@need_both_classes
@pytest.mark.parametrize(("label", "missing"), [(0, "fake"), (1, "real")])
def test_one_class_is_refused_since_auc_is_undefined(measure, label, missing):
    with pytest.raises(LpxError, match=rf"none is {missing}[\s\S]*AUC[\s\S]*undefined"):
        measure([label] * 4, [0.1, 0.2, 0.3, 0.4])


@every_measure
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_named_by_its_first_index(measure, bad):
    with pytest.raises(LpxError, match=rf"scores\[2\] is {bad}"):
        measure([0, 1, 0, 1], [0.1, 0.2, bad, bad])


@every_measure
def test_lengths_that_differ_are_refused(measure):
    with pytest.raises(LpxError, match="scores has 3 values for 4 faces"):
        measure([0, 1, 0, 1], [0.1, 0.2, 0.3])


@every_measure
@pytest.mark.parametrize("bad", [2, -1, 0.5, np.nan])
def test_a_label_other_than_0_and_1_is_named_by_its_first_index(measure, bad):
    with pytest.raises(LpxError, match=rf"labels\[1\] is {bad}"):
        measure([0, bad, 1, bad], [0.1, 0.2, 0.3, 0.4])


@every_measure
def test_labels_that_are_words_are_refused(measure):
    with pytest.raises(LpxError, match=r"labels has dtype .*real"):
        measure(["real", "fake"], [0.1, 0.2])


@every_measure
@pytest.mark.parametrize("labels", [[], [[0, 1]], 1])
def test_labels_that_are_no_vector_are_refused(measure, labels):
    with pytest.raises(LpxError, match="labels has shape"):
        measure(np.array(labels), np.zeros(np.shape(labels)))


def test_scores_of_another_shape_or_kind_are_refused():
    with pytest.raises(LpxError, match=r"scores has shape \[2, 1\]"):
        auc([0, 1], [[0.1], [0.2]])
    with pytest.raises(LpxError, match="scores has dtype"):
        auc([0, 1], ["0.1", "0.2"])


def test_paired_scores_are_told_apart_in_errors():
    with pytest.raises(LpxError, match=r"candidate_scores\[0\] is nan"):
        auc_difference([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], [np.nan, 0.2, 0.3, 0.4])


def test_every_public_name_is_there():
    assert sorted(lpx.metrics.__all__) == lpx.metrics.__all__
    assert all(hasattr(lpx.metrics, name) for name in lpx.metrics.__all__)


def test_importing_the_metrics_does_not_import_scipy():
    code = "import sys, lpx.metrics; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
