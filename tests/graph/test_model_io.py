from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lpx.errors import LpxError
from lpx.graph.model_io import is_constant, parse, serialise, tensor
from tests.graph.graphs import graph

CONV = "g (float[N,16,8,8] x) => (float[N,16,8,8] z) { z = Conv(x, w) }"


@pytest.mark.parametrize("data", [b"", b"not ONNX", bytes(64), b"\x08"], ids=repr)
def test_what_is_no_model_is_refused(data):
    with pytest.raises(LpxError, match=r"engine\.onnx"):
        parse(data, "engine.onnx")


def test_truncated_model_is_refused():
    data = serialise(graph(CONV, w=(16, 16, 1, 1)))
    for kept in (1, len(data) // 2, len(data) - 1):
        with pytest.raises(LpxError, match="export it again"):
            parse(data[:kept], "model.onnx")


def test_round_trip_keeps_metadata():
    model = graph(CONV, w=(16, 16, 1, 1))
    model.metadata_props["lpx.card"] = "{}"
    again = parse(serialise(model), "model.onnx")
    assert again.metadata_props["lpx.card"] == "{}"
    assert [node.op_type for node in again.graph] == ["Conv"]


def test_what_no_output_needs_is_left_out():
    text = "g (float[N,16,8,8] x) => (float[N,16,8,8] z) { y = Relu(x)\n z = Conv(x, w) }"
    model = graph(text, w=(16, 16, 1, 1), unused=(3,))
    proto = onnx.load_model_from_string(serialise(model))
    assert [node.op_type for node in proto.graph.node] == ["Conv"]
    assert [entry.name for entry in proto.graph.initializer] == ["w"]


def test_invalid_graph_is_refused():
    model = graph(CONV, w=(16, 16, 1, 1))
    half = tensor(model.graph, "half", np.zeros((16, 16, 1, 1), np.float16))
    next(iter(model.graph)).replace_input_with(1, half)
    with pytest.raises(LpxError, match="not valid ONNX"):
        serialise(model)


def test_tensor_registers_a_constant():
    model = graph(CONV, w=(16, 16, 1, 1))
    value = tensor(model.graph, "t", np.arange(6, dtype=np.int8).reshape(2, 3))
    assert model.graph.initializers["t"] is value
    assert (value.dtype, list(value.shape)) == (ir.DataType.INT8, [2, 3])
    assert is_constant(value)
    assert not is_constant(model.graph.inputs[0])
    assert not is_constant(None)
