from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

from lpx.errors import LpxError
from lpx.graph.lower_opset import OLDEST, lower_opset
from lpx.graph.model_io import serialise
from tests.graph.graphs import graph, run

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


# Each is lowered as far as 17, and must compute the same there, bit for bit but for formulas.
SAME = {
    "as it was": "y = PRelu(x, slope)",
    "instance norm": "y = InstanceNormalization(x, scale, shift)",
    "layer norm": "y = LayerNormalization<axis=-1>(x, line, line)",
    "scatter": 'i = Cast<to=7>(x)\n j = Sub(i, i)\n y = ScatterElements<reduction="add">(x, j, x)',
    "gelu": "y = Gelu(x)",
    "gelu by tanh": 'y = Gelu<approximate="tanh">(x)',
    "mish": "y = Mish(x)",
    "cast": "h = Cast<to=10, saturate=1>(x)\n y = Cast<to=1>(h)",
    "pool": "y = AveragePool<kernel_shape=[3,3], dilations=[1,1]>(x)",
    "resize": """y = Resize<mode="cubic", antialias=0, keep_aspect_ratio_policy="stretch">(
        x, , , size)""",
    "linear grid": 'y = GridSample<mode="linear">(x, grid)',
    "cubic grid": 'y = GridSample<mode="cubic">(x, grid)',
    "nearest grid": 'y = GridSample<mode="nearest">(x, grid)',
    "default grid": "y = GridSample(x, grid)",
    "padded axes": 'y = Pad<mode="reflect">(x, two, , last)',
    "padded": "y = Pad(x, eight, one)",
    "wrapped": 'y = Pad<mode="wrap">(x, eight)',
    "wrapped not at all": 'y = Pad<mode="wrap">(x, nothing)',
    "even parts": "y, z = Split<axis=1, num_outputs=2>(x)",
    "uneven parts": "y, z = Split<axis=3, num_outputs=2>(x)",
    "gap": "y = ReduceLogSumExp<keepdims=0>(x, last)",
    "norm": "y = ReduceL2(x, last)",
    "squares": "y = ReduceSumSquare(x)",
    "sum": "y = ReduceSum(x, last)",
}
CONSTANTS = {
    "slope": np.full((4, 1, 1), 0.3, np.float32),
    "scale": np.array([1, 2, -3, 0.5], np.float32),
    "shift": np.array([0, 1, 2, 3], np.float32),
    "line": np.linspace(0.5, 2, 5, dtype=np.float32),
    "theta": np.ones((2, 2, 3), np.float32),
    "four": np.array([2, 4, 7, 9]),
    "size": np.array([2, 4, 7, 9]),
    "grid": np.random.default_rng(0).uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32),
    "two": np.array([2, 1]),
    "last": np.array([3]),
    "eight": np.array([0, 0, 1, 2, 0, 0, 2, 1]),
    "nothing": np.zeros(8, np.int64),
    "one": np.array(1.5, np.float32),
}


def written(line, opset=20):
    outputs = "float y, float z" if "y, z" in line else "float y"
    used = {name: value for name, value in CONSTANTS.items() if re.search(rf"\b{name}\b", line)}
    model = graph(f"g (float[2,4,6,5] x) => ({outputs}) {{ {line} }}", opset, shapes=False, **used)
    return model


@pytest.mark.parametrize("opset", [17, 18, 19])
@pytest.mark.parametrize("line", SAME.values(), ids=SAME)
def test_what_an_older_opset_can_say_is_said(line, opset):
    x = np.random.default_rng(1).standard_normal((2, 4, 6, 5)).astype(np.float32)
    model = written(line)
    wanted = run(model, x)
    lower_opset(model, opset)
    assert model.graph.opset_imports[""] == opset
    for before, after in zip(wanted, run(model, x), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


REFUSED = {
    "the operator was added in opset 20": "t = AffineGrid(theta, four)\n y = GridSample(x, t)",
    "attribute antialias": """y = Resize<mode="linear", antialias=1>(x, , , size)""",
    "half_pixel_symmetric": """y = Resize<mode="linear",
        coordinate_transformation_mode="half_pixel_symmetric">(x, , , size)""",
    "mode wrap": 'p = Neg(eight)\n y = Pad<mode="wrap">(x, p)',
    "reduction max": "i = Cast<to=7>(x)\n j = Sub(i, i)\n"
    'y = ScatterElements<reduction="max">(x, j, x)',
    "attribute dilations": "y = AveragePool<kernel_shape=[2,2], dilations=[2,2]>(x)",
    "b is a tensor.bool.": "b = Greater(x, one)\n t = ReduceMax(b, last)\n y = Cast<to=1>(t)",
    "it reduces no axis": "y = ReduceMean<noop_with_empty_axes=1>(x)",
}


@pytest.mark.parametrize(("why", "line"), REFUSED.items(), ids=REFUSED)
def test_what_it_cannot_say_is_refused(why, line):
    model = written(line)
    with pytest.raises(LpxError, match="does not have") as caught:
        lower_opset(model, 17)
    assert re.search(why, caught.value.why)
    assert "`opset=20`" in caught.value.fix


@pytest.mark.parametrize("opset", [17, 18, 19])
def test_operator_of_a_later_opset_is_refused_before_it_too(opset):
    model = graph("g (int64[2] x) => (int64[2] y) { y = BitwiseNot(x) }", 20)
    if opset < 18:
        with pytest.raises(LpxError, match="BitwiseNot"):
            lower_opset(model, opset)
    else:
        lower_opset(model, opset)
        assert model.graph.opset_imports[""] == opset


def test_inner_graphs_are_lowered_too():
    text = """g (float[2,3] x) => (float[N,M] y) {
        none = Size(x)
        few = Constant<value_int=9>()
        small = Less(none, few)
        y = If(small) <
            then_branch = t () => (float[2,1] a) { a = ReduceMax(x, k) },
            else_branch = e () => (float[2,3] b) { b = Identity(x) }
        >
    }"""
    model = graph(text, k=np.array([1]))
    x = np.array([[1, 5, 2], [0, -1, -2]], np.float32)
    wanted = run(model, x)
    lower_opset(model, 17)
    assert np.array_equal(run(model, x)[0], wanted[0])


def test_axes_computed_at_run_time_are_refused():
    text = """g (float[2,16,8,8] x, int64[1] k) => (float[a,b,c,d] z) {
        axes = Add(k, k)
        z = ReduceMean(x, axes)
    }"""
    with pytest.raises(LpxError) as caught:
        lower_opset(graph(text), 17)
    assert "computed at run time" in caught.value.why


def test_operators_that_no_rule_names_did_not_change():
    """What the schemas of 17 and 20 tell apart is looked at; what they cannot tell is listed."""
    changed = set()
    for schema in onnx.defs.get_all_schemas():
        if schema.domain:
            continue
        try:
            old, new = (onnx.defs.get_schema(schema.name, v) for v in (OLDEST, 20))
        except onnx.defs.SchemaError:
            continue
        same_form = (
            [entry.name for entry in old.inputs] == [entry.name for entry in new.inputs]
            and set(old.attributes) == set(new.attributes)
            and all(
                str(old.attributes[a].default_value) == str(new.attributes[a].default_value)
                for a in old.attributes
            )
        )
        types = [
            {c.type_param_str: set(c.allowed_type_strs) for c in s.type_constraints}
            for s in (old, new)
        ]
        if old.since_version != new.since_version and same_form and types[0] == types[1]:
            changed.add(schema.name)
    # Their new values of an attribute are in the module's table.
    assert changed == {"ScatterElements", "ScatterND"}
