from __future__ import annotations

from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.calibration.exact_mean import ExactMean
from lpx.calibration.observer import Observer
from lpx.calibration.tally import compiled, tally, tally_in_numpy

needs_compiled = pytest.mark.skipif(compiled() is None, reason="installed without a C compiler")
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(tally, marks=needs_compiled, id="compiled"),
        pytest.param(tally_in_numpy, id="numpy"),
    ],
)
def mean_of(request):
    """Means of tensors without height and width, which are those of their values."""
    return partial(_mean_of, request.param)


def _mean_of(way, *batches, channels=1):
    seen = Observer(channels, tally=way)
    for batch in batches:
        assert seen.add(np.asarray(batch, np.float32).reshape(-1, channels))
    return seen.mean


@given(st.lists(FINITE, min_size=1, max_size=40))
def test_mean_is_the_exact_one(mean_of, values):
    exact = sum(map(Fraction, np.asarray(values, np.float32).tolist())) / len(values)
    assert mean_of(values).means() == (float(exact),)


@given(st.lists(FINITE, min_size=2, max_size=40), st.integers(1, 39), st.randoms())
def test_neither_order_nor_batches_nor_shards_matter(mean_of, values, cut, shuffler):
    shuffled = list(values)
    shuffler.shuffle(shuffled)
    cut = min(cut, len(values) - 1)
    whole, batches = mean_of(values), mean_of(shuffled[:cut], shuffled[cut:])
    merged = mean_of(shuffled[:cut])
    merged.merge(mean_of(shuffled[cut:]))
    for other in (batches, merged):
        assert (other.sums == whole.sums).all()
        assert other.count == whole.count


def test_a_float_sum_would_lose_what_this_keeps(mean_of):
    values = [1e30, 1.0, -1e30]
    assert mean_of(values).means() == (1 / 3,)


def test_channels_are_kept_apart(mean_of):
    assert mean_of([[1, -4], [3, 8]], channels=2).means() == (2.0, 2.0)


def test_mean_of_nothing():
    with pytest.raises(ValueError, match="of no vectors"):
        ExactMean(3).means()
