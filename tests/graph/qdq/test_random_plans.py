"""Any plan lowers in any dialect, with the ranges that one calibration observes."""

from __future__ import annotations

import random

import numpy as np
import onnxruntime as ort
import pytest

from lpx.engines.build import placement_of, style_of
from lpx.engines.onnxruntime.cpu import precision_of_nodes, session_options
from lpx.graph.model_io import serialise
from lpx.graph.nodes import COMPUTE
from lpx.graph.qdq.insert_qdq import activation_scales, insert_qdq
from lpx.graph.qdq.placement_dla import tensors_to_observe
from lpx.graph.qdq.plan import NO_PLAN, LayerPlan, PrecisionPlan
from lpx.graph.to_fp16 import to_fp16
from tests.graph.graphs import assumed_range, graph, run

PLANS = 12
SQUARE = (16, 16, 3, 3)
POINT = (16, 16, 1, 1)
CHAIN = """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
    a = Conv<pads=[1,1,1,1]>(x, w0, b0)
    r = Relu(a)
    c = Conv<pads=[1,1,1,1]>(r, w1)
    s = Relu(c)
    d = Conv<pads=[1,1,1,1]>(s, w2)
    t = Relu(d)
    z = Conv(t, w3)
}"""
RESIDUAL = """g (float[N,16,8,8] x) => (float[N,16,4,4] z) {
    a = Conv<pads=[1,1,1,1]>(x, w0)
    r = Relu(a)
    b = Conv<pads=[1,1,1,1], strides=[2,2]>(r, w1)
    s = Relu(b)
    c = Conv<pads=[1,1,1,1]>(s, w2)
    p = Conv<strides=[2,2]>(r, w3)
    e = Add(c, p)
    t = Relu(e)
    f = Conv<pads=[1,1,1,1]>(t, w4)
    u = Relu(f)
    h = Conv<pads=[1,1,1,1]>(u, w5)
    i = Add(h, t)
    v = Relu(i)
    z = Conv(v, w6)
}"""
DEPTHWISE = """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
    a = Conv(x, w0)
    r = Clip(a, low, high)
    d = Conv<pads=[1,1,1,1], group=16>(r, w1)
    s = Clip(d, low, high)
    p = Conv(s, w2)
    q = Conv(p, w3)
    t = Clip(q, low, high)
    e = Conv<pads=[1,1,1,1], group=16>(t, w4)
    u = Clip(e, low, high)
    f = Conv(u, w5)
    i = Add(f, p)
    z = Conv(i, w6)
}"""
# The gate is also reached through a node that ONNX Runtime only moves values in.
SQUEEZE = """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
    a = Conv<pads=[1,1,1,1]>(x, w0)
    r = Relu(a)
    m = GlobalAveragePool(r)
    b = Conv(m, w1)
    s = Relu(b)
    c = Conv(s, w2)
    g0 = Sigmoid(c)
    g1 = Identity(g0)
    e = Mul(r, g1)
    d = Conv(e, w3)
    t = Relu(d)
    z = Conv(t, w4)
}"""
POOLS = """g (float[N,16,16,16] x) => (float[N,16,4,4] z) {
    a = Conv<pads=[1,1,1,1]>(x, w0)
    r = Relu(a)
    m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    b = Conv<pads=[1,1,1,1]>(m, w1)
    s = Relu(b)
    n = MaxPool<kernel_shape=[2,2], strides=[2,2]>(s)
    q = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(n)
    c = Conv(q, w2)
    t = Relu(c)
    z = Conv(t, w3)
}"""
CONCAT = """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
    a = Conv<pads=[1,1,1,1]>(x, w0)
    r = Relu(a)
    b = Conv(r, w1)
    s = Relu(b)
    c = Conv<pads=[1,1,1,1]>(r, w2)
    t = Relu(c)
    m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(r)
    j = Concat<axis=1>(s, t, m)
    d = Conv(j, w3)
    u = Relu(d)
    z = Conv(u, w4)
}"""
LIMITS = {"low": np.float32(0), "high": np.float32(6)}
GRAPHS = {
    "chain": (CHAIN, {"w0": SQUARE, "b0": (16,), "w1": SQUARE, "w2": SQUARE, "w3": POINT}),
    "residual": (RESIDUAL, {**{f"w{i}": SQUARE for i in range(6)}, "w3": POINT, "w6": POINT}),
    "depthwise": (
        DEPTHWISE,
        {**{f"w{i}": POINT for i in range(7)}, "w1": (16, 1, 3, 3), "w4": (16, 1, 3, 3), **LIMITS},
    ),
    "squeeze": (SQUEEZE, {**{f"w{i}": POINT for i in range(5)}, "w0": SQUARE}),
    "pools": (POOLS, {"w0": SQUARE, "w1": SQUARE, "w2": POINT, "w3": POINT}),
    "concat": (
        CONCAT,
        {"w0": SQUARE, "w1": POINT, "w2": SQUARE, "w3": (16, 48, 1, 1), "w4": POINT},
    ),
}
LOWERINGS = {
    "onnxruntime": ("onnxruntime", "onnxruntime"),
    "strongly-typed": ("tensorrt", "strongly-typed"),
    "rtx": ("tensorrt-rtx", "strongly-typed"),
    "dla-explicit": ("tensorrt", "dla-explicit"),
    "calibration-cache": ("tensorrt", "calibration-cache"),
}


def model_of(kind):
    text, weights = GRAPHS[kind]
    model = graph(
        text, **{name: np.asarray(w) if name in LIMITS else w for name, w in weights.items()}
    )
    return model


def layers_of(model):
    return [node.name for node in model.graph if node.op_type in COMPUTE]


def random_plan(layers, seed):
    """A plan that names some of the layers."""
    chance = random.Random(seed)
    plan = {}
    for name in layers:
        if chance.random() < 0.9:
            plan[name] = LayerPlan(
                chance.choice(["int8", "int8", "float", "fp32"]),
                clip=chance.choice([None, "mse"]),
                rounding=chance.choice([None, "nearest"]),
            )
    return PrecisionPlan(plan)


def observed(model):
    """Ranges of what a calibration observes, and of nothing else."""
    return {name: assumed_range(model, name, 3.0) for name in tensors_to_observe(model)}


def lowered(kind, name, plan):
    """A graph with pairs, or the scales of a calibration cache."""
    target, dialect = LOWERINGS[name]
    model = model_of(kind)
    ranges = observed(model)
    placement = placement_of(model, target, dialect, plan=plan)
    if dialect == "calibration-cache":
        return activation_scales(placement, ranges)
    if dialect != "onnxruntime":
        to_fp16(model, plan.float32_layers)
    insert_qdq(model, placement, ranges, style_of(dialect), plan=plan)
    return model


def faces(kind):
    size = 16 if kind == "pools" else 8
    return np.random.default_rng(0).standard_normal((2, 16, size, size)).astype(np.float32)


@pytest.mark.parametrize("name", LOWERINGS)
@pytest.mark.parametrize("kind", GRAPHS)
def test_every_plan_lowers_and_the_graph_says_what_the_plan_does(kind, name):
    layers = layers_of(model_of(kind))
    for seed in range(PLANS):
        plan = random_plan(layers, seed)
        made = lowered(kind, name, plan)
        if name == "calibration-cache":
            assert all(scale > 0 for scale in made.values())
            continue
        for node in made.graph:
            if node.name not in layers:
                continue
            precision = plan.layers.get(node.name, LayerPlan("int8")).precision
            weight = node.inputs[1].producer()
            quantised = weight is not None and weight.op_type == "DequantizeLinear"
            assert not quantised or precision == "int8"
            if name != "onnxruntime":
                half = node.outputs[0].dtype.name == "FLOAT16"
                assert half == (precision != "fp32")
        assert np.isfinite(run(made, faces(kind))[0]).all()


@pytest.mark.parametrize("kind", GRAPHS)
def test_onnxruntime_computes_integers_where_the_plan_allows_them_and_correctly(kind):
    layers = layers_of(model_of(kind))
    x = faces(kind)
    in_integers = 0
    for seed in range(PLANS):
        plan = random_plan(layers, seed)
        made = lowered(kind, "onnxruntime", plan)
        data = serialise(made)
        run_as = precision_of_nodes(data)
        running = {layer for layer in layers if run_as[layer] == "int8"}
        assert not [n for n in running if plan.layers.get(n, LayerPlan("int8")).precision != "int8"]
        in_integers += len(running)
        options = session_options(vnni=False)
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"x": x})
        (written,) = run(made, x)
        # A level may flip where a sum is rounded in another order.
        assert np.abs(found - written).mean() < 0.01
    assert in_integers > PLANS


@pytest.mark.parametrize("name", LOWERINGS)
@pytest.mark.parametrize("kind", GRAPHS)
def test_plan_of_nothing_but_int8_changes_no_byte(kind, name):
    plan = PrecisionPlan(dict.fromkeys(layers_of(model_of(kind)), LayerPlan("int8")))
    whole, none = lowered(kind, name, plan), lowered(kind, name, NO_PLAN)
    if name == "calibration-cache":
        assert whole == none
    else:
        assert serialise(whole) == serialise(none)


def test_dla_quantises_nothing_before_a_layer_in_float():
    plan = PrecisionPlan({"c": LayerPlan("float")})
    pairs = {
        node.inputs[0].name
        for node in lowered("chain", "dla-explicit", plan).graph
        if node.op_type == "QuantizeLinear"
    }
    # r is read by a layer in float only, so neither it nor what comes before it is rounded.
    assert {name for name in pairs if "." not in name or name.endswith(".half")} == {
        "x.half",
        "s",
        "d",
        "t",
    }
