"""Which convolutions ONNX Runtime really runs in integers, operator by operator behind them."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine, precision_of_nodes
from lpx.graph.model_io import serialise
from lpx.graph.qdq.insert_qdq import ONNXRUNTIME, Range
from lpx.graph.qdq.integer_region import IN_FLOAT
from lpx.graph.qdq.placement import place
from tests.graph.graphs import graph, quantised

SIZE = 16
CHANNELS = 16
FRAME = """g (float[N,16,16,16] x) => (float[N,16,P,Q] z) {{
    a = Conv<pads=[1,1,1,1]>(x, w, b)
    {between}
    c = Conv<pads=[1,1,1,1]>(r, {reads}, b)
    z = Conv(c, u)
}}"""
OTHER = "o = Conv<pads=[1,1,1,1]>(x, w, b)\n"
WEIGHTS = {
    "w": (16, 16, 3, 3),
    "v": (16, 16, 3, 3),
    "v2": (16, 32, 3, 3),
    "u": (16, 16, 1, 1),
    "u8": (8, 16, 1, 1),
    "u9": (16, 8, 1, 1),
    "b": (16,),
    "slope": (16, 1, 1),
    "twice": np.array([1, 1, 2, 2], np.float32),
    "minus": np.array(-1, np.float32),
    "zero": np.array(0, np.float32),
    "one": np.array(1, np.float32),
    "six": np.array(6, np.float32),
    "half": np.array(0.5, np.float32),
    "root": np.array(2**0.5, np.float32),
    "split": np.array([0, 2, 8, 16, 16]),
    "join": np.array([0, 16, 16, 16]),
    "plane": np.array([2, 3]),
}
# What stands between two convolutions, and the integer kernels that ONNX Runtime has for it.
BETWEEN = {
    "relu": ("r = Relu(a)", ()),
    "relu6": ("r = Clip(a, zero, six)", ()),
    "hardtanh": ("r = Clip(a, minus, one)", ()),
    "leaky": ("r = LeakyRelu<alpha=0.1>(a)", ("QLinearLeakyRelu",)),
    "silu": ("s = Sigmoid(a)\n r = Mul(a, s)", ("QLinearSigmoid", "QLinearMul")),
    "prelu": ("r = PRelu(a, slope)", ()),
    "hardswish": ("r = HardSwish(a)", ()),
    "gelu": ("r = Gelu(a)", ()),
    "gelu-erf": (
        "p = Div(a, root)\n e = Erf(p)\n f = Add(e, one)\n g1 = Mul(a, f)\n r = Mul(g1, half)",
        (),
    ),
    "elu": ("r = Elu(a)", ()),
    "mish": ("p = Softplus(a)\n t = Tanh(p)\n r = Mul(a, t)", ()),
    "batch norm": ("p = Relu(a)\n q = Mul(p, slope)\n r = Add(q, slope)", ()),
    "instance norm": ("p = InstanceNormalization(a, b, b)\n r = Relu(p)", ()),
    "nearest": ('r = Resize<mode="nearest">(a,, twice)', ()),
    "linear": ('r = Resize<mode="linear">(a,, twice)', ()),
    "average": ("r = AveragePool<kernel_shape=[2,2]>(a)", ("QLinearAveragePool",)),
    "concat": (OTHER + "cat = Concat<axis=1>(a, o)\n r = Relu(cat)", ("QLinearConcat",)),
    "pooled concat": (
        "m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)\n"
        "cat = Concat<axis=1>(a, m)\n r = Identity(cat)",
        ("QLinearConcat",),
    ),
    "u-net": (
        OTHER + "m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)\n l = LeakyRelu(m)\n"
        'n = Resize<mode="nearest">(l,, twice)\n cat = Concat<axis=1>(n, o)\n'
        "r = Relu(cat)",
        ("QLinearLeakyRelu", "QLinearConcat"),
    ),
    "shuffle": (
        "m = Reshape(a, split)\n n = Transpose<perm=[0,2,1,3,4]>(m)\nr = Reshape(n, join)",
        (),
    ),
    "split": (
        "m, n = Split<axis=1, num_outputs=2>(a)\n r = Concat<axis=1>(n, m)",
        ("QLinearConcat",),
    ),
    "residual": (
        "s = Sigmoid(a)\n i = Mul(a, s)\n d = Conv<pads=[1,1,1,1]>(i, w)\n"
        "t = Sigmoid(d)\n j = Mul(d, t)\n r = Add(i, j)",
        ("QLinearSigmoid", "QLinearMul", "QLinearSigmoid", "QLinearMul", "QLinearAdd"),
    ),
    "squeeze and excite": (
        "s = Sigmoid(a)\n i = Mul(a, s)\n p = ReduceMean<keepdims=1>(i, plane)\n"
        "h = Conv(p, u8)\n k = Relu(h)\n h2 = Conv(k, u9)\n t = Sigmoid(h2)\n"
        "r = Mul(i, t)",
        ("QLinearSigmoid", "QLinearMul", "QLinearMul"),
    ),
}


@pytest.fixture(params=BETWEEN)
def between(request):
    return request.param


def network(name):
    body, _ = BETWEEN[name]
    text = FRAME.format(between=body, reads="v2" if "cat = " in body else "v")
    used = {key: value for key, value in WEIGHTS.items() if re.search(rf"\b{key}\b", text)}
    return graph(text, **used)


def optimised(data, tmp_path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node)


def test_convolutions_run_in_integers_whatever_stands_between(between):
    model = network(between)
    names = set(place(model, integer_outputs=True).convolutions) - {"z"}
    assert {"a", "c"} <= names
    found = precision_of_nodes(serialise(quantised(model, ONNXRUNTIME)))
    assert {name for name in names if found[name] != "int8"} == set()
    # z ends the graph: it gives floats.
    assert found["z"] == "fp32"


def test_kernels_between_are_integer_where_there_are_some(between, tmp_path):
    kinds = optimised(serialise(quantised(network(between), ONNXRUNTIME)), tmp_path)
    kernels = Counter(k for k in kinds.elements() if k.startswith("QLinear") and k != "QLinearConv")
    assert kernels == Counter(BETWEEN[between][1])


def test_integers_compute_what_the_float_graph_does(between):
    """With ranges that hold every value, only rounding is left."""
    x = np.random.default_rng(1).standard_normal((1, CHANNELS, SIZE, SIZE)).astype(np.float32)
    model = network(between)
    ranges = measured(model, x)
    plain = serialise(network(between))
    lowered = serialise(quantised(model, ONNXRUNTIME, ranges=ranges))
    wanted, found = (
        OnnxRuntimeEngine(m, SIZE).session.run(None, {"x": x})[0] for m in (plain, lowered)
    )
    assert np.abs(found - wanted).max() < 0.12 * np.abs(wanted).max()
    assert np.abs(found - wanted).mean() < 0.04 * np.abs(wanted).mean()


def measured(model, x):
    """The range of every tensor that is quantised."""
    names = place(model, integer_outputs=True).tensors
    watched = onnx.load_model_from_string(serialise(network_copy(model)))
    known = {entry.name for entry in watched.graph.output}
    watched.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in known | {"x"}
    )
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    outputs = [entry.name for entry in session.get_outputs()]
    values = {**dict(zip(outputs, session.run(None, {"x": x}), strict=True)), "x": x}
    return {n: Range(float(values[n].min()), float(values[n].max()), ()) for n in names}


def network_copy(model):
    import onnx_ir as ir

    return ir.serde.deserialize_model(ir.serde.serialize_model(model))


TO_HALF = 'p = Resize<mode="cubic">({},, halves)\n'
# None of these ran, or computed what the float graph does, behind an integer convolution.
NOT_BEHIND_INTEGERS = {
    "cubic": 'r = Resize<mode="cubic", cubic_coeff_a=-0.75>(a,, twice)',
    "activation first": 'p = LeakyRelu(a)\n r = Resize<mode="cubic">(p,, twice)',
    "beside another path": (
        OTHER + 'p = Resize<mode="cubic">(a,, same)\n cat = Concat<axis=1>(p, a)\n r = Relu(cat)'
    ),
    "residual": "d = Conv<pads=[1,1,1,1]>(a, v)\n e = Add(a, d)\n f = Relu(e)\n"
    + TO_HALF.format("f")
    + "r = Identity(p)",
    "beside a convolution": "d = Conv<pads=[1,1,1,1]>(a, v)\n"
    + TO_HALF.format("a")
    + 'q = Resize<mode="nearest">(p,, twice)\n r = Add(d, q)',
    "pooled, beside a convolution": "m = MaxPool<kernel_shape=[2,2],strides=[2,2]>(a)\n"
    "d = Conv<pads=[1,1,1,1]>(m, v)\n"
    + TO_HALF.format("m")
    + 'q = Resize<mode="nearest">(p,, twice)\n r = Add(d, q)',
    "resize of axes": 'r = Resize<mode="linear", axes=[2,3]>(a,, scale)',
    "resize of axes, to a size": 'r = Resize<mode="nearest", axes=[2,3]>(a,,, most)',
    "pad of axes": "p = Pad(a, edges,, plane)\n r = Slice(p, ones, most, plane)",
    "pad of axes, joined": OTHER + "j = Concat<axis=1>(a, o)\n cat = Pad(j, edges,, plane)\n"
    "r = Relu(cat)",
    "crop": "r = CenterCropPad<axes=[2,3]>(a, most)",
    "dilated pool": "r = AveragePool<kernel_shape=[3,3], dilations=[2,2]>(a)",
    "partial windows": "r = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1,"
    "count_include_pad=1>(a)",
}


@pytest.fixture(params=NOT_BEHIND_INTEGERS)
def not_behind_integers(request):
    """A function that makes the network."""
    body = NOT_BEHIND_INTEGERS[request.param]
    text = FRAME.format(between=body, reads="v2" if "cat = " in body else "v")
    values = WEIGHTS | {
        "same": np.array([1, 1, 1, 1], np.float32),
        "halves": np.array([1, 1, 0.5, 0.5], np.float32),
        "scale": np.array([1.5, 1.5], np.float32),
        "most": np.array([12, 12]),
        "edges": np.array([1, 1, 1, 1]),
        "ones": np.array([1, 1]),
    }
    used = {key: value for key, value in values.items() if re.search(rf"\b{key}\b", text)}
    return lambda: graph(text, **used)


def test_operator_that_fails_behind_integer_convolutions_has_a_float_one(not_behind_integers):
    x = np.random.default_rng(1).standard_normal((1, CHANNELS, SIZE, SIZE)).astype(np.float32)
    model = not_behind_integers()
    lowered = quantised(model, ONNXRUNTIME, ranges=measured(model, x))
    lowered, plain = serialise(lowered), serialise(not_behind_integers())
    wanted, found = (
        OnnxRuntimeEngine(m, SIZE).session.run(None, {"x": x})[0] for m in (plain, lowered)
    )
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    precisions = precision_of_nodes(lowered)
    assert (precisions["a"], precisions["c"]) == ("fp32", "int8")


def test_reasons_of_what_must_read_floats(not_behind_integers):
    decisions = place(not_behind_integers(), integer_outputs=True).decisions
    reasons = {decision.node: decision.reason for decision in decisions}
    assert "computes it in float with quantised weights" in reasons["a"]
    assert any(reason == IN_FLOAT for reason in reasons.values())


def test_pair_for_float_readers_alone_is_not_made():
    """A LeakyRelu that only a float node reads gains nothing by rounding its result."""
    text = FRAME.format(between="p = LeakyRelu(a)\n q = Mul(p, slope)\n r = Tanh(q)", reads="v")
    used = {key: value for key, value in WEIGHTS.items() if re.search(rf"\b{key}\b", text)}
    placement = place(graph(text, **used), integer_outputs=True)
    assert set(placement.tensors) == {"x", "a", "r", "c"}


@pytest.mark.parametrize("name", ["relu", "relu6"])
def test_activation_is_taken_in_where_its_range_is_symmetric(name):
    """A calibration cache of TensorRT gives every tensor a range about 0."""
    model = network(name)
    ranges = {n: Range(-8.0, 8.0, ()) for n in place(model, integer_outputs=True).tensors}
    found = precision_of_nodes(serialise(quantised(model, ONNXRUNTIME, ranges=ranges)))
    assert found["a"] == "int8"


def test_lopsided_range_has_its_levels_where_its_values_are():
    """SiLU gives no less than -0.28: symmetrically half of the levels lay idle."""
    model = quantised(network("silu"), ONNXRUNTIME, ranges={"r": Range(-0.28, 8.0, ())})
    step, zero = (
        model.graph.initializers[f"r.{n}"].const_value.numpy().item()
        for n in ("scale", "zero_point")
    )
    assert step == pytest.approx(8.28 / 255)
    assert zero == round(0.28 / step)


def test_reason_names_what_has_no_integer_kernel():
    reasons = {d.node: d.reason for d in place(network("prelu"), integer_outputs=True).decisions}
    assert "ONNX Runtime has no integer kernel for PRelu" in reasons["r"]
    reasons = {d.node: d.reason for d in place(network("leaky"), integer_outputs=True).decisions}
    assert "no integer kernel" not in reasons["r"]


def test_min_channels_is_the_rule_for_narrow_convolutions():
    text = "g (float[N,12,8,8] x) => (float[N,12,8,8] z) { z = Conv(x, w) }"
    model = graph(text, w=(12, 12, 1, 1))
    assert place(model).convolutions == ()
    assert "under 16 (min_channels)" in place(model).decisions[0].reason
    assert place(model, min_channels=12).convolutions == ("z",)
    assert place(model, min_channels=13).convolutions == ()
