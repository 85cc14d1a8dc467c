"""Equalisation evens out channels and leaves the function alone, a Clip's upper limit included."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpx.graph.qdq.equalise import equalise
from tests.graph.graphs import graph, run

INVERTED = """g (uint8[N,8,8,3] faces) => (float[N,16,4,4] z, float[N,16,8,8] y) {{
    c = Cast<to=1>(faces)
    t = Transpose<perm=[0,3,1,2]>(c)
    x = Sub(t, offset)
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    ra = {activation}
    d = Conv<pads=[1,1,1,1], group=32>(ra, w2, b2)
    rd = {second}
    m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(rd)
    z = Conv(m, w3, b3)
    y = Conv(x, w4)
}}"""
RELU = ("Relu(a)", "Relu(d)")
RELU6 = ("Clip(a, low, high)", "Clip(d, low, high)")


def net(seed, activations, size=1.0):
    rng = np.random.default_rng(seed)

    def uneven(shape):
        weight = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return (weight * 10.0 ** rng.uniform(-2, 0, (len(weight), 1, 1, 1))).astype(np.float32)

    first, second = activations
    return graph(
        INVERTED.format(activation=first, second=second),
        offset=np.full((1, 3, 1, 1), 120, np.float32),
        w1=uneven((32, 3, 3, 3)) * np.float32(size / 100),
        b1=rng.normal(0, 0.1, 32).astype("f4"),
        w2=uneven((32, 1, 3, 3)),
        b2=rng.normal(0, 0.1, 32).astype("f4"),
        w3=(16, 32, 1, 1),
        b3=(16,),
        w4=(16, 3, 1, 1),
        **(
            {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
            if "Clip" in first + second
            else {}
        ),
    )


def faces(seed):
    return np.random.default_rng(seed).integers(0, 256, (4, 8, 8, 3), np.uint8)


def constant(model, name):
    return model.graph.initializers[name].const_value.numpy()


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([0.1, 1.0, 30.0]),
    activations=st.sampled_from([RELU, RELU6, (RELU[0], RELU6[1]), (RELU6[0], RELU[1])]),
)
def test_function_stays_the_same_bit_for_bit(seed, size, activations):
    wanted = run(net(seed, activations, size), faces(seed))
    model = net(seed, activations, size)
    pairs = equalise(model)
    assert [(p.first, p.second) for p in pairs] == [("a", "d"), ("d", "z"), ("z", ""), ("y", "")]
    if activations == RELU:
        assert pairs[0].scaled + pairs[1].scaled > 8
    for before, after in zip(wanted, run(model, faces(seed)), strict=True):
        assert np.array_equal(before, after)


def test_ranges_come_within_a_factor_of_two():
    model = net(0, RELU, size=100.0)
    equalise(model)
    made = np.abs(constant(model, "w1")).max(axis=(1, 2, 3))
    middle = np.abs(constant(model, "w2")).max(axis=(1, 2, 3))
    read = np.abs(constant(model, "w3")).max(axis=(0, 2, 3))
    for first, second in ((made, middle), (middle, read)):
        ratio = first / second
        assert ratio.max() <= 2.01
        assert ratio.min() >= 1 / 2.01
    before = np.abs(constant(net(0, RELU, size=100.0), "w2")).max(axis=(1, 2, 3))
    assert before.max() / before.min() > 50
    assert middle.max() / middle.min() < before.max() / before.min() / 5


def test_channel_that_a_clip_may_cut_is_left_alone():
    # Large enough for the upper limit to act everywhere.
    model = net(0, RELU6, size=1000.0)
    original = constant(model, "w1").copy()
    (first, *_) = equalise(model)
    cut = np.abs(original).max(axis=(1, 2, 3)) * 120 > 6
    assert np.array_equal(constant(model, "w1")[cut], original[cut])
    assert cut.any()
    assert "may reach the upper limit of ra" in first.reason


def test_scaling_a_clipped_channel_would_change_the_function():
    # The test above could not fail otherwise.
    model = net(0, RELU6, size=1000.0)
    wanted = run(net(0, RELU6, size=1000.0), faces(0))[0]
    for name, factor in (("w1", 0.5), ("b1", 0.5), ("w2", 2.0)):
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=name)
    assert np.abs(run(model, faces(0))[0] - wanted).max() > 0.1


def test_idle_channels_of_a_clip_are_scaled_and_stay_idle():
    model = net(3, RELU6, size=0.01)
    pairs = equalise(model)
    assert pairs[0].scaled > 0
    assert constant(model, "w1").any()


LEFT_ALONE = {
    "read-by-two": (
        "g (float[N,8,4,4] x) => (float[N,8,4,4] z) { a = Conv(x, w)\n b = Conv(a, v)"
        "\n c = Relu(a)\n z = Add(b, c) }",
        "read by more than one",
    ),
    "output": (
        "g (float[N,8,4,4] x) => (float[N,8,4,4] a, float[N,8,4,4] z) { a = Conv(x, w)"
        "\n z = Conv(a, v) }",
        "is an output",
    ),
    "sigmoid": (
        "g (float[N,8,4,4] x) => (float[N,8,4,4] z) { a = Conv(x, w)\n b = Sigmoid(a)"
        "\n z = Conv(b, v) }",
        "Sigmoid does not commute",
    ),
    "add": (
        "g (float[N,8,4,4] x) => (float[N,8,4,4] z) { a = Conv(x, w)\n b = Add(a, x)"
        "\n z = Conv(b, v) }",
        "Add does not commute",
    ),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name):
    text, reason = LEFT_ALONE[name]
    model = graph(text, w=(8, 8, 1, 1), v=(8, 8, 1, 1))
    before = {k: constant(model, k).copy() for k in ("w", "v")}
    (first, *_) = equalise(model)
    assert (first.second, first.scaled) == ("", 0)
    assert reason in first.reason
    assert all(np.array_equal(constant(model, k), before[k]) for k in before)


def test_clip_with_another_lower_limit_is_left_alone():
    text = """g (float[N,8,4,4] x) => (float[N,8,4,4] z) {
        a = Conv(x, w)
        b = Clip(a, low, high)
        z = Conv(b, v)
    }"""
    model = graph(
        text,
        w=(8, 8, 1, 1),
        v=(8, 8, 1, 1),
        low=np.array(-1, np.float32),
        high=np.array(6, np.float32),
    )
    assert equalise(model)[0].scaled == 0


def test_weight_that_two_convolutions_share_is_left_alone():
    text = """g (float[N,8,4,4] x) => (float[N,8,4,4] z) {
        a = Conv(x, w)
        b = Relu(a)
        z = Conv(b, w)
    }"""
    model = graph(text, w=(8, 8, 1, 1))
    assert equalise(model) == ()


def test_dead_channel_is_left_alone_and_a_nearly_dead_one_is_scaled_by_64_at_most():
    model = net(0, RELU)
    weight = constant(model, "w1").copy()
    weight[0], weight[1] = 0, weight[1] * np.float32(1e-12)
    model.graph.initializers["w1"].const_value = ir.tensor(weight, name="w1")
    before, wanted = constant(model, "b1").copy(), run(model, faces(0))
    equalise(model)
    factor = before / constant(model, "b1")
    assert factor[0] == 1
    assert factor.min() >= 2**-6
    assert factor.max() <= 2**6
    assert all(np.array_equal(a, b) for a, b in zip(wanted, run(model, faces(0)), strict=True))


@pytest.mark.parametrize("groups", [1, 2, 16])
def test_groups(groups):
    text = f"""g (float[N,16,4,4] x) => (float[N,32,4,4] z) {{
        a = Conv(x, w)
        b = LeakyRelu<alpha=0.1>(a)
        z = Conv<group={groups}>(b, v)
    }}"""
    scale = np.logspace(-1, 1, 16, dtype=np.float32)[:, None, None, None]
    weight = np.random.default_rng(0).standard_normal((16, 16, 1, 1)).astype(np.float32) * scale
    make = lambda: graph(text, w=weight, v=(32, 16 // groups, 1, 1))  # noqa: E731
    x = np.random.default_rng(0).standard_normal((2, 16, 4, 4)).astype(np.float32)
    model = make()
    assert equalise(model)[0].scaled > 4
    assert np.array_equal(run(model, x)[0], run(make(), x)[0])


def test_mobilenet_v2_stays_the_same(randomise):
    from lpx.export.to_onnx import to_onnx
    from lpx.graph.qdq.prepare import prepare_model
    from lpx.models.checkpoint import Detector
    from lpx.models.detector import new_detector

    module, card = new_detector("mobilenet_v2", "features.3", input_size=64)
    model = to_onnx(Detector(randomise(module), card))
    other, pairs = prepare_model(model, "it", equalised=True)
    assert other != model
    assert sum(pair.scaled for pair in pairs) > 10
    assert prepare_model(model, "it", equalised=True)[0] == other, "not the same bytes twice"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    found = [
        onnxruntime.InferenceSession(m, providers=["CPUExecutionProvider"]).run(
            None, {"faces": pixels}
        )
        for m in (model, other)
    ]
    for before, after in zip(*found, strict=True):
        assert np.abs(before - after).max() <= 1e-5
