"""A model that is quantised already is refused, or turned back to float."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lpx.errors import LpxError
from lpx.graph.model_io import serialise
from lpx.graph.qdq.insert_qdq import DLA, ONNXRUNTIME, TENSORRT, Style
from lpx.graph.qdq.prepare import prepare_model
from lpx.graph.qdq.strip_qdq import require_float
from tests.graph.graphs import graph, quantised, run

BLOCK = """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
    a = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(a)
    c = Conv<pads=[1,1,1,1]>(r, v)
    s = Add(c, x)
    z = Relu(s)
}"""
WEIGHTS = {"w": (16, 16, 3, 3), "b": (16,), "v": (16, 16, 3, 3)}
PAIRS = {"QuantizeLinear", "DequantizeLinear"}
X = np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)


def kinds(model):
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("style", [TENSORRT, ONNXRUNTIME, DLA, Style(True, False, False)])
def test_pairs_come_out_again(style):
    model = quantised(graph(BLOCK, **WEIGHTS), style)
    count = sum(kind in PAIRS for kind in kinds(model))
    assert count > 4
    assert require_float(model, "it", requantise=True) == count
    assert kinds(model) == kinds(graph(BLOCK, **WEIGHTS))
    serialise(model)
    # What is left of quantisation is the rounding of the weights.
    wanted = run(graph(BLOCK, **WEIGHTS), X)[0]
    error = np.abs(run(model, X)[0] - wanted).max()
    assert 0 < error < 0.05 * np.abs(wanted).max()


def test_weights_keep_the_levels_they_had():
    model = quantised(graph(BLOCK, **WEIGHTS), ONNXRUNTIME)
    node = next(node for node in model.graph if node.name == "a")
    levels, scale, _ = (value.const_value.numpy() for value in node.inputs[1].producer().inputs)
    require_float(model, "it", requantise=True)
    found = node.inputs[1].const_value.numpy()
    assert found.dtype == np.float32
    assert np.allclose(found, levels * scale[:, None, None, None], rtol=1e-6)


def test_output_behind_a_pair_keeps_its_name():
    text = """g (float[N,4] x) => (float[N,4] z) {
        y = Relu(x)
        q = QuantizeLinear(y, s, o)
        z = DequantizeLinear(q, s, o)
    }"""
    model = graph(text, s=np.array(0.1, np.float32), o=np.array(0, np.int8))
    assert require_float(model, "it", requantise=True) == 2
    assert [value.name for value in model.graph.outputs] == ["z"]
    values = np.array([[-1, 0.123, 2, 3]], np.float32)
    assert np.array_equal(run(model, values)[0], np.maximum(values, 0))


def test_input_behind_a_pair():
    text = """g (float[N,4] x) => (float[N,4] z) {
        q = QuantizeLinear(x, s, o)
        d = DequantizeLinear(q, s, o)
        z = Relu(d)
    }"""
    model = graph(text, s=np.array(0.1, np.float32), o=np.array(0, np.int8))
    require_float(model, "it", requantise=True)
    assert kinds(model) == ["Relu"]


def test_refused_with_the_count_and_the_first_node():
    model = quantised(graph(BLOCK, **WEIGHTS), TENSORRT)
    with pytest.raises(
        LpxError, match=r"m.onnx is quantised already: it has 8 Q/DQ nodes, the first c.w"
    ) as e:
        require_float(model, "m.onnx")
    assert "`requantise=True`" in e.value.fix


@pytest.mark.parametrize(
    "text",
    [
        "g (uint8[N,4] x) => (float[N,4] z) { d = DequantizeLinear(x, s, o)\n z = Relu(d) }",
        "g (float[N,4] x) => (uint8[N,4] z) { y = Relu(x)\n z = QuantizeLinear(y, s, o) }",
        "g (float[N,4] x) => (float[N,4] z) { q, a, b = DynamicQuantizeLinear(x)\n"
        "z = DequantizeLinear(q, a, b) }",
    ],
    ids=["integer input", "integer output", "dynamic"],
)
def test_integers_that_are_no_pair_cannot_be_taken_out(text):
    constants = {"s": np.array(0.1, np.float32), "o": np.array(3, np.uint8)}
    if "Dynamic" in text:
        constants = {}
    with pytest.raises(LpxError, match="computes in integers"):
        require_float(graph(text, **constants), "it", requantise=True)


def test_float_model_comes_back_as_it_is():
    data = serialise(graph(BLOCK, **WEIGHTS))
    assert prepare_model(data, "it") == (data, ())
    assert prepare_model(data, "it", requantise=True) == (data, ())


def test_prepared_model_is_float_and_can_be_quantised_again():
    data = serialise(quantised(graph(BLOCK, **WEIGHTS), ONNXRUNTIME))
    with pytest.raises(LpxError, match="quantised already"):
        prepare_model(data, "it")
    again, _ = prepare_model(data, "it", requantise=True)
    model = ir.serde.deserialize_model(onnx.load_model_from_string(again))
    assert not PAIRS & set(kinds(model))
