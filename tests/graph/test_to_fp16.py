from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lpx.graph.model_io import serialise
from lpx.graph.to_fp16 import LARGEST, SMALLEST, halved, to_fp16
from tests.graph.graphs import graph, run

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
# Preprocessing, a residual body, a classifier, and the aggregate.
DETECTOR = """g (uint8[N,8,8,16] faces) => (float[N] score, float[N,8,8] patch_map) {
    pixels = Cast<to=1>(faces)
    planes = Transpose<perm=[0,3,1,2]>(pixels)
    centred = Sub(planes, offset)
    a = Conv<pads=[1,1,1,1]>(centred, w, b)
    r = Clip(a, low, high)
    c = Conv<pads=[1,1,1,1]>(r, v)
    s = Add(c, r)
    logits4 = Conv(s, u)
    one = Constant<value_ints=[1]>()
    logits = Squeeze(logits4, one)
    patch_map = Sigmoid(logits)
    axes = Constant<value_ints=[1,2]>()
    top = ReduceMax<keepdims=0>(logits, axes)
    mean = ReduceMean<keepdims=0>(patch_map, axes)
    score = Mul(top, mean)
}"""
WEIGHTS = {
    "offset": np.full((1, 16, 1, 1), 120.0, np.float32),
    "w": (16, 16, 3, 3),
    "b": (16,),
    "v": (16, 16, 3, 3),
    "u": (1, 16, 1, 1),
    "low": np.array(0, np.float32),
    "high": np.array(6, np.float32),
}


@pytest.fixture
def model():
    scaled = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32) / 1000
    return graph(DETECTOR, **(WEIGHTS | {"w": scaled}))


@pytest.fixture
def converted(model):
    """The half graph, checked and read again, so that its types are those of ONNX's inference."""
    to_fp16(model)
    return ir.serde.deserialize_model(onnx.load_model_from_string(serialise(model)))


def nodes(model):
    return {node.name: node for node in model.graph}


def types(model):
    return {value.name: value.dtype for node in model.graph for value in node.outputs}


def test_body_is_half_and_the_ends_are_single(converted):
    found = types(converted)
    body = ("a", "r", "c", "s")
    ends = ("pixels", "planes", "centred", "logits", "top", "mean", "score", "patch_map")
    assert {name: found[name] for name in body} == dict.fromkeys(body, HALF)
    assert {name: found[name] for name in ends} == dict.fromkeys(ends, FLOAT)
    assert converted.graph.inputs[0].dtype == ir.DataType.UINT8
    assert [(value.name, value.dtype) for value in converted.graph.outputs] == [
        ("score", FLOAT),
        ("patch_map", FLOAT),
    ]


def test_weights_biases_and_limits_of_the_body_are_half(converted):
    for name in ("a", "c", "logits4"):
        assert all(value.dtype == HALF for value in nodes(converted)[name].inputs[1:])
    assert all(value.dtype == HALF for value in nodes(converted)["r"].inputs)
    assert nodes(converted)["centred"].inputs[1].dtype == FLOAT


def test_constants_are_converted_beforehand_and_tensors_by_one_cast_each(converted):
    casts = {node.inputs[0].name: node for node in converted.graph if node.op_type == "Cast"}
    assert sum(node.op_type == "Cast" for node in converted.graph) == len(casts)
    # The faces, the way into the body, and the way out of it.
    assert set(casts) == {"faces", "centred", "logits4"}


def test_tensor_with_two_readers_is_converted_once():
    text = """g (float[N,16,8,8] x) => (float[N,16,8,8] p, float[N,16,8,8] q, float[N,16,8,8] z) {
        a = Conv(x, w)
        p = Sigmoid(a)
        q = Tanh(a)
        b = Conv(x, v)
        z = Relu(b)
    }"""
    model = graph(text, w=(16, 16, 1, 1), v=(16, 16, 1, 1))
    to_fp16(model)
    serialise(model)
    casts = [node.inputs[0].name for node in model.graph if node.op_type == "Cast"]
    # x is read by two convolutions, a by two functions of the float part.
    assert sorted(casts) == ["a", "b", "x"]


def test_output_of_a_convolution_keeps_name_and_type():
    model = graph(
        "g (float[N,16,8,8] x) => (float[N,16,8,8] z) { z = Conv(x, w) }", w=(16, 16, 1, 1)
    )
    x = np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)
    wanted = run(model, x)[0]
    to_fp16(model)
    (output,) = model.graph.outputs
    assert (output.name, output.dtype) == ("z", FLOAT)
    found = run(model, x)[0]
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() < 1e-2


def test_detector_computes_the_same_but_for_rounding(model):
    faces = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 16), np.uint8)
    wanted = run(model, faces)
    to_fp16(model)
    for before, after in zip(wanted, run(model, faces), strict=True):
        assert after.dtype == np.float32
        assert 0 < np.abs(after - before).max() < 5e-3


def test_graph_without_convolution_is_left_alone():
    model = graph("g (float[N,4] x) => (float[N,4] z) { y = Sigmoid(x)\n z = Relu(y) }")
    before = serialise(model)
    to_fp16(model)
    assert serialise(model) == before


def test_weight_over_the_largest_half_is_clamped_not_infinite():
    weight = np.full((16, 16, 1, 1), 1e6, np.float32)
    model = graph("g (float[N,16,8,8] x) => (float[N,16,8,8] z) { z = Conv(x, w) }", w=weight)
    to_fp16(model)
    found = nodes(model)["z"].inputs[1].const_value.numpy()
    assert (found == LARGEST).all()


def test_weight_shared_with_the_float_part_is_converted_for_the_body_alone():
    text = """g (float[16,16,8,8] x) => (float[16,16,8,8] z) {
        y = Mul(x, w)
        z = Conv(y, w)
    }"""
    model = graph(text, w=(16, 16, 1, 1))
    to_fp16(model)
    assert nodes(model)["y"].inputs[1].dtype == FLOAT
    assert nodes(model)["z"].inputs[1].dtype == HALF


# Between two convolutions stands what takes, makes or hides a type that is not the graph's to turn.
FIXED = {
    "scales of a resize": 'm = Resize<mode="nearest">(a, , double)',
    "region of a resize": """m = Resize<mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize">(a, region, , size)""",
    "cast of truth values": "t = Greater(a, third)\n f = Cast<to=1>(t)\n m = Mul(a, f)",
    "cast of integers": "top, i = TopK(a, k)\n f = Cast<to=1>(i)\n s = ReduceMean(f, last)"
    "\n m = Mul(a, s)",
    "limits": "m = Clip(a, third, three)",
    "limits that are computed": "h = ReduceMax(a)\n h0 = Reshape(h, none)\n m = Clip(a, third, h0)",
    "range": "p = Range(third, three, three)\n s = ReduceSum(p)\n m = Mul(a, s)",
    "filled": "s = Shape(a)\n z = ConstantOfShape<value=float[1] {0.5}>(s)\n m = Add(a, z)",
    "padding": "m = Pad(a, pads, third)",
    "triangle": "m = Trilu(a)",
    "running sum": "m = CumSum(a, axis)",
    "one of many": "i = ArgMax<axis=3>(a)\n o = OneHot<axis=3>(i, eight, pair)"
    "\n q = Squeeze(o, last4)\n r = Mul(a, q)\n m = Identity(r)",
    "like another": "t = Less(a, third)\n f = CastLike(t, a)\n m = Sub(a, f)",
    "identity matrix": "e = EyeLike<dtype=1>(square)\n m = MatMul(a, e)",
    "layer norm with its mean": "n, mean, inverse = LayerNormalization<stash_type=1>(a, line)"
    "\n m = Add(n, mean)",
    "sampled": "m = GridSample(a, grid)",
    "masked by infinity": "t = Less(a, third)\n chosen = Where(t, a, least)"
    "\n m = Softmax<axis=3>(chosen)",
    "epsilon": "z = Sub(a, a)\n n = ReduceL2(z, last)\n d = Add(n, tiny)\n q = Div(z, d)"
    "\n m = Add(a, q)",
    "sum": "m = Sum(a, a, three)",
    "inner graphs": """t = Constant<value_int=1>()
        c = Cast<to=9>(t)
        m = If(c) <
            then_branch = y () => (float[N,16,8,8] p) { p = Mul(a, three) },
            else_branch = n () => (float[N,16,8,8] q) { q = Identity(a) }
        >""",
    "double": "d = Cast<to=11>(a)\n e = Mul(d, d)\n m = Cast<to=1>(e)",
    "half already": "h = Cast<to=10>(a)\n e = Add(h, h)\n m = Cast<to=1>(e)",
}
FIXED_CONSTANTS = {
    "double": np.array([1, 1, 2, 2], np.float32),
    "region": np.array([0, 0, 0.1, 0.1, 1, 1, 0.9, 0.9], np.float32),
    "size": np.array([1, 16, 4, 4]),
    "third": np.array(1 / 3, np.float32),
    "three": np.array(3, np.float32),
    "k": np.array([3]),
    "last": np.array([3]),
    "last4": np.array([4]),
    "none": np.array([], np.int64),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "axis": np.array(2),
    "eight": np.array(8),
    "pair": np.array([0.25, 1.5], np.float32),
    "square": np.zeros((8, 8), np.int64),
    "line": np.linspace(0.5, 1.5, 8, dtype=np.float32),
    "grid": np.random.default_rng(0).uniform(-1, 1, (1, 4, 4, 2)).astype(np.float32),
    "least": np.array(-np.inf, np.float32),
    "tiny": np.array(1e-12, np.float32),
}


@pytest.mark.parametrize("lines", FIXED.values(), ids=FIXED)
def test_what_has_a_type_of_its_own_keeps_it(lines):
    text = f"g (float[N,16,8,8] x) => (float y) {{ a = Conv(x, w)\n {lines}\n y = Conv(m, v) }}"
    used = {n: v for n, v in FIXED_CONSTANTS.items() if re.search(rf"\b{n}\b", lines)}
    model = graph(text, shapes=False, w=(16, 16, 1, 1), v=(4, 16, 1, 1), **used)
    x = np.random.default_rng(0).standard_normal((1, 16, 8, 8)).astype(np.float32)
    wanted = run(model, x)[0]
    to_fp16(model)
    # Checked by ONNX with all types, and run as it is written.
    found = run(model, x)[0]
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert 0 < np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    halves = {name for name, kind in types(model).items() if kind == HALF}
    assert {"a", "y.half"} <= halves


def test_sizes_are_computed_exactly():
    """A half has eleven bits: 2,051 faces would be 2,052."""
    text = """g (float[N,16,1,1] x) => (float[M,8,1,1] y) {
        a = Conv(x, w)
        s = Shape<start=0,end=1>(a)
        f = Cast<to=1>(s)
        g = Mul(f, two)
        k = Cast<to=7>(g)
        t = Concat<axis=0>(k, rest)
        r = Reshape(a, t)
        y = Conv(r, v)
    }"""
    constants = {"two": np.array(2, np.float32), "rest": np.array([8, 1, 1])}
    model = graph(text, w=(16, 16, 1, 1), v=(8, 8, 1, 1), **constants)
    x = np.random.default_rng(0).standard_normal((2051, 16, 1, 1)).astype(np.float32)
    wanted = run(model, x)[0]
    to_fp16(model)
    assert types(model) | {"a": HALF, "r": HALF, "f": FLOAT, "g": FLOAT} == types(model)
    np.testing.assert_allclose(run(model, x)[0], wanted, atol=0.02)


def test_indices_are_computed_exactly():
    """Position 2,051 of 4,096, by way of a float."""
    text = """g (float[1,16,64,64] x) => (float y) {
        a = Conv(x, w)
        flat = Reshape(a, row)
        best = ArgMax<axis=1, keepdims=0>(flat)
        f = Cast<to=1>(best)
        h = Mul(f, one)
        i = Cast<to=7>(h)
        picked = Gather<axis=1>(flat, i)
        m = Mul(a, picked)
        y = Conv(m, v)
    }"""
    constants = {"row": np.array([1, -1]), "one": np.array(1, np.float32)}
    model = graph(
        text,
        shapes=False,
        w=np.eye(16, dtype=np.float32).reshape(16, 16, 1, 1),
        v=(4, 16, 1, 1),
        **constants,
    )
    x = np.full((1, 16, 64, 64), 0.5, np.float32)
    x.reshape(-1)[2051] = 2
    wanted = run(model, x)[0]
    to_fp16(model)
    assert np.abs(run(model, x)[0] - wanted).max() < 0.01


def test_constants_keep_their_meaning():
    large, infinite = np.array([1e6, -1e6], np.float32), np.array(-np.inf, np.float32)
    assert halved(large).tolist() == [LARGEST, -LARGEST]
    assert halved(infinite) == -np.inf
    assert halved(np.array(-1e-12, np.float32)) == -SMALLEST
    assert halved(np.array(0.0, np.float32)) == 0
    # Weights that vanish beside others are no epsilon.
    assert halved(np.array([1e-12, 1], np.float32)).tolist() == [0, 1]


def test_named_layers_stay_in_float32_between_casts():
    model = graph(DETECTOR, **WEIGHTS)
    to_fp16(model, {"c"})
    nodes = {node.name: node for node in model.graph}
    assert nodes["c"].inputs[1].dtype == nodes["c"].outputs[0].dtype == FLOAT
    assert nodes["a"].outputs[0].dtype == nodes["s"].outputs[0].dtype == HALF
    # The input and the result of the layer are the only tensors that change their type there.
    assert nodes["c"].inputs[0].producer().op_type == "Cast"
    assert nodes["s"].inputs[0].producer().op_type == "Cast"
    assert nodes["s"].inputs[1].producer().op_type == "Clip"
    faces = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 16), np.uint8)
    found, exact = run(model, faces), run(graph(DETECTOR, **WEIGHTS), faces)
    assert np.abs(found[0] - exact[0]).max() < 0.05
