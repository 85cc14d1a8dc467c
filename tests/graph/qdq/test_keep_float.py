"""ONNX Runtime computes in float what lpx leaves in float, also between integer layers."""

from __future__ import annotations

import numpy as np
import pytest

from lpx.engines.onnxruntime.cpu import precision_of_nodes
from lpx.graph.model_io import serialise
from lpx.graph.qdq import keep_float
from lpx.graph.qdq.insert_qdq import ONNXRUNTIME, insert_qdq
from lpx.graph.qdq.placement import place
from lpx.graph.qdq.plan import LayerPlan, PrecisionPlan
from tests.graph.graphs import assumed_range, graph, run

BETWEEN = """g (float[N,16,8,8] x) => (float[N,16,4,4] z) {{
    a = Conv(x, w0)
    r = Relu(a)
    {0}
    s = Relu(c)
    z = Conv(s, w2)
}}"""
DIRECTLY = "c = Conv(r, w1, b)"
AFTER_A_POOL = "m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)\n    c = Conv(m, w1, b)"
WITHOUT_BIAS = "m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)\n    c = Conv(m, w1)"
POINT = (16, 16, 1, 1)


def made(middle):
    bias = (np.arange(16, dtype=np.float32) - 7) / 3
    model = graph(BETWEEN.format(middle), shapes=False, w0=POINT, w1=POINT, w2=POINT, b=bias)
    plan = PrecisionPlan({"c": LayerPlan("float")})
    placement = place(model, integer_outputs=True, plan=plan)
    ranges = {name: assumed_range(model, name) for name in placement.tensors}
    insert_qdq(model, placement, ranges, ONNXRUNTIME, plan=plan)
    return model


@pytest.mark.parametrize("middle", [DIRECTLY, AFTER_A_POOL, WITHOUT_BIAS])
def test_layer_in_float_stays_there(middle, monkeypatch):
    as_run = precision_of_nodes(serialise(made(middle)))
    assert (as_run["a"], as_run["c"]) == ("int8", "fp32")
    values = np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)
    (kept,) = run(made(middle), values)
    # If it did nothing, ONNX Runtime would quantise the layer, which this test has to notice.
    monkeypatch.setattr("lpx.graph.qdq.insert_qdq.keep_float", lambda *_: ())
    assert precision_of_nodes(serialise(made(middle)))["c"] == "int8"
    assert np.array_equal(run(made(middle), values)[0], kept)


def test_stored_bias_is_exact():
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(2000) * 10.0 ** rng.integers(-28, 37, 2000)).astype(np.float32)
    values = np.concatenate([values, np.float32([0, 1, -1, np.finfo(np.float32).max])])
    stored = keep_float._exactly(values)
    assert stored.levels.dtype == np.int32
    assert np.array_equal(stored.levels.astype(np.float32) * stored.scales, values)
