from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpx.calibration.observer import Observer


def observer(*batches):
    seen = Observer(batches[0].shape[1])
    for batch in batches:
        assert seen.add(np.ascontiguousarray(batch))
    return seen


def draw(shape, seed, scale):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 10.0 ** rng.uniform(-scale, scale, shape)
    return np.maximum(values, 0).astype(np.float32) if seed % 2 else values.astype(np.float32)


@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(2, 9), st.integers(1, 5), st.integers(1, 7), st.integers(1, 7)),
    seed=st.integers(0, 1000),
    cut=st.integers(1, 8),
    scale=st.sampled_from([0.1, 3, 20]),
)
def test_shards_merge_to_one_run_bit_for_bit(shape, seed, cut, scale):
    values = draw(shape, seed, scale)
    cut = min(cut, len(values) - 1)
    whole = observer(values).statistics()
    order = np.random.default_rng(seed).permutation(len(values))
    merged = observer(values[order[:cut]])
    merged.merge(observer(*(values[i : i + 1] for i in order[cut:])))
    assert merged.statistics() == whole


@pytest.mark.parametrize("shape", [(3, 4, 300, 200), (2, 70_000), (1, 1, 500, 600)])
def test_statistics_of_large_and_small_tensors(shape):
    values = draw(shape, 1, 0.1)
    found = observer(values).statistics()
    assert (found.low, found.high, found.count) == (values.min(), values.max(), values.size)
    others = (0, *range(2, values.ndim))
    assert found.means == pytest.approx(values.mean(axis=others, dtype=np.float64), rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_batch_that_is_not_finite_is_refused_whole(bad):
    values = draw((2, 3, 4, 4), 0, 0.1)
    seen = observer(values)
    before = seen.statistics()
    broken = values.copy()
    broken[1, 2, 3, 3] = bad
    assert not seen.add(broken)
    assert seen.statistics() == before
