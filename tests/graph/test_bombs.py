"""Models of a few bytes that ask for terabytes are refused before anything is allocated."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpx.errors import LpxError
from lpx.graph.proto import parse_proto


def constant(name, value, dtype=np.int64):
    return numpy_helper.from_array(np.array(value, dtype), name)


def model(node, *constants):
    faces = helper.make_tensor_value_info("faces", TensorProto.UINT8, ["N", 4, 4, 3])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"])
    total = helper.make_node("ReduceSum", ["made"], ["score"])
    graph = helper.make_graph([node, total], "g", [faces], [score], list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


HUGE = [2**20, 2**20]
ONE = constant("one", [1], np.float32)
BOMBS = [
    (helper.make_node("ConstantOfShape", ["shape"], ["made"]), constant("shape", HUGE)),
    (helper.make_node("Expand", ["one", "shape"], ["made"]), ONE, constant("shape", HUGE)),
    (helper.make_node("Tile", ["one", "shape"], ["made"]), ONE, constant("shape", [2**40])),
    (
        helper.make_node("Range", ["a", "b", "c"], ["made"]),
        *(constant(name, value, np.float32) for name, value in (("a", 0), ("b", 2**40), ("c", 1))),
    ),
]


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb[0].op_type)
def test_constants_made_of_a_few_numbers(bomb):
    with pytest.raises(LpxError, match="makes a constant of more than 256 Mi values"):
        parse_proto(model(*bomb).SerializeToString(), "x")


def test_in_a_branch():
    made = model(*BOMBS[0]).graph
    made.ClearField("input")
    node = helper.make_node("If", ["yes"], ["made"], then_branch=made, else_branch=made)
    with pytest.raises(LpxError, match="ConstantOfShape"):
        parse_proto(model(node, constant("yes", True, np.bool_)).SerializeToString(), "x")


def test_what_is_small_passes():
    node = helper.make_node("ConstantOfShape", ["shape"], ["made"])
    assert parse_proto(model(node, constant("shape", [64, 64])).SerializeToString(), "x").graph


@pytest.mark.parametrize("dims", [[2**40], [-1], [2**31, 2**31, 2**31]])
def test_weights_that_claim_more_than_they_hold(dims):
    weights = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, raw_data=b"\0" * 16)
    weights.dims.extend(dims)
    node = helper.make_node("Identity", ["w"], ["made"])
    with pytest.raises(LpxError, match="claim more values than it has"):
        parse_proto(model(node, weights).SerializeToString(), "x")


@pytest.mark.parametrize("kind", ["INT4", "INT2"])
def test_weights_that_share_bytes(kind):
    data_type = getattr(TensorProto, kind, None)
    if data_type is None:
        pytest.skip(f"this onnx has no {kind}")
    # Values below 8 bits are packed: two or four into a byte.
    packed = bytes(4096 // {"INT4": 2, "INT2": 4}[kind])
    weights = onnx.TensorProto(name="w", data_type=data_type, dims=[4096], raw_data=packed)
    node = helper.make_node("Identity", ["w"], ["made"])
    assert parse_proto(model(node, weights).SerializeToString(), "x").graph
