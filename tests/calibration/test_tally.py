"""What is compiled, and what is there in its place."""

from __future__ import annotations

import shutil
import sysconfig
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.calibration.exact_mean import ExactMean
from lpx.calibration.tally import BINS, BLOCKS, compiled, tally, tally_in_numpy

COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]
needs_compiled = pytest.mark.skipif(compiled() is None, reason="installed without a C compiler")


class Seen:
    """What one or several tallies have given."""

    def __init__(self, channels):
        self.counts = np.zeros(BINS, np.int64)
        self.mean = ExactMean(channels)

    def take(self, values, block):
        self.mean.count += len(values)
        return tally(values, block, self.counts, self.mean.sums)


class SeenInSteps(Seen):
    """The same without compiled code."""

    def take(self, values, block):
        self.mean.count += len(values)
        return tally_in_numpy(values, block, self.counts, self.mean.sums)


BOTH = [
    pytest.param(Seen, id="compiled", marks=needs_compiled),
    pytest.param(SeenInSteps, id="steps"),
]


def draw(shape, seed, *, relu=False):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 10.0 ** rng.uniform(-30, 30)
    return np.maximum(values, -np.inf if not relu else 0).astype(np.float32)


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="there is no C compiler")
def test_it_is_compiled_where_there_is_a_compiler():
    assert compiled() is not None, "install lpx again: pip install --editable ."


@pytest.mark.parametrize("new", BOTH)
@pytest.mark.parametrize("block", BLOCKS)
# 1024 values of 4 channels or 256 of 16 are a chunk; others end within one, and within a vector.
@pytest.mark.parametrize("plane", [(), (1, 1), (3, 5), (16, 16), (37, 41), (64, 65)])
def test_counts_extremes_and_means(new, block, plane):
    values = draw((3, 2 * block, *plane), seed=block, relu=block == 4)
    seen = new(2 * block)
    assert seen.take(values, block) == (values.min(), values.max())
    codes = (np.abs(values).view(np.uint32) >> 16).reshape(-1)
    assert (seen.counts == np.bincount(codes, minlength=BINS)).all()
    # In memory, channels alternate.
    means = values.reshape(3, 2, -1, block).astype(np.float64).mean(axis=(0, 2)).reshape(-1)
    np.testing.assert_allclose(
        seen.mean.means(), means, rtol=1e-4, atol=1e-5 * np.abs(values).max()
    )


@pytest.mark.parametrize("new", BOTH)
def test_it_adds_to_what_is_there(new):
    values = draw((1, 4, 9), 0)
    once, twice = new(4), new(4)
    once.take(values, 1)
    twice.take(values, 1)
    twice.take(values, 1)
    assert (twice.counts == 2 * once.counts).all()
    assert (twice.mean.sums == 2 * once.mean.sums).all()


@pytest.mark.parametrize("new", BOTH)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 17, 8191])
def test_nothing_is_added_where_a_value_is_not_finite(new, bad, place):
    values, seen = draw((2, 16, 256), 1), new(16)
    values.reshape(-1)[place] = bad
    assert seen.take(values, 8) is None
    assert not seen.counts.any()
    assert not seen.mean.sums.any()
    values.reshape(-1)[place] = 1
    assert seen.take(values, 8) is not None
    assert seen.counts.sum() == values.size


@pytest.mark.parametrize("new", BOTH)
def test_sums_that_no_float_holds(new):
    values = np.full((1, 2, 100), np.finfo(np.float32).max, np.float32)
    values[0, 1, ::2] *= -1
    seen = new(2)
    seen.take(values, 1)
    assert seen.mean.means() == (values.max(), 0.0)


@pytest.mark.parametrize("new", BOTH)
@pytest.mark.parametrize("values", [[0.0, -0.0], [-0.0, 0.0], [-0.0], [-0.0, 1.0], [-1.0, -0.0]])
def test_zeros_have_no_sign(new, values):
    bounds = new(1).take(np.array([[values]], np.float32), 1)
    assert [np.signbit(bound) for bound in bounds] == [min(values) < 0, max(values) < 0]


@pytest.mark.parametrize("new", BOTH)
@pytest.mark.parametrize(
    "values", [np.zeros((2, 8, 3, 4), np.float32)[..., ::2], np.zeros((2, 8, 3, 4))]
)
def test_values_that_lie_otherwise_are_refused(new, values):
    with pytest.raises(ValueError, match="float32 and contiguous"):
        new(8).take(values, 1)


@needs_compiled
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_both_ways_count_the_same(values):
    array = np.array([[values]], np.float32)
    one, other = Seen(1), SeenInSteps(1)
    assert one.take(array, 1) == other.take(array, 1)
    assert (one.counts == other.counts).all()


@pytest.mark.parametrize("new", BOTH)
def test_means_do_not_depend_on_the_batch(new):
    values = draw((5, 8, 33, 31), 4)
    whole, apart = new(8), new(8)
    whole.take(values, 8)
    for face in range(5):
        apart.take(values[face : face + 1], 8)
    assert (whole.mean.sums == apart.mean.sums).all()


@needs_compiled
def test_threads_do_not_disturb_each_other():
    values = [draw((2, 16, 64, 64), seed) for seed in range(4)]
    once, found = ([Seen(16) for _ in values] for _ in range(2))
    for seen, array in zip(once, values, strict=True):
        seen.take(array, 8)

    def work(number):
        for _ in range(20):
            found[number].take(values[number], 8)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seen, one in zip(found, once, strict=True):
        assert (seen.counts == 20 * one.counts).all()
        assert (seen.mean.sums == 20 * one.mean.sums).all()
