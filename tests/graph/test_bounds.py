from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from lpx.graph.bounds import tensor_bounds
from tests.graph.graphs import graph, run

NET = """g (uint8[N,8,8,4] faces) => (float[N,1,4,4] z) {
    c = Cast<to=1>(faces)
    t = Transpose<perm=[0,3,1,2]>(c)
    s = Sub(t, offset)
    a = Conv<pads=[1,1,1,1], group=2>(s, w, b)
    r = Clip(a, low, high)
    d = Conv<pads=[1,1,1,1], group=8>(r, v)
    e = Relu(d)
    p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(e)
    q = Add(p, r)
    m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(q)
    l = Conv(m, u)
    z = Sigmoid(l)
}"""


def net(seed):
    rng = np.random.default_rng(seed)
    return graph(
        NET,
        seed=seed,
        w=(8, 2, 3, 3),
        b=(8,),
        v=(8, 1, 3, 3),
        u=(1, 8, 1, 1),
        offset=rng.uniform(0, 255, (1, 4, 1, 1)).astype(np.float32),
        low=np.array(0, np.float32),
        high=np.array(200, np.float32),
    )


@pytest.mark.parametrize("seed", range(5))
def test_every_tensor_stays_inside(seed):
    model = net(seed)
    known = tensor_bounds(model)
    rng = np.random.default_rng(seed)
    faces = np.concatenate(
        [
            rng.integers(0, 256, (4, 8, 8, 4)),
            rng.choice([0, 255], (4, 8, 8, 4)),
            np.zeros((1, 8, 8, 4)),
            np.full((1, 8, 8, 4), 255),
        ]
    ).astype(np.uint8)
    inner = [v for node in model.graph for v in node.outputs if not v.is_graph_output()]
    model.graph.outputs.extend(inner)
    for value, found in zip(model.graph.outputs, run(model, faces), strict=True):
        bound = known[value.name]
        assert np.isfinite(bound.low).all(), value.name
        if found.ndim == 4 and bound.low.shape:
            found = np.moveaxis(found, 1, -1)
        assert (found >= bound.low).all(), value.name
        assert (found <= bound.high).all(), value.name


def test_bound_of_a_convolution_is_reached():
    # The worst pixels for one channel are a valid picture.
    text = "g (uint8[N,3,1,1] x) => (float[N,2,1,1] z) { c = Cast<to=1>(x)\n z = Conv(c, w, b) }"
    weight = np.array([[1, -2, 3], [0, 0, -1]], np.float32).reshape(2, 3, 1, 1)
    model = graph(text, w=weight, b=np.array([10, 0], np.float32))
    found = tensor_bounds(model)["z"]
    assert np.allclose(found.low, [10 - 510, -255], atol=0.02)
    assert np.allclose(found.high, [10 + 255 * 4, 0], atol=0.02)


def test_what_is_not_known_has_no_bound_and_a_clip_brings_it_back():
    text = """g (float[N,4,8,8] x) => (float[N,4,8,8] z) {
        e = Exp(x)
        r = Clip(e, low, high)
        z = Conv(r, w)
    }"""
    weight = np.eye(4, dtype=np.float32)[:, :, None, None]
    limits = {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    found = tensor_bounds(graph(text, w=weight, **limits))
    assert found["e"].high == np.inf
    assert (found["r"].low, found["r"].high) == (0, 6)
    assert np.allclose(found["z"].high, 6, rtol=1e-4)


def test_weight_of_zero_reads_nothing_from_an_unbounded_channel():
    text = "g (float[N,2,1,1] x) => (float[N,2,1,1] z) { z = Conv(x, w) }"
    weight = np.array([[0, 0], [0, 1]], np.float32).reshape(2, 2, 1, 1)
    found = tensor_bounds(graph(text, w=weight))["z"]
    assert list(found.low) == [0, -np.inf]
    assert list(found.high) == [0, np.inf]


def test_input_type_counts():
    text = "g (float[N,3] x) => (float[N,3] z) { z = Relu(x) }"
    model = graph(text)
    assert model.graph.inputs[0].dtype == ir.DataType.FLOAT
    assert (tensor_bounds(model)["z"].low, tensor_bounds(model)["z"].high) == (0, np.inf)
