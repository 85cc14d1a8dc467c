"""Plans of other graphs, and the calibration methods of single layers."""

from __future__ import annotations

import pytest

from lpx.errors import LpxError, NotAsAskedError
from lpx.graph.qdq.apply_plan import check_float32_layers, check_plan, tensor_methods
from lpx.graph.qdq.placement import place
from lpx.graph.qdq.placement_dla import place_dla
from lpx.graph.qdq.plan import NO_PLAN, LayerPlan, PrecisionPlan
from tests.graph.graphs import graph

BRANCHES = """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
    stem = Conv(x, w0)
    r = Relu(stem)
    left = Conv(r, w1)
    right = Conv(r, w2)
    s = Add(left, right)
    t = Relu(s)
    m = MaxPool<kernel_shape=[1,1]>(t)
    last = Conv(m, w3)
    q = Relu(last)
    z = Conv(q, few)
}"""
POINT = (16, 16, 1, 1)
SHA256 = "a" * 64


@pytest.fixture
def model():
    return graph(BRANCHES, w0=POINT, w1=POINT, w2=POINT, w3=POINT, few=(16, 16, 1, 1))


def plan_of(**layers):
    return PrecisionPlan({name: LayerPlan("int8", method=m) for name, m in layers.items()})


def test_plan_of_another_model(model):
    plan = PrecisionPlan({"left": LayerPlan("float")}, "b" * 64)
    with pytest.raises(
        LpxError, match="made for model bbbbbbbbbbbb, and this is aaaaaaaaaaaa"
    ) as e:
        check_plan(plan, model, SHA256)
    assert '"model_sha256" to ""' in e.value.fix
    check_plan(PrecisionPlan(plan.layers), model, SHA256)
    check_plan(PrecisionPlan(plan.layers, SHA256), model, SHA256)


def test_unknown_layers_are_listed_with_similar_names(model):
    names = ("lefd", "r", "nothing", "like", "it")
    plan = PrecisionPlan(dict.fromkeys(names, LayerPlan("int8")))
    with pytest.raises(LpxError) as caught:
        check_plan(plan, model, SHA256)
    assert "lefd (similar: left), r, nothing" in caught.value.what
    assert caught.value.what.endswith(" and 2 more")


def test_rules_win_and_the_decision_says_so(model):
    plan = PrecisionPlan(dict.fromkeys(("left", "last"), LayerPlan("int8")))
    decisions = {d.node: d for d in place(model, min_channels=32, plan=plan).decisions}
    assert not decisions["left"].quantised
    assert (
        "min_channels) (so the precision plan's INT8 is not followed)" in decisions["left"].reason
    )
    assert "not followed" not in decisions["right"].reason


@pytest.mark.parametrize("precision", ["float", "fp32"])
def test_reason_is_in_the_decision(model, precision):
    plan = PrecisionPlan({"left": LayerPlan(precision, "it is sensitive")})
    decisions = {d.node: d for d in place(model, plan=plan).decisions}
    kept = {"float": "float", "fp32": "float32"}[precision]
    assert decisions["left"].reason == (f"the precision plan keeps it in {kept}: it is sensitive")


def test_method_of_a_layer_is_that_of_its_input(model):
    plan = plan_of(left="mse")
    assert tensor_methods(place(model, plan=plan), plan) == {"r": "mse"}
    assert tensor_methods(place(model), NO_PLAN) == {}


def test_layers_that_share_a_tensor_must_agree(model):
    plan = plan_of(left="mse", right="max")
    with pytest.raises(LpxError, match="mse for left, max for right") as caught:
        tensor_methods(place(model, plan=plan), plan)
    assert "both read r" in caught.value.why
    # One that names no method follows, and so does one that agrees.
    for right in (None, "mse"):
        plan = plan_of(left="mse", right=right)
        assert tensor_methods(place(model, plan=plan), plan) == {"r": "mse"}


def test_method_is_for_all_that_share_the_scale(model):
    plan = plan_of(last="max")
    # For a DLA, the pool and the activation before it have one scale.
    assert tensor_methods(place_dla(model, plan), plan) == dict.fromkeys(("m", "s", "t"), "max")


def test_method_of_a_layer_in_float_is_not_used(model):
    plan = PrecisionPlan({"left": LayerPlan("float", method="mse")})
    assert tensor_methods(place(model, plan=plan), plan) == {}


def test_float32_layers_need_types_in_the_graph(model):
    plan = PrecisionPlan({"left": LayerPlan("fp32")})
    check_float32_layers(plan, model, typed=True, fp16=True)
    with pytest.raises(LpxError, match="1 layers in float32, such as left") as caught:
        check_float32_layers(plan, model, typed=False, fp16=False)
    assert caught.value.code == "unsupported"
    every = ("stem", "left", "right", "last", "z")
    plan = PrecisionPlan(dict.fromkeys(every, LayerPlan("fp32")))
    with pytest.raises(NotAsAskedError, match="leaves no layer in FP16"):
        check_float32_layers(plan, model, typed=True, fp16=True)
