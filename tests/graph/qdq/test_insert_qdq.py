"""The numbers behind the pairs: against NumPy, at the ends of the scale, in half precision."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F

from lpx.errors import LpxError
from lpx.graph.model_io import serialise
from lpx.graph.qdq.insert_qdq import ONNXRUNTIME, TENSORRT, Range, Style, insert_qdq
from lpx.graph.qdq.placement import place
from lpx.graph.qdq.rounding import round_levels
from lpx.graph.to_fp16 import to_fp16
from tests.graph.graphs import assumed_range, graph, quantised, run

CONV = "g (float[N,16,8,8] x) => (float[N,24,8,8] z) { z = Conv<pads=[1,1,1,1]>(x, w, b) }"
SAME = "g (float[N,16,8,8] x) => (float[N,16,8,8] z) { z = Conv(x, w) }"
STYLES = pytest.mark.parametrize("style", [TENSORRT, ONNXRUNTIME], ids=["tensorrt", "onnxruntime"])


def simulate(values, scale, zero, low, high):
    """Quantise and dequantise: round half to even, shift by the zero point, clamp, and back."""
    levels = np.clip(np.round(values.astype(np.float64) / scale) + zero, low, high)
    return (levels - zero) * scale


def identity():
    """Weights that hand on every channel as it is."""
    return np.eye(16, dtype=np.float32)[:, :, None, None]


@pytest.mark.parametrize(
    ("style", "limits", "scale", "zero", "levels"),
    [
        (TENSORRT, (-127 / 32, 127 / 32), 1 / 32, 0, (-128, 127)),
        # Symmetric although the values are not: the larger end counts, and never a zero point.
        (TENSORRT, (0.0, 127 / 32), 1 / 32, 0, (-128, 127)),
        (TENSORRT, (-127 / 32, 1.0), 1 / 32, 0, (-128, 127)),
        (ONNXRUNTIME, (-127 / 32, 1.0), 1 / 32, 128, (0, 255)),
        (ONNXRUNTIME, (0.0, 255 / 32), 1 / 32, 0, (0, 255)),
    ],
    ids=[
        "tensorrt",
        "tensorrt-positive",
        "tensorrt-lopsided",
        "onnxruntime",
        "onnxruntime-positive",
    ],
)
def test_activation_is_rounded_half_to_even_and_clamped(style, limits, scale, zero, levels):
    # Steps of half a level, to well past both ends.
    x = (np.arange(-512, 512, dtype=np.float32) / 64).reshape(1, 16, 8, 8)
    assert x.min() < -128 * scale
    assert x.max() > 127 * scale
    model = quantised(graph(SAME, w=identity()), style, ranges={"x": Range(*limits, (0.0,) * 16)})
    found = run(model, x)[0]
    expected = simulate(x, scale, zero, *levels)
    # float32 holds 127 * (1 / 127) as 1, so that the convolution adds nothing of its own.
    assert np.abs(found - expected).max() < 1e-6
    half = np.abs(x / scale % 1 - 0.5) < 1e-6
    assert half.sum() == 512


@STYLES
def test_convolution_equals_the_simulation(style):
    rng = np.random.default_rng(0)
    x = (3 * rng.standard_normal((2, 16, 8, 8))).astype(np.float32)
    model = graph(CONV, w=(24, 16, 3, 3), b=(24,))
    weight, bias = (
        model.graph.initializers[name].const_value.numpy().copy() for name in ("w", "b")
    )
    peak, means = 5.0, tuple(rng.standard_normal(16))
    found = run(quantised(model, style, ranges={"x": Range(-peak, peak, means)}), x)[0]

    scale = np.float32(peak / 127)
    zero, levels = (128, (0, 255)) if style.unsigned else (0, (-128, 127))
    data = simulate(x, scale, zero, *levels)
    steps = (np.abs(weight).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    rounded = round_levels(weight, steps) * steps.astype(np.float64)[:, None, None, None]
    # The bias takes up what rounding the weights does to the mean of each output.
    shifted = bias + np.einsum("oikl,i->o", weight - rounded, np.array(means))
    if style.stored_weights:
        unit = steps.astype(np.float64) * scale
        shifted = np.round(shifted / unit) * unit
    expected = F.conv2d(*(torch.from_numpy(v) for v in (data, rounded, shifted)), padding=1)
    assert np.abs(found - expected.numpy()).max() < 1e-5
    exact = F.conv2d(*(torch.from_numpy(v) for v in (x, weight, bias)), padding=1)
    assert np.abs(found - exact.numpy()).max() > 1e-3, "nothing was quantised"


@pytest.mark.parametrize("count", [1, 15, 17, 32])
def test_means_of_other_channels_than_the_weights_read_are_refused(count):
    model = graph(CONV, w=(24, 16, 3, 3), b=(24,))
    with pytest.raises(LpxError, match=f"of {count} channels, which do not fit"):
        quantised(model, TENSORRT, ranges={"x": Range(-5.0, 5.0, (0.5,) * count)})


@STYLES
def test_weight_scales_are_per_output_channel(style):
    weight = np.random.default_rng(0).standard_normal((24, 16, 3, 3)).astype(np.float32)
    weight *= np.logspace(-3, 3, 24, dtype=np.float32)[:, None, None, None]
    weight[5] = 0
    model = quantised(graph(CONV, w=weight, b=(24,)), style)
    scale, zero, axis = weight_pair(model, "z")
    peaks = np.abs(weight).max(axis=(1, 2, 3))
    assert scale.dtype == np.float32
    assert np.allclose(scale, np.where(peaks > 0, peaks / 127, 1), rtol=1e-6)
    assert zero.dtype == np.int8
    assert not zero.any()
    assert axis == 0


def weight_pair(model, node):
    """(scale, zero point, axis) of the weight of a convolution."""
    reader = next(n for n in model.graph if n.name == node)
    pair = reader.inputs[1].producer()
    scale, zero = (value.const_value.numpy() for value in pair.inputs[1:])
    return scale, zero, pair.attributes.get_int("axis")


def test_integer_style_stores_integers():
    model = quantised(graph(CONV, w=(24, 16, 3, 3), b=(24,)), ONNXRUNTIME)
    convolution = next(n for n in model.graph if n.name == "z")
    kinds = [value.producer().inputs[0].dtype for value in convolution.inputs]
    assert kinds == [ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.INT32]
    # The unit of the accumulator, in which integer kernels add the bias.
    data, weight, bias = (
        value.producer().inputs[1].const_value.numpy() for value in convolution.inputs
    )
    assert np.allclose(bias, data * weight, rtol=1e-6)
    assert "w" not in {entry.name for entry in serialised(model).graph.initializers.values()}


def serialised(model):
    import onnx

    return ir.serde.deserialize_model(onnx.load_model_from_string(serialise(model)))


def test_bias_stays_float_in_tensorrt_style():
    model = quantised(graph(CONV, w=(24, 16, 3, 3), b=(24,)), TENSORRT)
    bias = next(n for n in model.graph if n.name == "z").inputs[2]
    assert bias.producer() is None
    assert bias.dtype == ir.DataType.FLOAT


def scales(model):
    """Every scale of the graph, with the type of what it scales."""
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            yield node, node.inputs[1].const_value.numpy()


@STYLES
@pytest.mark.parametrize("limits", [(0.0, 0.0), (-1e-45, 1e-45), (-1e-12, 0.0), (0.0, 3e-5)])
@pytest.mark.parametrize("spread", [0.0, 1e-42, 1e-9])
@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_no_scale_is_zero(style, limits, spread, bias):
    weight = np.full((24, 16, 3, 3), spread, np.float32)
    model = graph(CONV, w=weight, b=np.full(24, bias, np.float32))
    quantised(model, style, ranges={"x": Range(*limits, (0.0,) * 16)})
    found = list(scales(model))
    # Of the data, of the weight, and of a stored weight's bias; there and back, or only back.
    assert len(found) == 4
    assert all((scale > 0).all() for _, scale in found)
    assert np.isfinite(run(model, np.ones((1, 16, 8, 8), np.float32))[0]).all()


TWO = """g (float[N,16,8,8] x) => (float[N,1,8,8] z) {
    h = Relu(x)
    a = Conv<pads=[1,1,1,1]>(h, w, b)
    r = Relu(a)
    c = Conv<pads=[1,1,1,1]>(r, v)
    s = Add(c, h)
    l = Conv(s, u)
    z = Sigmoid(l)
}"""
TWO_WEIGHTS = {"w": (16, 16, 3, 3), "b": (16,), "v": (16, 16, 3, 3), "u": (1, 16, 1, 1)}


def half(ranges=None, **weights):
    """The graph above with float16 body and pairs."""
    model = graph(TWO, **(TWO_WEIGHTS | weights))
    placement = place(model)
    given = {name: assumed_range(model, name) for name in placement.tensors} | (ranges or {})
    to_fp16(model)
    insert_qdq(model, placement, given, TENSORRT)
    return model


def test_half_graph_keeps_scales_in_the_type_of_what_they_scale():
    model = serialised(half())
    kinds = []
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            kinds.append(node.inputs[0].dtype)
            assert node.inputs[1].dtype == node.inputs[0].dtype
        if node.op_type == "DequantizeLinear":
            assert node.inputs[1].dtype == node.outputs[0].dtype
    # Two weights, and the activations h and r, of which h is cast on its way.
    assert kinds == [ir.DataType.FLOAT16] * 4


def test_half_graph_computes_the_same_but_for_rounding():
    x = np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)
    wanted = run(graph(TWO, **TWO_WEIGHTS), x)[0]
    found = run(half(), x)[0]
    assert found.dtype == np.float32
    assert 1e-4 < np.abs(found - wanted).max() < 0.1


def test_half_and_single_graph_are_equal_where_half_precision_is_exact():
    # One weight of 127/128 per output and activations of 8 levels: no product and no sum needs more
    # than the 11 bits of half precision. So the graph for TensorRT 10.3 is that for 8.6.
    rng = np.random.default_rng(0)

    def permutation(outputs):
        weight = np.eye(16)[rng.permutation(16)[:outputs]] * rng.choice([1, -1], (outputs, 1))
        return (weight * 127 / 128).astype(np.float32)[:, :, None, None]

    text = TWO.replace("Conv<pads=[1,1,1,1]>", "Conv")
    weights = {
        "w": permutation(16),
        "v": permutation(16),
        "b": np.zeros(16, np.float32),
        "u": permutation(1),
    }
    given = {name: Range(0.0, 127 / 8, (0.0,) * 16) for name in ("h", "r")}
    x = rng.integers(-64, 65, (4, 16, 8, 8)).astype(np.float32) / 64
    found = []
    for halve in (False, True):
        model = graph(text, **weights)
        placement = place(model)
        if halve:
            to_fp16(model)
        insert_qdq(model, placement, given, TENSORRT)
        found.append(run(model, x)[0])
    assert np.abs(found[0] - run(graph(text, **weights), x)[0]).max() > 1e-3, "nothing was rounded"
    assert np.array_equal(*found)


@pytest.mark.parametrize("limits", [(0.0, 0.0), (-1e-6, 1e-6), (0.0, 3e-5)])
def test_no_scale_of_a_half_graph_is_zero_or_subnormal(limits):
    weight = np.full((16, 16, 3, 3), 1e-7, np.float32)
    model = half({name: Range(*limits, (0.0,) * 16) for name in ("h", "r")}, v=weight)
    smallest = np.finfo(np.float16).smallest_normal
    for node, scale in scales(model):
        assert scale.dtype == np.float16, node.name
        assert (scale >= smallest).all(), node.name


@pytest.mark.parametrize("limits", [(0.0, 0.0), (-4.0, 4.0)])
def test_stored_bias_of_a_channel_with_tiny_weights_is_kept(limits):
    # Batch norms switch channels off so; the bias would need more steps than int32 has.
    weight = np.random.default_rng(0).standard_normal((24, 16, 3, 3)).astype(np.float32)
    weight[::2] *= 1e-9
    bias = np.linspace(-2, 2, 24, dtype=np.float32)
    model = graph(CONV, w=weight, b=bias)
    x = np.zeros((1, 16, 8, 8), np.float32)
    given = {"x": Range(*limits, (0.0,) * 16)}
    found = run(quantised(model, ONNXRUNTIME, ranges=given), x)[0]
    difference = np.abs(found - bias[:, None, None]).max(axis=(0, 2, 3))
    assert difference[::2].max() < 1e-6
    assert difference.max() < 1e-3


@STYLES
def test_tensor_without_a_range(style):
    model = graph(TWO, **TWO_WEIGHTS)
    placement = place(model, integer_outputs=style.at_source)
    given = {name: assumed_range(model, name) for name in placement.tensors if name != "r"}
    with pytest.raises(LpxError, match=r"no calibrated range for r \(1 tensors"):
        insert_qdq(model, placement, given, style)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("unsigned", [False, True])
def test_every_style_is_valid_onnx(stored, unsigned):
    style = Style(stored_weights=stored, unsigned=unsigned, at_source=False)
    model = quantised(graph(TWO, **TWO_WEIGHTS), style)
    x = np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)
    wanted = run(graph(TWO, **TWO_WEIGHTS), x)[0]
    assert np.abs(run(model, x)[0] - wanted).max() < 0.1


def test_tensorrt_style_can_be_lowered_to_opset_17():
    from lpx.graph.lower_opset import lower_opset

    model = quantised(graph(TWO, **TWO_WEIGHTS), TENSORRT)
    x = np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)
    wanted = run(model, x)[0]
    lower_opset(model, 17)
    assert np.array_equal(run(model, x)[0], wanted)
