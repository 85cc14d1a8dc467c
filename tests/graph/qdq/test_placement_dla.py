"""Every tensor between two layers that a DLA runs in INT8 has a scale, and no other has."""

from __future__ import annotations

import numpy as np
import pytest

from lpx.errors import LpxError
from lpx.graph.qdq.insert_qdq import DLA, Range, activation_scales, insert_qdq
from lpx.graph.qdq.placement import place
from lpx.graph.qdq.placement_dla import place_dla, tensors_to_observe
from tests.graph.graphs import assumed_range, dequantised_inputs, graph, run
from tests.graph.qdq.test_placement import PATTERNS

CHAIN = """g (float[N,16,8,8] x) => (float[N,1,4,4] z) {
    a = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(a)
    m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    c = Conv<pads=[1,1,1,1]>(m, v)
    s = Add(c, m)
    t = Relu(s)
    n = Conv(t, few)
    d = Conv(n, u)
    e = Relu(d)
    l = Conv(e, classify)
    z = Sigmoid(l)
}"""
WEIGHTS = {
    "w": (16, 16, 3, 3),
    "b": (16,),
    "v": (16, 16, 3, 3),
    "few": (8, 16, 1, 1),
    "u": (16, 8, 1, 1),
    "classify": (1, 16, 1, 1),
}


def ranges(model, placement, **given):
    known = {name: assumed_range(model, name) for name in placement.observed}
    return known | given


def quantised(model, **given):
    placement = place_dla(model)
    insert_qdq(model, placement, ranges(model, placement, **given), DLA)
    return model


def scale_before(model, node, index=0):
    reader = next(n for n in model.graph if n.name == node)
    return float(reader.inputs[index].producer().inputs[1].const_value.numpy())


def test_every_tensor_between_int8_layers_has_a_pair():
    model = quantised(graph(CHAIN, **WEIGHTS))
    inner = {"a.0", "r.0", "m.0", "c.0", "s.0", "s.1", "t.0", "n.0", "d.0"}
    weights = {f"{name}.1" for name in ("a", "c", "n", "d")}
    # Behind the last INT8 convolution, e and the classifier read floats.
    assert dequantised_inputs(model) == inner | weights


def test_decisions_say_what_the_graph_shows():
    said = {d.node for d in place_dla(graph(CHAIN, **WEIGHTS)).decisions if d.quantised}
    shown = {name.split(".")[0] for name in dequantised_inputs(quantised(graph(CHAIN, **WEIGHTS)))}
    assert said == shown


def test_activations_and_pools_keep_the_scale_and_an_add_has_three():
    model = quantised(
        graph(CHAIN, **WEIGHTS),
        r=Range(0.0, 2.0, ()),
        m=Range(0.0, 1.0, (0.0,) * 16),
        c=Range(-3.0, 1.0, ()),
        t=Range(0.0, 4.0, (0.0,) * 16),
    )
    # a, r and m have one scale, that of m: what is beyond it at r is in no pool's output.
    one = [scale_before(model, *place) for place in (("r",), ("m",), ("c",), ("s", 1))]
    assert np.allclose(one, 1 / 127)
    assert np.isclose(scale_before(model, "s", 0), 3 / 127)
    assert np.isclose(scale_before(model, "t"), 4 / 127)
    assert np.isclose(scale_before(model, "n"), 4 / 127)


def test_pair_before_an_activation_costs_nothing():
    # With the scale of what comes out of a Relu, quantising before it changes no value.
    text = """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
        a = Conv(x, w)
        r = Relu(a)
        z = Conv(r, v)
    }"""
    weights = {"w": (16, 16, 1, 1), "v": (16, 16, 1, 1)}
    x = np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32)
    found = []
    for keep in (True, False):
        model = graph(text, **weights)
        placement = place_dla(model)
        if not keep:
            from dataclasses import replace

            uses = tuple(use for use in placement.uses if use[1] != "r")
            placement = replace(placement, uses=uses, shared=())
        insert_qdq(model, placement, ranges(model, placement, r=Range(0.0, 1.0, (0.0,) * 16)), DLA)
        found.append(run(model, x)[0])
    assert np.array_equal(*found)


def test_pool_takes_its_outputs_scale_backwards_unless_another_reads_its_input():
    placement = place_dla(PATTERNS["conv-relu-maxpool"].graph())
    assert placement.derived == {"a", "r"}
    both = """g (float[N,16,8,8] x) => (float[N,16,8,8] y, float[N,16,4,4] z) {
        a = Conv(x, w)
        m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
        y = Conv(a, v)
        z = Conv(m, u)
    }"""
    square = (16, 16, 1, 1)
    placement = place_dla(graph(both, w=square, v=square, u=square))
    assert not placement.derived
    assert [sorted(group) for group in placement.shared] == [["a", "m"]]


def test_concat_has_one_scale():
    pattern = PATTERNS["concat"]
    model = quantised(
        pattern.graph(),
        a=Range(-1.0, 1.0, ()),
        b=Range(-5.0, 2.0, ()),
        c=Range(-4.0, 2.0, (0.0,) * 32),
    )
    found = [scale_before(model, "c", 0), scale_before(model, "c", 1), scale_before(model, "z")]
    assert np.allclose(found, 5 / 127)


def test_value_that_is_read_before_its_relu_keeps_a_scale_of_its_own():
    pattern = PATTERNS["second-residual-block"]
    placement = place_dla(pattern.graph())
    # s has one reader, its Relu: it need not be observed. a does too, but that is an Add.
    assert placement.derived == {"s"}
    assert ("r", "s") in {tuple(sorted(group)) for group in placement.shared}
    text = """g (float[N,16,8,8] x) => (float[N,16,8,8] y, float[N,16,8,8] z) {
        a = Conv(x, w)
        r = Relu(a)
        y = Conv(a, v)
        z = Conv(r, v2)
    }"""
    other = place_dla(graph(text, w=(16, 16, 1, 1), v=(16, 16, 1, 1), v2=(16, 16, 1, 1)))
    assert not other.derived
    assert not other.shared


@pytest.fixture(params=sorted(PATTERNS))
def pattern(request):
    return PATTERNS[request.param]


def test_every_pattern_computes_the_same_but_for_rounding(pattern):
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in pattern.inputs]
    wanted = run(pattern.graph(), *inputs)
    for before, after in zip(wanted, run(quantised(pattern.graph()), *inputs), strict=True):
        assert np.abs(after - before).max() < 0.15 * np.abs(before).max()


def test_no_output_has_a_scale_and_every_other_tensor_is_observed_or_derived(pattern):
    model = pattern.graph()
    placement = place_dla(model)
    after = quantised(pattern.graph())
    makers = {v.name: v.producer().op_type for v in after.graph.outputs}
    assert "DequantizeLinear" not in makers.values()
    assert set(placement.tensors) == set(placement.observed) | placement.derived
    in_groups = {name for group in placement.shared for name in group}
    assert placement.derived <= in_groups


def test_observed_tensors_serve_every_dialect(pattern):
    model = pattern.graph()
    observed = tensors_to_observe(model)
    assert len(observed) == len(set(observed))
    for placement in (place(model), place(model, integer_outputs=True), place_dla(model)):
        assert set(placement.observed) <= set(observed)


def test_stem_and_classifier_stay_float_and_narrow_convolutions_do_not():
    decisions = {d.node: d for d in place_dla(graph(CHAIN, **WEIGHTS)).decisions}
    assert decisions["n"].quantised
    assert not decisions["l"].quantised
    assert "one logit per unit" in decisions["l"].reason
    stem = place_dla(PATTERNS["rgb-stem"].graph()).decisions[0]
    assert (stem.quantised, "RGB stem" in stem.reason) == (False, True)


def test_scales_of_a_calibration_cache():
    model = graph(CHAIN, **WEIGHTS)
    placement = place_dla(model)
    given = ranges(model, placement, r=Range(0.0, 2.0, ()), m=Range(0.0, 1.0, (0.0,) * 16))
    found = activation_scales(placement, given)
    assert list(found) == list(placement.tensors)
    assert found["a"] == found["r"] == found["m"] == 1 / 127
    assert found["x"] == 8 / 127
    assert "e" not in found
    dead = activation_scales(placement, given | {"c": Range(0.0, 0.0, ())})
    assert 0 < dead["c"] < 1e-10


def test_tensor_without_a_range_is_named():
    model = graph(CHAIN, **WEIGHTS)
    placement = place_dla(model)
    given = ranges(model, placement)
    del given["c"]
    for use in (activation_scales, lambda p, r: insert_qdq(model, p, r, DLA)):
        with pytest.raises(LpxError, match="no calibrated range for c "):
            use(placement, given)


SIZES = """g (float[N,16,8,8] x) => (float[N,1,K,L] z) {
    a = Conv<pads=[1,1,1,1]>(x, w, b)
    whole = Shape(a)
    batch = Slice(whole, zero, two)
    again = Shape<start=0,end=2>(x)
    twice = Add(batch, again)
    halved = Div(twice, pair)
    sizes = Concat<axis=0>(halved, sides)
    m = Resize<mode="cubic">(a, , , sizes)
    c = Conv<pads=[1,1,1,1]>(m, v)
    best = ArgMax<axis=1>(c)
    next = Concat<axis=0>(best, best)
    picked = Gather<axis=0>(c, few)
    s = Add(c, m)
    z = Conv(s, classify)
}"""


def test_sizes_and_indices_are_no_activations():
    constants = {
        "zero": np.array([0]),
        "two": np.array([2]),
        "pair": np.array([2]),
        "sides": np.array([12, 12]),
        "few": np.array([0]),
    }
    weights = {name: WEIGHTS[name] for name in ("w", "b", "v", "classify")}
    model = graph(SIZES, **weights, **constants)
    assert {"x", "m", "c"} <= set(tensors_to_observe(model)) <= {"x", "a", "m", "c", "s"}
    placement = place_dla(model)
    quantised_nodes = {d.node for d in placement.decisions if d.quantised}
    assert not quantised_nodes & {"twice", "sizes", "next"}
