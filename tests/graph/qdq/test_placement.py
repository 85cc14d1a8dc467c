"""Where Q/DQ pairs are, pattern by pattern, in the style of TensorRT and in ONNX Runtime's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import pytest

from lpx.graph.model_io import serialise
from lpx.graph.qdq.insert_qdq import ONNXRUNTIME, TENSORRT, Range, insert_qdq
from lpx.graph.qdq.placement import COMPUTE, place
from tests.graph.graphs import (
    assumed_range,
    dequantised_inputs,
    graph,
    quantised,
    quantised_tensors,
    run,
)


@dataclass(frozen=True)
class Pattern:
    """A graph, and per style the inputs (node.index) that are dequantised and the activations.

    Weights are inputs 1, and in ONNX Runtime's style biases inputs 2 of the same nodes.
    """

    text: str
    weights: dict[str, tuple[int, ...] | np.ndarray]
    tensorrt: set[str]
    tensorrt_activations: list[str]
    onnxruntime: set[str]
    onnxruntime_activations: list[str]
    inputs: tuple[tuple[int, ...], ...] = ((2, 16, 8, 8),)
    decisions: dict[str, bool] = field(default_factory=dict)

    def graph(self):
        return graph(self.text, **self.weights)


def convolutions(*names):
    """Inputs of convolutions quantised in TensorRT's style."""
    return {f"{name}.{index}" for name in names for index in (0, 1)}


def integer_convolutions(*names):
    """Inputs of convolutions quantised in ONNX Runtime's style: all get a bias."""
    return {f"{name}.{index}" for name in names for index in (0, 1, 2)}


SQUARE = (16, 16, 3, 3)
PATTERNS = {
    "conv": Pattern(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] z) { z = Conv<pads=[1,1,1,1]>(x, w, b) }""",
        {"w": SQUARE, "b": (16,)},
        convolutions("z"),
        ["x"],
        integer_convolutions("z"),
        ["x"],
        decisions={"z": True},
    ),
    "conv-relu-maxpool": Pattern(
        """g (float[N,16,8,8] x) => (float[N,16,4,4] z) {
            a = Conv<pads=[1,1,1,1]>(x, w, b)
            r = Relu(a)
            m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
            c = Conv<pads=[1,1,1,1]>(m, v)
            z = Relu(c)
        }""",
        {"w": SQUARE, "b": (16,), "v": SQUARE},
        convolutions("a", "c"),
        ["x", "m"],
        integer_convolutions("a", "c") | {"m.0"},
        ["x", "r", "m"],
        decisions={"a": True, "c": True},
    ),
    "conv-clip": Pattern(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
            a = Conv<pads=[1,1,1,1]>(x, w)
            r = Clip(a, low, high)
            z = Conv<pads=[1,1,1,1]>(r, v)
        }""",
        {"w": SQUARE, "v": SQUARE, "low": np.array(0, np.float32), "high": np.array(6, np.float32)},
        convolutions("a", "z"),
        ["x", "r"],
        integer_convolutions("a", "z"),
        ["x", "r"],
    ),
    "identity-skip": Pattern(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
            a = Conv<pads=[1,1,1,1]>(x, w)
            r = Relu(a)
            c = Conv<pads=[1,1,1,1]>(r, v, b)
            s = Add(c, x)
            z = Relu(s)
        }""",
        {"w": SQUARE, "v": SQUARE, "b": (16,)},
        convolutions("a", "c") | {"s.1"},
        ["x", "r"],
        integer_convolutions("a", "c") | {"s.0", "s.1"},
        ["x", "r", "c"],
        decisions={"a": True, "c": True, "s": True},
    ),
    "identity-skip-first": Pattern(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
            c = Conv<pads=[1,1,1,1]>(x, w)
            z = Add(x, c)
        }""",
        {"w": SQUARE},
        convolutions("c") | {"z.0"},
        ["x"],
        integer_convolutions("c") | {"z.0", "z.1"},
        ["x", "c"],
    ),
    "projection-skip": Pattern(
        """g (float[N,16,8,8] x) => (float[N,32,4,4] z) {
            p = Conv<strides=[2,2]>(x, u)
            a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w)
            r = Relu(a)
            c = Conv<pads=[1,1,1,1]>(r, v)
            s = Add(p, c)
            z = Relu(s)
        }""",
        {"u": (32, 16, 1, 1), "w": (32, 16, 3, 3), "v": (32, 32, 3, 3)},
        # c is the end of the longer path: the Add goes into its epilogue, and p is read as INT8.
        convolutions("p", "a", "c") | {"s.0"},
        ["x", "p", "r"],
        integer_convolutions("p", "a", "c") | {"s.0", "s.1"},
        ["x", "p", "r", "c"],
        decisions={"p": True, "a": True, "c": True, "s": True},
    ),
    "maxpool-ends-a-branch": Pattern(
        # Xception's block: only the projection is a convolution that can take the Add.
        """g (float[N,16,8,8] x) => (float[N,32,4,4] z) {
            a = Conv<pads=[1,1,1,1]>(x, w)
            r = Relu(a)
            c = Conv<pads=[1,1,1,1]>(r, v)
            m = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(c)
            p = Conv<strides=[2,2]>(x, u)
            z = Add(m, p)
        }""",
        {"u": (32, 16, 1, 1), "w": (32, 16, 3, 3), "v": (32, 32, 3, 3)},
        convolutions("p", "a", "c") | {"z.0"},
        ["x", "r", "m"],
        integer_convolutions("p", "a", "c") | {"m.0", "z.0", "z.1"},
        ["x", "r", "c", "m", "p"],
    ),
    "second-residual-block": Pattern(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
            a = Conv<pads=[1,1,1,1]>(x, w)
            s = Add(a, x)
            r = Relu(s)
            c = Conv<pads=[1,1,1,1]>(r, v)
            z = Add(c, r)
        }""",
        {"w": SQUARE, "v": SQUARE},
        convolutions("a", "c") | {"s.1", "z.1"},
        ["x", "r"],
        integer_convolutions("a", "c") | {"s.0", "s.1", "z.0", "z.1"},
        ["x", "a", "r", "c"],
    ),
    "depthwise-24": Pattern(
        """g (float[N,24,8,8] x) => (float[N,24,8,8] z) {
            z = Conv<pads=[1,1,1,1], group=24>(x, w)
        }""",
        {"w": (24, 1, 3, 3)},
        convolutions("z"),
        ["x"],
        integer_convolutions("z"),
        ["x"],
        inputs=((2, 24, 8, 8),),
        decisions={"z": True},
    ),
    "depthwise-20": Pattern(
        """g (float[N,20,8,8] x) => (float[N,20,8,8] z) {
            z = Conv<pads=[1,1,1,1], group=20>(x, w)
        }""",
        {"w": (20, 1, 3, 3)},
        set(),
        [],
        set(),
        [],
        inputs=((2, 20, 8, 8),),
        decisions={"z": False},
    ),
    "grouped": Pattern(
        """g (float[N,32,8,8] x) => (float[N,32,8,8] z) {
            z = Conv<pads=[1,1,1,1], group=4>(x, w)
        }""",
        {"w": (32, 8, 3, 3)},
        convolutions("z"),
        ["x"],
        integer_convolutions("z"),
        ["x"],
        inputs=((2, 32, 8, 8),),
    ),
    "rgb-stem": Pattern(
        """g (float[N,3,8,8] x) => (float[N,16,8,8] z) { z = Conv<pads=[1,1,1,1]>(x, w) }""",
        {"w": (16, 3, 3, 3)},
        set(),
        [],
        set(),
        [],
        inputs=((2, 3, 8, 8),),
        decisions={"z": False},
    ),
    "few-channels": Pattern(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
            a = Conv(x, w)
            z = Conv(a, v)
        }""",
        {"w": (8, 16, 1, 1), "v": (16, 8, 1, 1)},
        set(),
        [],
        set(),
        [],
        decisions={"a": False, "z": False},
    ),
    "classifier": Pattern(
        """g (float[N,16,8,8] x) => (float[N,1,8,8] z) {
            a = Conv(x, w)
            r = Relu(a)
            c = Conv(r, v)
            z = Sigmoid(c)
        }""",
        {"w": (16, 16, 1, 1), "v": (1, 16, 1, 1)},
        convolutions("a"),
        ["x"],
        # An integer convolution gives integers, so the classifier reads r through its pair.
        integer_convolutions("a") | {"c.0"},
        ["x", "r"],
        decisions={"a": True, "c": False},
    ),
    "two-computed-operands": Pattern(
        """g (float[N,16,8,8] x, float[16,16,1,1] y) => (float[N,16,8,8] m, float[N,16,8,8] z) {
            m = MatMul(x, x)
            z = Conv(x, y)
        }""",
        {},
        set(),
        [],
        set(),
        [],
        inputs=((2, 16, 8, 8), (16, 16, 1, 1)),
        decisions={"m": False, "z": False},
    ),
    "computed-bias": Pattern(
        """g (float[N,16,8,8] x, float[16] y) => (float[N,16,8,8] z) { z = Conv(x, w, y) }""",
        {"w": (16, 16, 1, 1)},
        set(),
        [],
        set(),
        [],
        inputs=((2, 16, 8, 8), (16,)),
        decisions={"z": False},
    ),
    "one-dimension": Pattern(
        """g (float[N,16,8] x) => (float[N,16,8] z) { z = Conv(x, w) }""",
        {"w": (16, 16, 1)},
        set(),
        [],
        set(),
        [],
        inputs=((2, 16, 8),),
        decisions={"z": False},
    ),
    "matrix-product-and-transposed": Pattern(
        """g (float[N,16] x, float[N,16,4,4] y) => (float[N,32] h, float[N,32] m,
                float[N,16,8,8] z) {
            h = Gemm(x, w, b)
            m = MatMul(x, w)
            z = ConvTranspose<strides=[2,2]>(y, u)
        }""",
        {"w": (16, 32), "b": (32,), "u": (16, 16, 2, 2)},
        set(),
        [],
        set(),
        [],
        inputs=((2, 16), (2, 16, 4, 4)),
        decisions={"h": False, "m": False, "z": False},
    ),
    "concat": Pattern(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
            a = Conv(x, w)
            b = Conv(x, v)
            c = Concat<axis=1>(a, b)
            z = Conv(c, u)
        }""",
        {"w": (16, 16, 1, 1), "v": (16, 16, 1, 1), "u": (16, 32, 1, 1)},
        # For TensorRT the Concat reads floats and is read through one pair.
        convolutions("a", "b", "z"),
        ["x", "c"],
        integer_convolutions("a", "b", "z") | {"c.0", "c.1"},
        ["x", "a", "b", "c"],
    ),
    "output-read-again": Pattern(
        # y is an output and stays as it was computed, whatever its other readers want.
        """g (float[N,16,8,8] x) => (float[N,16,8,8] y, float[N,16,8,8] z) {
            y = Conv<pads=[1,1,1,1]>(x, w)
            c = Conv<pads=[1,1,1,1]>(y, v)
            z = Add(c, y)
        }""",
        {"w": SQUARE, "v": SQUARE},
        convolutions("y", "c") | {"z.1"},
        ["x", "y"],
        integer_convolutions("y", "c") | {"z.0", "z.1"},
        ["x", "y", "c"],
    ),
    "output-pooled": Pattern(
        # A pooled tensor would be an integer in ONNX Runtime's style, were it not an output.
        """g (float[N,16,8,8] x) => (float[N,16,8,8] y, float[N,16,4,4] z) {
            y = Conv<pads=[1,1,1,1]>(x, w)
            z = MaxPool<kernel_shape=[2,2], strides=[2,2]>(y)
        }""",
        {"w": SQUARE},
        convolutions("y"),
        ["x"],
        integer_convolutions("y"),
        ["x"],
    ),
    "output-before-its-relu": Pattern(
        # a has two readers; in TensorRT's style Q/DQ is on the way to c, not on that to the Relu.
        """g (float[N,16,8,8] x) => (float[N,16,8,8] r, float[N,16,8,8] c) {
            a = Conv<pads=[1,1,1,1]>(x, w)
            r = Relu(a)
            c = Conv<pads=[1,1,1,1]>(a, v)
        }""",
        {"w": SQUARE, "v": SQUARE},
        convolutions("a", "c"),
        ["x", "a"],
        # At the source, for all its readers.
        integer_convolutions("a", "c") | {"r.0"},
        ["x", "a"],
    ),
    "add-of-floats": Pattern(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
            a = Conv(x, w)
            b = Add(a, c)
            r = Relu(x)
            z = Add(b, r)
        }""",
        {"w": (16, 16, 1, 1), "c": (16, 1, 1)},
        # No convolution ends in the second Add; the first adds a constant, as a bias does, and no
        # convolution reads what comes of it.
        convolutions("a"),
        ["x"],
        integer_convolutions("a") | {"r.0"},
        ["x"],
        decisions={"a": True, "z": False},
    ),
    "concat-read-by-two": Pattern(
        # DenseNet: a goes into the Concat as it is, and through a pair into b.
        """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
            a = Conv(x, w)
            b = Conv(a, v)
            c = Concat<axis=1>(a, b)
            z = Conv(c, u)
        }""",
        {"w": (16, 16, 1, 1), "v": (16, 16, 1, 1), "u": (16, 32, 1, 1)},
        convolutions("a", "b", "z"),
        ["x", "a", "c"],
        integer_convolutions("a", "b", "z") | {"c.0", "c.1"},
        ["x", "a", "b", "c"],
        decisions={"a": True, "b": True, "c": False, "z": True},
    ),
    "maxpool-of-floats": Pattern(
        """g (float[N,3,8,8] x) => (float[N,16,4,4] z) {
            a = Conv<pads=[1,1,1,1]>(x, w)
            r = Relu(a)
            m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
            z = Conv<pads=[1,1,1,1]>(m, v)
        }""",
        {"w": (16, 3, 3, 3), "v": SQUARE},
        convolutions("z"),
        ["m"],
        integer_convolutions("z"),
        ["m"],
        inputs=((2, 3, 8, 8),),
        decisions={"a": False, "m": False, "z": True},
    ),
    "pooled-head": Pattern(
        """g (float[N,16,8,8] x) => (float[N,2] z) {
            a = Conv<pads=[1,1,1,1]>(x, w)
            r = Relu(a)
            p = GlobalAveragePool(r)
            f = Flatten(p)
            l = Gemm(f, v)
            z = Softmax(l)
        }""",
        {"w": SQUARE, "v": (16, 2)},
        convolutions("a"),
        ["x"],
        integer_convolutions("a"),
        ["x"],
        decisions={"a": True, "p": False, "f": False, "l": False, "z": False},
    ),
    "moves-between-convolutions": Pattern(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
            a = Conv<pads=[1,1,1,1]>(x, w)
            t = Transpose<perm=[0,1,3,2]>(a)
            r = Reshape(t, shape)
            s = Slice(r, start, end)
            g = Sigmoid(s)
            z = Conv<pads=[1,1,1,1]>(g, v)
        }""",
        {
            "w": SQUARE,
            "v": SQUARE,
            "shape": np.array([0, 16, 8, 8]),
            "start": np.array([0, 0, 0, 0]),
            "end": np.array([2**31, 16, 8, 8]),
        },
        convolutions("a", "z"),
        ["x", "g"],
        # Integers are moved as floats are: one pair in front of all moves is enough.
        integer_convolutions("a", "z") | {"t.0"},
        ["x", "a", "g"],
        decisions={"t": False, "r": False, "s": False, "g": False},
    ),
    "shared-weight": Pattern(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
            a = Conv<pads=[1,1,1,1]>(x, w, b)
            z = Conv<pads=[1,1,1,1]>(a, w, b)
        }""",
        {"w": SQUARE, "b": (16,)},
        convolutions("a", "z"),
        ["x", "a"],
        integer_convolutions("a", "z"),
        ["x", "a"],
    ),
}


@pytest.fixture(params=PATTERNS)
def pattern(request):
    return PATTERNS[request.param]


def activations(model):
    """Tensors with a pair, weights apart."""
    return [name for name in quantised_tensors(model) if not name.endswith(".weight")]


def test_tensorrt_style(pattern):
    model = quantised(pattern.graph(), TENSORRT)
    assert dequantised_inputs(model) == pattern.tensorrt
    assert sorted(activations(model)) == sorted(pattern.tensorrt_activations)
    nodes = {node.name: node for node in model.graph}
    for name in pattern.tensorrt:
        node, index = name.split(".")
        pair = nodes[node].inputs[int(index)].producer()
        assert pair.inputs[0].producer().op_type == "QuantizeLinear", "half a pair"


def test_onnxruntime_style(pattern):
    model = quantised(pattern.graph(), ONNXRUNTIME)
    assert dequantised_inputs(model) == pattern.onnxruntime
    assert sorted(activations(model)) == sorted(pattern.onnxruntime_activations)


@pytest.mark.parametrize("style", [TENSORRT, ONNXRUNTIME], ids=["tensorrt", "onnxruntime"])
def test_quantised_graph_computes_the_same_but_for_rounding(pattern, style):
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in pattern.inputs]
    wanted = run(pattern.graph(), *inputs)
    found = run(quantised(pattern.graph(), style), *inputs)
    for before, after in zip(wanted, found, strict=True):
        assert before.shape == after.shape
        assert np.abs(after - before).max() < 0.1 * np.abs(before).max()


@pytest.mark.parametrize("style", [TENSORRT, ONNXRUNTIME], ids=["tensorrt", "onnxruntime"])
def test_outputs_keep_names_types_and_makers(pattern, style):
    before = pattern.graph()
    makers = {v.name: v.producer().op_type for v in before.graph.outputs}
    after = onnx.load_model_from_string(serialise(quantised(pattern.graph(), style)))
    found = {name: node.op_type for node in after.graph.node for name in node.output}
    for value in after.graph.output:
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert found[value.name] == makers[value.name]


@pytest.mark.parametrize("name", ["conv-relu-maxpool", "maxpool-ends-a-branch"])
def test_tensor_that_is_pooled_alone_has_the_pools_scale_in_integers(name):
    pooled = {"conv-relu-maxpool": ("r", "m"), "maxpool-ends-a-branch": ("c", "m")}[name]
    model = PATTERNS[name].graph()
    placement = place(model, integer_outputs=True)
    assert placement.shared == (pooled,)
    assert placement.derived == {pooled[0]}
    assert set(placement.observed) == set(placement.tensors) - placement.derived
    assert not place(model).shared


@pytest.mark.parametrize("name", ["output-pooled", "maxpool-of-floats"])
def test_pool_outside_integers_gives_no_scale(name):
    placement = place(PATTERNS[name].graph(), integer_outputs=True)
    assert not placement.shared
    assert not placement.derived


@pytest.mark.parametrize("peak", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_what_the_scale_of_a_pools_output_clips_is_in_no_output(peak, low):
    pattern = PATTERNS["maxpool-ends-a-branch"]
    x = np.random.default_rng(0).standard_normal(pattern.inputs[0]).astype(np.float32)
    found = []
    for outputs in (None, ()):
        model = pattern.graph()
        placement = place(model, integer_outputs=True)
        known = {name: assumed_range(model, name) for name in placement.observed}
        known["m"] = Range(low * peak, peak, ())
        if outputs is not None:
            placement = replace(placement, outputs=outputs, shared=(), derived=frozenset())
        insert_qdq(model, placement, known, ONNXRUNTIME)
        found.append(run(model, x)[0])
    assert np.array_equal(*found)


def test_tensorrt_style_never_quantises_what_it_fuses_or_moves(pattern):
    model = quantised(pattern.graph(), TENSORRT)
    never = {
        "Relu",
        "Clip",
        "Sigmoid",
        "Softmax",
        "Reshape",
        "Transpose",
        "Slice",
        "Flatten",
        "MaxPool",
        "Concat",
        "GlobalAveragePool",
        "Gemm",
        "MatMul",
    }
    kinds = {node.name: node.op_type for node in model.graph}
    assert not never & {kinds[name.split(".")[0]] for name in dequantised_inputs(model)}


def test_tensorrt_style_leaves_a_convolution_and_its_activation_together(pattern):
    before = {n.name: n.inputs[0].producer() for n in pattern.graph().graph if n.inputs}
    after = quantised(pattern.graph(), TENSORRT)
    for node in after.graph:
        if node.op_type in ("Relu", "Clip") and before[node.name] is not None:
            assert node.inputs[0].producer().name == before[node.name].name


@pytest.mark.parametrize("style", [TENSORRT, ONNXRUNTIME], ids=["tensorrt", "onnxruntime"])
def test_decisions_say_what_the_graph_shows(pattern, style):
    model = pattern.graph()
    said = {d.node for d in place(model, integer_outputs=style.at_source).decisions if d.quantised}
    weighted = {node.name for node in model.graph if node.op_type in COMPUTE}
    read = [name.split(".") for name in dequantised_inputs(quantised(model, style))]
    # What multiplies by a weight is quantised where that is.
    assert said == {node for node, index in read if node not in weighted or index == "1"}


def test_every_node_has_one_decision(pattern):
    model = pattern.graph()
    names = [decision.node for decision in place(model).decisions]
    assert sorted(names) == sorted(node.name for node in model.graph)


def test_decisions_are_in_graph_order_and_give_a_reason(pattern):
    model = pattern.graph()
    placement = place(model)
    order = [node.name for node in model.graph]
    places = [order.index(decision.node) for decision in placement.decisions]
    assert places == sorted(places)
    assert all(decision.reason for decision in placement.decisions)
    found = {decision.node: decision.quantised for decision in placement.decisions}
    assert found.items() >= pattern.decisions.items()
    chosen = [d.node for d in placement.decisions if d.quantised and d.op_type == "Conv"]
    assert list(placement.convolutions) == chosen


def test_every_tensor_that_tensorrt_quantises_is_calibrated(pattern):
    # Calibration observes the tensors of the placement for integer kernels, for all dialects.
    observed = place(pattern.graph(), integer_outputs=True).tensors
    assert set(place(pattern.graph()).tensors) <= set(observed)
    assert len(observed) == len(set(observed))


def test_depthwise_can_be_left_out():
    placement = place(PATTERNS["depthwise-24"].graph(), depthwise=False)
    assert placement.convolutions == ()
    assert placement.uses == ()
    assert "depthwise" in placement.decisions[0].reason


@pytest.mark.parametrize(
    ("name", "node", "said"),
    [
        ("depthwise-20", "z", "20 channels, not a multiple of 8"),
        ("rgb-stem", "z", "RGB stem"),
        ("few-channels", "a", "16 -> 8 channels, under 16"),
        ("few-channels", "z", "8 -> 16 channels, under 16"),
        ("classifier", "c", "one logit per unit"),
        ("two-computed-operands", "m", "both operands are computed"),
        ("grouped", "z", "32 -> 32 channels"),
        ("identity-skip", "s", "identity skip only"),
        ("identity-skip-first", "z", "identity skip only"),
        ("projection-skip", "s", "projection skip only"),
        ("maxpool-ends-a-branch", "z", "projection skip only"),
        ("add-of-floats", "z", "no quantised convolution ends in it"),
        ("conv-relu-maxpool", "r", "fused into a: no pair may come between them"),
        ("conv-relu-maxpool", "m", "between INT8 neighbours"),
        ("maxpool-ends-a-branch", "m", "between INT8 neighbours"),
        ("maxpool-of-floats", "m", "not between INT8 neighbours"),
        ("identity-skip", "z", "fused into s: no pair may come between them"),
        ("concat", "c", "different scales"),
        ("pooled-head", "p", "scores, which drift"),
        ("pooled-head", "f", "only moves values"),
        ("pooled-head", "l", "the head has few products"),
        ("pooled-head", "z", "scores, which drift"),
        ("moves-between-convolutions", "t", "only moves values"),
        ("moves-between-convolutions", "s", "only moves values"),
    ],
)
def test_reasons(name, node, said):
    decisions = {d.node: d.reason for d in place(PATTERNS[name].graph()).decisions}
    assert said in decisions[node]


def test_no_weight_and_no_bias_gets_a_pair_twice():
    for style in (TENSORRT, ONNXRUNTIME):
        model = quantised(PATTERNS["second-residual-block"].graph(), style)
        names = quantised_tensors(model)
        assert len(names) == len(set(names))
        kinds = [node.op_type for node in model.graph]
        pairs = kinds.count("DequantizeLinear")
        # Stored weights and biases have no QuantizeLinear: two of each.
        assert pairs - kinds.count("QuantizeLinear") == (4 if style.stored_weights else 0)
