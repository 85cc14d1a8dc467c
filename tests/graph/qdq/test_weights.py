"""The clip that minimises the error of weights, and the switches of `WeightOptions`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.graph.qdq.insert_qdq import ONNXRUNTIME, TENSORRT, Range, insert_qdq
from lpx.graph.qdq.placement import place
from lpx.graph.qdq.rounding import bias_shift, nearest_levels, round_levels, weight_scales
from lpx.graph.qdq.weights import WeightOptions, mse_scales, squared_error
from tests.graph.graphs import graph

CONV = "g (float[N,16,8,8] x) => (float[N,24,8,8] z) { z = Conv<pads=[1,1,1,1]>(x, w, b) }"


@st.composite
def weights(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(*(st.integers(1, 8),) * 2, st.sampled_from([1, 3])))
    shape = (*shape, shape[-1])
    tails = rng.standard_t(draw(st.sampled_from([1, 2, 5, 100])), shape)
    spread = 10.0 ** rng.uniform(-30, 30, len(tails))[:, None, None, None]
    zero = rng.uniform(size=len(tails)) < 0.1
    return np.where(zero[:, None, None, None], 0, tails * spread).astype(np.float32)


@given(weight=weights())
def test_mse_clip_is_never_worse_than_max_scaling(weight):
    found = mse_scales(weight)
    assert found.dtype == np.float32
    assert (found > 0).all()
    assert (found <= weight_scales(weight)).all()
    assert (squared_error(weight, found) <= squared_error(weight, weight_scales(weight))).all()


@given(weight=weights())
def test_error_is_that_of_the_levels(weight):
    scales = mse_scales(weight)
    rounded = nearest_levels(weight, scales).astype(np.float64) * scales[:, None, None, None]
    expected = ((rounded - weight) ** 2).sum(axis=(1, 2, 3))
    assert np.allclose(squared_error(weight, scales), expected, rtol=1e-9, atol=0)


def test_mse_clip_wins_where_one_weight_sticks_out():
    weight = np.random.default_rng(0).standard_normal((4, 1024, 3, 3)).astype(np.float32)
    weight[:, 0, 0, 0] = 12.0
    before = squared_error(weight, weight_scales(weight))
    after = squared_error(weight, mse_scales(weight))
    assert (after < 0.98 * before).all()
    share = mse_scales(weight) / weight_scales(weight)
    assert np.abs(share - 1 / (1 + 9216 / (12 * 127**2))).max() < 0.02


def test_scale_of_a_lone_weight_stays():
    weight = np.array([-3.0, 0.0, 1e-38], np.float32).reshape(3, 1, 1, 1)
    assert np.array_equal(mse_scales(weight), weight_scales(weight))


def test_clipped_weights_do_not_flip_their_neighbours():
    weight = np.random.default_rng(0).standard_normal((8, 16, 3, 3)).astype(np.float32)
    scales = weight_scales(weight) / 2
    exact = np.clip(weight / scales[:, None, None, None], -127, 127)
    levels = round_levels(weight, scales)
    assert np.abs(levels - exact).max() < 1
    assert np.abs((levels - exact).sum(axis=(1, 2, 3))).max() <= 0.5 + 1e-3


def built(style, options):
    """Levels, steps, bias and its unit, and what a convolution was before."""
    weight = np.random.default_rng(1).standard_t(2, (24, 16, 3, 3)).astype(np.float32)
    model = graph(CONV, w=weight, b=np.zeros(24, np.float32))
    means = tuple(np.linspace(0, 2, 16))
    insert_qdq(
        model,
        place(model, integer_outputs=style.at_source),
        {"x": Range(-4.0, 4.0, means)},
        style,
        options,
    )
    node = next(node for node in model.graph if node.name == "z")
    pair = node.inputs[1].producer()
    steps = pair.inputs[1].const_value.numpy()
    levels = pair.inputs[0].const_value
    if levels is None:
        exact = pair.inputs[0].producer().inputs[0].const_value.numpy()
        levels = np.rint(exact / steps[:, None, None, None])
    else:
        levels = levels.numpy()
    bias = node.inputs[2]
    if bias.const_value is None:
        stored, unit, _ = (value.const_value.numpy() for value in bias.producer().inputs)
        return levels, steps, stored * unit, unit, weight, means
    return levels, steps, bias.const_value.numpy(), 0, weight, means


STYLES = pytest.mark.parametrize("style", [TENSORRT, ONNXRUNTIME], ids=["tensorrt", "onnxruntime"])


@STYLES
@pytest.mark.parametrize("clip", ["max", "mse"])
@pytest.mark.parametrize("rounding", ["squant", "nearest"])
@pytest.mark.parametrize("correction", [True, False])
def test_every_switch_does_what_it_says(style, clip, rounding, correction):
    options = WeightOptions(clip, rounding, correction)
    levels, steps, bias, unit, weight, means = built(style, options)
    scales = {"max": weight_scales, "mse": mse_scales}[clip](weight)
    assert np.allclose(steps, scales, rtol=1e-6)
    wanted = {"squant": round_levels, "nearest": nearest_levels}[rounding](weight, steps)
    assert np.array_equal(levels, wanted)
    rounded = (wanted * steps[:, None, None, None]).astype(np.float32)
    shift = bias_shift(weight, rounded, np.array(means, np.float32))
    assert np.abs(shift).max() > 1e-2
    # A stored bias is rounded to steps of the accumulator.
    assert (np.abs(bias - (shift if correction else 0)) < 1e-5 + 0.51 * unit).all()
