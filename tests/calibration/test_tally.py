"""What is compiled, and what is there in its place."""

from __future__ import annotations

import shutil
import sysconfig
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.calibration import tally as module
from lpx.calibration.tally import BINS, BLOCKS, compiled, tally

COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]
needs_compiled = pytest.mark.skipif(compiled() is None, reason="installed without a C compiler")


def in_steps(values, block, counts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "compiled", lambda: None)
        return tally(values, block, counts)


BOTH = [
    pytest.param(tally, id="compiled", marks=needs_compiled),
    pytest.param(in_steps, id="steps"),
]


def none_yet():
    return np.zeros(BINS, np.int64)


def draw(shape, seed, *, relu=False):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 10.0 ** rng.uniform(-30, 30)
    return np.maximum(values, -np.inf if not relu else 0).astype(np.float32)


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="there is no C compiler")
def test_it_is_compiled_where_there_is_a_compiler():
    assert compiled() is not None, "install lpx again: pip install --editable ."


@pytest.mark.parametrize("run", BOTH)
@pytest.mark.parametrize("block", BLOCKS)
# 1024 values of 4 channels or 256 of 16 are a chunk; others end within one, and within a vector.
@pytest.mark.parametrize("plane", [(), (1, 1), (3, 5), (16, 16), (37, 41), (64, 65)])
def test_counts_extremes_and_means(run, block, plane):
    values = draw((3, 2 * block, *plane), seed=block, relu=block == 4)
    counts = none_yet()
    found = run(values, block, counts)
    codes = (np.abs(values).view(np.uint32) >> 16).reshape(-1)
    assert (counts == np.bincount(codes, minlength=BINS)).all()
    assert (found.low, found.high) == (values.min(), values.max())
    means = values.reshape(3, 2, -1, block).astype(np.float64).mean(axis=2).reshape(3, -1)
    assert found.means.shape == means.shape
    assert found.means.dtype == np.float32
    np.testing.assert_allclose(found.means, means, rtol=1e-4, atol=1e-5 * np.abs(values).max())


@pytest.mark.parametrize("run", BOTH)
def test_counts_are_added_to(run):
    values, counts = draw((1, 4, 9), 0), none_yet()
    run(values, 1, counts)
    once = counts.copy()
    run(values, 2, counts)
    assert (counts == 2 * once).all()


@pytest.mark.parametrize("run", BOTH)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 17, 8191])
def test_nothing_is_counted_where_a_value_is_not_finite(run, bad, place):
    values, counts = draw((2, 16, 256), 1), none_yet()
    values.reshape(-1)[place] = bad
    assert run(values, 8, counts) is None
    assert not counts.any()
    values.reshape(-1)[place] = 1
    assert run(values, 8, counts) is not None
    assert counts.sum() == values.size


@pytest.mark.parametrize("run", BOTH)
def test_sums_that_no_float_holds(run):
    values = np.full((1, 2, 100), np.finfo(np.float32).max, np.float32)
    values[0, 1, ::2] *= -1
    found = run(values, 1, none_yet())
    assert found.means.tolist() == [[values.max(), 0.0]]


@pytest.mark.parametrize("run", BOTH)
@pytest.mark.parametrize("values", [[0.0, -0.0], [-0.0, 0.0], [-0.0], [-0.0, 1.0], [-1.0, -0.0]])
def test_zeros_have_no_sign(run, values):
    found = run(np.array([[values]], np.float32), 1, none_yet())
    signs = [np.signbit(bound) for bound in (found.low, found.high)]
    assert signs == [min(values) < 0, max(values) < 0]


@needs_compiled
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_both_count_the_same(values):
    array = np.array([[values]], np.float32)
    one, other = none_yet(), none_yet()
    found, wanted = tally(array, 1, one), in_steps(array, 1, other)
    assert (one == other).all()
    assert (found.low, found.high) == (wanted.low, wanted.high)


@pytest.mark.parametrize("run", BOTH)
def test_faces_do_not_depend_on_their_batch(run):
    values = draw((5, 8, 33, 31), 4)
    whole = run(values, 8, none_yet()).means
    apart = [run(values[i : i + 1], 8, none_yet()).means[0] for i in range(5)]
    assert (whole == apart).all()


@needs_compiled
def test_threads_do_not_disturb_each_other():
    values = [draw((2, 16, 64, 64), seed) for seed in range(4)]
    wanted = []
    for array in values:
        tally(array, 8, counts := none_yet())
        wanted.append(20 * counts)
    found = [none_yet() for _ in values]

    def work(number):
        for _ in range(20):
            tally(values[number], 8, found[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((a == b).all() for a, b in zip(found, wanted, strict=True))
