from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lpx.graph.model_io import serialise
from lpx.graph.to_fp16 import LARGEST, to_fp16

from .graphs import graph, run

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
WEIGHTS = {"offset": np.full((1, 16, 1, 1), 120.0, np.float32), "w": (16, 16, 3, 3), "b": (16,),
           "v": (16, 16, 3, 3), "u": (1, 16, 1, 1),
           "low": np.array(0, np.float32), "high": np.array(6, np.float32)}  # fmt: skip


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
        ("score", FLOAT), ("patch_map", FLOAT)
    ]  # fmt: skip


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
