"""A batch norm is a factor and an offset per channel, whatever stands around it."""

from __future__ import annotations

import numpy as np
import pytest

from lpx.errors import LpxError
from lpx.graph.batch_norms import expand_batch_norms
from tests.graph.graphs import graph, run

rng = np.random.default_rng(0)
STATISTICS = {
    "n.weight": rng.uniform(-2, 2, 4).astype(np.float32),
    "n.bias": rng.standard_normal(4).astype(np.float32),
    "n.running_mean": rng.standard_normal(4).astype(np.float32),
    "n.running_var": np.array([1e-3, 0.5, 1, 30], np.float32),
}


def normed(shape, before="r = Relu(x)", after="y = Relu(n)"):
    names = (f'"{name}"' for name in STATISTICS)
    lines = f"{before}\n n = BatchNormalization<epsilon=0.001>(r, {', '.join(names)})\n {after}"
    return graph(f"g (float[{shape}] x) => (float y) {{ {lines} }}", shapes=False, **STATISTICS)


@pytest.mark.parametrize("shape", ["2,4", "2,4,5", "2,4,5,6", "2,4,3,2,5"])
def test_rank_does_not_matter(shape):
    model = normed(shape)
    x = rng.standard_normal([int(d) for d in shape.split(",")]).astype(np.float32)
    wanted = run(model, x)[0]
    assert expand_batch_norms(model) == 1
    np.testing.assert_allclose(run(model, x)[0], wanted, rtol=1e-6, atol=2e-6)
    assert [node.op_type for node in model.graph] == ["Relu", "Mul", "Add", "Relu"]


def test_output_keeps_its_name_and_constants_say_the_module():
    text = """g (float[2,4,5,5] x) => (float[2,4,5,5] n) {
        n = BatchNormalization(x, "m.n.weight", "m.n.bias", "m.n.running_mean", "m.n.running_var")
    }"""
    model = graph(text, **{f"m.{name}": value for name, value in STATISTICS.items()})
    x = rng.standard_normal((2, 4, 5, 5)).astype(np.float32)
    wanted = run(model, x)[0]
    expand_batch_norms(model)
    assert [value.name for value in model.graph.outputs] == ["n"]
    read = [node.inputs[1].name for node in model.graph]
    assert read == ["m.n.factor", "m.n.offset"]
    np.testing.assert_allclose(run(model, x)[0], wanted, rtol=1e-6, atol=2e-6)


def test_one_norm_called_twice():
    given = ", ".join(f'"{name}"' for name in STATISTICS)
    model = normed("2,4,5,5", after=f"p = BatchNormalization(n, {given})\n y = Add(n, p)")
    x = rng.standard_normal((2, 4, 5, 5)).astype(np.float32)
    wanted = run(model, x)[0]
    assert expand_batch_norms(model) == 2
    np.testing.assert_allclose(run(model, x)[0], wanted, rtol=1e-5, atol=1e-4)


def test_statistics_of_the_batch_are_refused():
    text = """g (float[2,4,5,5] x) => (float y) {
        m = ReduceMean<keepdims=0>(x, axes)
        y = BatchNormalization(x, s, b, m, v)
    }"""
    constants = dict(zip("sbmv", STATISTICS.values(), strict=True))
    del constants["m"]
    model = graph(text, shapes=False, axes=np.array([0, 2, 3]), **constants)
    with pytest.raises(LpxError, match="from the current batch") as caught:
        expand_batch_norms(model)
    assert "track_running_stats" in caught.value.fix
