from __future__ import annotations

import numpy as np
import onnx
import pytest

from lpx.errors import LpxError
from lpx.graph.lower_opset import _UNCHANGED, OLDEST, lower_opset
from lpx.graph.model_io import serialise

from .graphs import graph, run

POOL = """g (float[N,16,8,8] x) => (float[N] y, float[N,1,1,1] z) {{
    c = Conv<pads=[1,1,1,1]>(x, w)
    y = {op}<keepdims=0>(c, axes)
    z = {op}(c, axes)
}}"""
AXES = {"w": (16, 16, 3, 3), "axes": np.array([1, 2, 3])}


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceMin"])
def test_axes_become_an_attribute(op):
    x = np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)
    model = graph(POOL.format(op=op), **AXES)
    wanted = run(model, x)
    lower_opset(model, 17)
    proto = onnx.load_model_from_string(serialise(model))
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
    assert proto.ir_version <= 8
    reduced = [node for node in proto.graph.node if node.op_type == op]
    for node in reduced:
        assert len(node.input) == 1
        assert {a.name: list(a.ints) for a in node.attribute}["axes"] == [1, 2, 3]
    for before, after in zip(wanted, run(model, x), strict=True):
        assert np.array_equal(before, after)


def test_reduction_over_all_axes_stays_one():
    text = "g (float[2,16,8,8] x) => (float y) { y = ReduceMean<keepdims=0>(x) }"
    model = graph(text)
    lower_opset(model, 17)
    x = np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)
    assert run(model, x)[0] == pytest.approx(x.mean(), abs=1e-6)


@pytest.mark.parametrize("opset", [17, 18, 19])
def test_every_opset_in_between(opset):
    model = graph(POOL.format(op="ReduceMean"), **AXES)
    x = np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)
    wanted = run(model, x)
    lower_opset(model, opset)
    assert model.graph.opset_imports[""] == opset
    for before, after in zip(wanted, run(model, x), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("opset", [20, 21])
def test_newer_opset_changes_nothing(opset):
    model = graph(POOL.format(op="ReduceMean"), **AXES)
    before = serialise(model)
    lower_opset(model, opset)
    assert serialise(model) == before


def test_unknown_operator_is_refused():
    text = "g (float[N,16,8,8] x) => (float[N,16,8,8] z) { y = Relu(x)\n z = Gelu(y) }"
    with pytest.raises(LpxError, match="Gelu") as caught:
        lower_opset(graph(text), 17)
    assert "node z" in caught.value.why
    assert "--opset 20" in caught.value.fix


def test_axes_computed_at_run_time_are_refused():
    text = """g (float[2,16,8,8] x, int64[1] k) => (float[a,b,c,d] z) {
        axes = Add(k, k)
        z = ReduceMean(x, axes)
    }"""
    with pytest.raises(LpxError, match="computed at run time"):
        lower_opset(graph(text), 17)


@pytest.mark.parametrize("name", sorted(_UNCHANGED))
def test_operators_called_unchanged_are(name):
    """Same inputs, outputs and attributes at 17 and 20, so far as a detector uses them."""
    old, new = (onnx.defs.get_schema(name, version) for version in (OLDEST, 20))
    assert [entry.name for entry in old.inputs] == [entry.name for entry in new.inputs]
    assert [entry.name for entry in old.outputs] == [entry.name for entry in new.outputs]
    # Attributes that came later; their absence means what opset 17 does.
    added = {"Cast": {"saturate"}, "QuantizeLinear": {"saturate"}, "AveragePool": {"dilations"}}
    assert set(new.attributes) - set(old.attributes) <= added.get(name, set())
    assert set(old.attributes) <= set(new.attributes)
