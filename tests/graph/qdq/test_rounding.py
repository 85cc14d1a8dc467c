from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lpx.graph.qdq.rounding import bias_shift, round_levels, weight_scales

SHAPES = st.tuples(
    st.integers(1, 6), st.integers(1, 12), st.sampled_from([(1, 1), (3, 3), (5, 5), (7, 1)])
).map(lambda s: (s[0], s[1], *s[2]))


@st.composite
def weights(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = rng.standard_normal(draw(SHAPES)) + draw(st.sampled_from([0.0, 0.5, -3.0]))
    spread = rng.uniform(0.01, 100, len(weight))[:, None, None, None]
    return (weight * spread).astype(np.float32)


def test_scale_is_the_peak_over_127():
    weight = np.zeros((4, 2, 3, 3), np.float32)
    weight[0, 1, 2, 0] = -12.7
    weight[1] = 1.0
    weight[3, 0, 0, 0] = 1e-20
    expected = np.array([0.1, 1 / 127, 1.0, 1e-20 / 127])
    found = weight_scales(weight)
    assert found.dtype == np.float32
    assert np.allclose(found, expected, rtol=1e-6, atol=0)


@given(weight=weights())
def test_levels_are_near_and_errors_cancel(weight):
    scales = weight_scales(weight)
    levels = round_levels(weight, scales)
    assert levels.dtype == np.int8
    assert levels.shape == weight.shape
    assert levels.min() >= -127
    exact = weight.astype(np.float64) / scales[:, None, None, None]
    # A flipped rounding is less than one level off, any other at most half.
    assert np.abs(levels - exact).max() < 1 + 1e-4
    net = (levels - exact).sum(axis=(1, 2, 3))
    assert np.abs(net).max() <= 0.5 + 1e-3


@given(weight=weights())
def test_nearest_rounding_would_not_do(weight):
    # What the flips buy: never a larger net error than nearest rounding has.
    scales = weight_scales(weight)
    exact = weight.astype(np.float64) / scales[:, None, None, None]
    nearest = np.abs((np.rint(exact) - exact).sum(axis=(1, 2, 3)))
    balanced = np.abs((round_levels(weight, scales) - exact).sum(axis=(1, 2, 3)))
    assert (balanced <= np.maximum(nearest, 0.5) + 1e-3).all()


def test_depthwise_kernels_are_balanced_one_by_one():
    weight = np.random.default_rng(0).standard_normal((64, 1, 3, 3)).astype(np.float32)
    scales = weight_scales(weight)
    exact = weight.astype(np.float64) / scales[:, None, None, None]
    nearest = (np.rint(exact) - exact).sum(axis=(1, 2, 3))
    balanced = (round_levels(weight, scales) - exact).sum(axis=(1, 2, 3))
    assert np.abs(nearest).max() > 1
    assert np.abs(balanced).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_bias_shift_keeps_the_mean_output(groups):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 8 // groups, 3, 3)).astype(np.float32)
    scales = weight_scales(weight)
    rounded = round_levels(weight, scales) * scales[:, None, None, None]
    means = rng.uniform(0, 3, 8).astype(np.float32)
    shift = bias_shift(weight, rounded.astype(np.float32), means)
    # A face whose channels are constant: every interior output is the mean output.
    face = torch.from_numpy(np.broadcast_to(means[None, :, None, None], (1, 8, 5, 5)).copy())

    def outputs(kernel, bias=None):
        kernel = torch.from_numpy(kernel.astype(np.float32))
        return F.conv2d(face, kernel, bias, groups=groups)[0, :, 1, 1]

    wanted = outputs(weight)
    assert torch.allclose(outputs(rounded, torch.from_numpy(shift)), wanted, atol=1e-4)
    assert (outputs(rounded) - wanted).abs().max() > 1e-3
