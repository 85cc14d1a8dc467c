from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.errors import LpxError
from lpx.metrics import concordance, is_dead


def test_lins_formula_on_a_small_sample():
    """By hand: means 2 and 3, population variances 2/3, covariance 2/3; 2 (2/3) / (4/3 + 1)."""
    assert concordance([1, 2, 3], [2, 3, 4]).estimate == pytest.approx(4 / 7)


@pytest.mark.parametrize(
    ("change", "low", "high"),
    [
        (lambda s: s, 1.0, 1.0),
        (lambda s: s + 5e-5, 1.0, 1.0),
        (lambda s: 1 - s, -1.0, -0.3),
        (lambda s: np.full_like(s, 0.5), -1e-9, 1e-9),
        (lambda s: s / 2, 0.0, 0.6),
        (lambda s: s + 0.3, 0.0, 0.8),
    ],
)
def test_what_it_says_of_changes(change, low, high):
    scores = np.random.default_rng(0).beta(0.7, 0.7, 500) * 0.7
    found = concordance(scores, change(scores))
    assert low <= found.estimate <= high
    assert found.low <= found.estimate <= found.high


def test_the_interval_covers_the_truth():
    """Bivariate normal scores with correlation 0.95 and equal moments: concordance is 0.95."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        x, noise = rng.normal(size=(2, 100))
        found = concordance(x, 0.95 * x + np.sqrt(1 - 0.95**2) * noise)
        held += found.low <= 0.95 <= found.high
    assert 0.91 <= held / 400 <= 0.985


def test_groups_widen_the_interval():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(20), 20)
    r = rng.random(400)
    c = r + 0.1 * rng.normal(size=20)[groups]
    alone, grouped = concordance(r, c), concordance(r, c, groups)
    assert grouped.estimate == alone.estimate
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)
    single = concordance(r, c, np.zeros(400))
    assert (single.low, single.high) == (-1.0, 1.0)


@given(st.floats(1e-2, 1e2), st.floats(-1e2, 1e2))
def test_units_do_not_matter(scale, shift):
    r, c = np.random.default_rng(3).random((2, 50))
    wanted = concordance(r, c)
    found = concordance(r * scale + shift, c * scale + shift)
    assert found.estimate == pytest.approx(wanted.estimate, abs=1e-5)
    assert found.low == pytest.approx(wanted.low, abs=1e-5)


@pytest.mark.parametrize(
    ("candidate", "dead"),
    [
        (lambda s: np.full_like(s, 0.25), True),
        (lambda s: 0.5 + 1e-5 * s, True),
        (lambda s: 0.5 + 5e-3 * s, True),
        (lambda s: 0.5 + 5e-2 * s, False),
        (lambda s: 1 - s, False),
        (lambda s: s, False),
    ],
)
def test_a_constant_engine_is_dead(candidate, dead):
    scores = np.random.default_rng(4).random(100).astype(np.float32)
    assert is_dead(scores, candidate(scores)) is dead


def test_a_constant_reference_blames_nobody():
    assert not is_dead(np.full(10, 0.3), np.full(10, 0.3))
    assert not is_dead([0.3], [0.3])


def test_a_dead_engine_with_one_odd_face_is_still_dead():
    scores = np.random.default_rng(5).random(1000)
    almost = np.full(1000, 0.5)
    almost[3] = 0.52
    assert is_dead(scores, almost)


def test_nan_is_refused():
    with pytest.raises(LpxError, match=r"candidate\[1\] is nan"):
        concordance([0.1, 0.2], [0.1, np.nan])
