from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import wilcoxon

from lpx.bench.performance import speed_test
from lpx.bench.performance.latency import Samples
from lpx.bench.performance.speed_test import compare_speed, signed_rank


def samples(times_by_round):
    return Samples(
        np.concatenate(times_by_round).astype(np.float64),
        np.repeat(np.arange(len(times_by_round)), [len(t) for t in times_by_round]),
    )


@given(
    arrays(
        np.float64,
        st.integers(3, 40),
        elements=st.floats(-1, 1).map(lambda x: x + 1e-4),
        unique=True,
    )
)
def test_p_value_is_scipys(logs):
    if len(np.unique(np.abs(logs))) < len(logs) or not np.abs(logs).all():
        return  # scipy's exact test does not take ties
    assert signed_rank(logs).p_value == pytest.approx(wilcoxon(logs, method="exact").pvalue)


def test_many_rounds_use_the_normal_approximation():
    logs = np.random.default_rng(1).normal(0.02, 0.1, speed_test._EXACT_UP_TO + 40)
    truth = wilcoxon(logs, method="approx", correction=True).pvalue
    assert signed_rank(logs).p_value == pytest.approx(truth, rel=0.02)


@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(-2, 2)))
def test_interval_and_test_agree(logs):
    found = signed_rank(logs)
    ratio = found.ratio
    assert ratio.low <= ratio.estimate <= ratio.high
    assert np.isinf(ratio.low) == np.isinf(ratio.high) == (len(logs) < 6), (
        "six pairs are the least that can reach 5 %"
    )
    assert (found.verdict is None) == (len(logs) < 6)
    if found.verdict in ("faster", "slower"):
        assert found.p_value <= speed_test.ALPHA
    swapped = signed_rank(-logs)
    assert swapped.ratio.estimate == pytest.approx(1 / found.ratio.estimate)
    opposite = {"faster": "slower", "slower": "faster", "inconclusive": "inconclusive", None: None}
    assert swapped.verdict == opposite[found.verdict]


def test_intervals_hold_the_true_ratio_as_often_as_they_say():
    random = np.random.default_rng(3)
    runs = [signed_rank(row) for row in random.laplace(math.log(0.9), 0.05, (1000, 20))]
    held = np.mean([run.ratio.low <= 0.9 <= run.ratio.high for run in runs])
    assert 0.93 <= held <= 0.97
    equal = [signed_rank(row).verdict for row in random.laplace(0, 0.05, (1000, 20))]
    assert 0.03 <= np.mean([verdict != "inconclusive" for verdict in equal]) <= 0.07


def test_drift_that_hits_both_does_not_hide_a_difference():
    """The machine slows down threefold; A takes 2 % less than B throughout."""
    random = np.random.default_rng(5)
    drift = np.linspace(10, 30, 20)
    b = [slow * random.normal(1, 0.002, 30) for slow in drift]
    a = [0.98 * slow * random.normal(1, 0.002, 30) for slow in drift]
    found = compare_speed(samples(a), samples(b))
    assert found.verdict == "faster"
    assert found.ratio.estimate == pytest.approx(0.98, abs=0.002)
    assert found.rounds == 20
    # The calls' own distributions overlap almost entirely.
    assert np.percentile(np.concatenate(a), 90) > np.percentile(np.concatenate(b), 50)


def test_rounds_are_paired_by_number():
    a = Samples(np.array([2.0, 2.0, 8.0]), np.array([0, 0, 2]))
    b = Samples(np.array([1.0, 5.0, 4.0]), np.array([0, 1, 2]))
    found = compare_speed(a, b)
    assert found.rounds == 2
    assert found.ratio.estimate == pytest.approx(2.0)
    assert (found.verdict, found.ratio.low) == (None, -np.inf)
    with pytest.raises(ValueError, match="same rounds"):
        compare_speed(a, Samples(np.array([1.0]), np.array([7])))
