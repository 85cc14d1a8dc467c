"""Activations are those of the model, whatever layout the runtime keeps them in."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from lpx.calibration import ort_layout
from lpx.calibration.observed_model import ObservedModel
from lpx.calibration.observer import Observer
from lpx.errors import LpxError
from tests.support.calibration_nets import built, model, noise, patches

SIZE = 9
GRAPH = """
<ir_version: 9, opset_import: ["" : 20]>
detector (uint8[n, 9, 9, 3] faces) => (float[n] score, float[n, 9, 9] patch_map)
{
  x = Cast <to = 1> (faces)
  t = Transpose <perm = [0, 3, 1, 2]> (x)
  a = Conv <pads = [1, 1, 1, 1]> (t, first)
  b = Relu (a)
  c = Conv <pads = [1, 1, 1, 1]> (b, second)
  s = Add (c, b)
  d = Relu (s)
  p = GlobalAveragePool (d)
  f = Flatten (p)
  g = Mul (f, left)
  h = Mul (f, right)
  k = Add (g, h)
  r = Reshape (k, shape)
  m = Add (d, r)
  e = Conv (m, third)
  patch_map = ReduceMean <keepdims = 0> (e, channel)
  score = ReduceMean <keepdims = 0> (e, all)
}
"""


def net(width):
    rng = np.random.default_rng(0)
    constants = {
        "first": (rng.standard_normal((width, 3, 3, 3)) / 255).astype(np.float32),
        "second": (rng.standard_normal((width, width, 3, 3)) / 9).astype(np.float32),
        "left": rng.standard_normal((1, width)).astype(np.float32),
        "right": rng.standard_normal((1, width)).astype(np.float32),
        "shape": np.array([-1, width, 1, 1]),
        "third": rng.standard_normal((16, width, 1, 1)).astype(np.float32),
        "channel": np.array([1], np.int64),
        "all": np.array([1, 2, 3], np.int64),
    }
    return built(GRAPH, constants)


def plain(data, names, pixels):
    """The tensors in ONNX's order, every node computed as it is written."""
    proto = onnx.load_model_from_string(data)
    known = {value.name: value for value in proto.graph.value_info}
    proto.graph.output.extend(known[name] for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(names, {"faces": pixels})


def faces(count):
    return np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def in_order(values):
    """Each face's values from the smallest to the largest."""
    return np.sort(values.reshape(len(values), -1), axis=1)


def channel_means(activation):
    """Of all faces, whatever the layout."""
    seen = Observer(activation.values.shape[1])
    assert seen.add(activation.values, activation.block)
    return seen.mean.means()


# 20 channels fill no whole number of blocks, be they of 8 or of 16; 24 fill blocks of 8.
@pytest.mark.parametrize("width", [16, 17, 20, 24, 64])
def test_values_are_the_models_and_of_the_channels_they_should_be(width):
    data = net(width)
    observed = ObservedModel(data)
    # g and h have no height and width: a DLA would run the Add that reads them.
    assert set(observed.names) >= {"b", "d", "g", "h", "m"}
    pixels = faces(5)
    found = observed.run(pixels, observed.room())
    wanted = plain(data, observed.names, pixels)
    for activation, truth in zip(found, wanted, strict=True):
        assert activation.values.shape == truth.shape
        close = {"rtol": 1e-5, "atol": 1e-6 * np.abs(truth).max()}
        np.testing.assert_allclose(in_order(activation.values), in_order(truth), **close)
        means = truth.mean(axis=(0, *range(2, truth.ndim)))
        np.testing.assert_allclose(channel_means(activation), means, **close)


def test_memory_is_used_again():
    observed = ObservedModel(net(16))
    room = observed.room()
    assert [a.values.shape[1] for a in room] == observed.channels
    first = observed.run(faces(4), room)[0]
    assert np.shares_memory(first.values, room[0].values)
    before = first.values.copy()
    observed.run(faces(4)[::-1], room)
    assert (first.values == before[::-1]).all()


def test_tensor_of_unknown_type_is_refused():
    proto = onnx.load_model_from_string(model()[0])
    del proto.graph.value_info[:]
    with pytest.raises(LpxError, match="the type of tensor b is not known"):
        ObservedModel(proto.SerializeToString())


@pytest.mark.parametrize("stated", [True, False])
def test_patches_in_the_batch(stated):
    """Four rows of each face, whether the graph says so or it has to be run to see."""
    data, _ = patches()
    if not stated:
        proto = onnx.load_model_from_string(data)
        for value in proto.graph.value_info:
            for dimension in value.type.tensor_type.shape.dim:
                dimension.ClearField("value")
        data = proto.SerializeToString()
    observed = ObservedModel(data)
    assert not observed.row_per_face
    pixels = np.stack(noise(3))
    room = observed.room()
    wanted = plain(patches()[0], observed.names, pixels)
    for activation, truth in zip(observed.run(pixels, room), wanted, strict=True):
        assert activation.values.shape == truth.shape
        assert len(truth) == 12
        values = np.sort(activation.values, axis=None)
        np.testing.assert_allclose(values, np.sort(truth, axis=None), rtol=1e-5, atol=1e-6)
        means = truth.mean(axis=(0, 2, 3))
        np.testing.assert_allclose(channel_means(activation), means, rtol=1e-5, atol=1e-6)


has_blocks = pytest.mark.skipif(
    ort_layout.block_size() == 1, reason="this processor's ONNX Runtime has no layout of its own"
)


def makers(data):
    nodes = onnx.load_model_from_string(data).graph.node
    return {name: node.op_type for node in nodes for name in node.output}


@has_blocks
def test_outputs_are_not_converted_only_to_be_observed():
    graphs = []

    def opener(graph, **settings):
        graphs.append(graph)
        return ort_layout.open_session(graph, **settings)

    assert {"b", "d"} <= set(ObservedModel(net(64), opener=opener).names)
    (used,) = graphs
    # m's Add needs d in order, and nothing needs b so.
    assert (makers(used)["b"], makers(used)["d"]) == ("Conv", "ReorderOutput")


@pytest.mark.parametrize("why", ["no layout of its own", "blocks that are not full"])
def test_tensors_in_onnx_layout_give_the_same(why):
    data = net(32)
    before = ObservedModel(data)
    # Blocks of 24 channels would not be full.
    size = 1 if why == "no layout of its own" else 24
    after = ObservedModel(data, block=size)
    pairs = zip(*(m.run(faces(3), m.room()) for m in (before, after)), strict=True)
    for one, other in pairs:
        assert other.block == 1
        np.testing.assert_allclose(in_order(one.values), in_order(other.values), rtol=1e-5)
        np.testing.assert_allclose(channel_means(one), channel_means(other), rtol=1e-5)
