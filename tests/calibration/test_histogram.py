from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.calibration.observer import Observer
from lpx.calibration.tally import BINS

BIN = 1 / 128  # relative width of the widest bins
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def observer(*batches):
    seen = Observer(1)
    for batch in batches:
        assert seen.add(np.asarray(batch, np.float32).reshape(1, 1, -1))
    return seen


def histogram(*batches):
    return observer(*batches).histogram


@pytest.mark.parametrize("percent", [50, 90, 99, 99.9, 99.99, 99.999])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 3e15])
def test_percentile_is_numpys_within_a_bin(percent, scale):
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32) * np.float32(
        scale
    )
    exact = np.percentile(np.abs(values), percent, method="inverted_cdf")
    found = histogram(values).percentile(percent)
    assert exact <= found <= exact * (1 + BIN)


@given(st.lists(FINITE, min_size=1, max_size=200), st.floats(0.01, 100))
def test_percentile_covers_what_it_says(values, percent):
    magnitudes = np.abs(np.asarray(values, np.float32))
    found = histogram(values).percentile(percent)
    assert (magnitudes <= found).mean() >= percent / 100 - 1e-12
    assert found <= magnitudes.max()


@given(st.lists(FINITE, min_size=1, max_size=200))
def test_minimum_maximum_and_count_are_exact(values):
    seen = histogram(values)
    assert seen.low == np.asarray(values, np.float32).min()
    assert seen.high == np.asarray(values, np.float32).max()
    assert seen.count == len(values)


@given(st.lists(FINITE, min_size=2, max_size=100), st.integers(1, 99), st.randoms())
def test_neither_batches_nor_order_matter(values, cut, shuffler):
    shuffled = list(values)
    shuffler.shuffle(shuffled)
    cut = min(cut, len(values) - 1)
    one, two = histogram(values), histogram(shuffled[:cut], shuffled[cut:])
    assert (one.counts == two.counts).all()
    assert (one.low, one.high) == (two.low, two.high)


@given(FINITE)
def test_every_finite_value_has_its_bin(value):
    seen = histogram([value])
    (index,) = np.flatnonzero(seen.counts)
    edges = np.array([index, index + 1], np.uint32) << 16
    low, high = edges.view(np.float32)
    assert low <= abs(np.float32(value)) < high
    assert seen.counts.shape == (BINS,)


def test_sign_does_not_matter():
    assert (histogram([-1.5, 2, -3]).counts == histogram([1.5, -2, 3]).counts).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_batch_that_is_not_finite_is_refused_whole(bad):
    seen = observer([1, 2])
    assert not seen.add(np.array([[[5, bad, 7]]], np.float32))
    found = seen.histogram
    assert (found.low, found.high, found.count) == (1, 2, 2)


@pytest.mark.parametrize("values", [[0.0], [0.0, -0.0], [5.0] * 10, [1e-45], [3.4e38, -3.4e38]])
def test_extremes(values):
    found = histogram(values).percentile(99.99)
    assert found == np.abs(np.asarray(values, np.float32)).max()
