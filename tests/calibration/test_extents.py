"""Sizes of tensors for any number of faces, wherever the batch is."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from lpx.calibration.extents import Extent, extents
from lpx.errors import LpxError
from lpx.graph.model_io import parse, serialise
from tests.support.calibration_nets import built

# Rows per face, the batch second, the batch nowhere, and a size that only running it tells.
GRAPH = """
<ir_version: 9, opset_import: ["" : 20]>
detector (uint8[n, 8, 8, 3] faces) => (float[n] score, float[n, 8, 8] patch_map)
{
  x = Cast <to = 1> (faces)
  t = Transpose <perm = [0, 3, 1, 2]> (x)
  cut = Reshape (t, quarters)
  rows = Reshape (t, flat)
  second = Transpose <perm = [2, 0, 1]> (rows)
  all = ReduceSum <keepdims = 0> (t)
  one = ReduceMean (t, first)
  longer = Concat <axis = 0> (t, t, k)
  patch_map = ReduceMean <keepdims = 0> (t, channel)
  score = ReduceMean <keepdims = 0> (patch_map, channels)
}
"""
CONSTANTS = {
    "quarters": np.array([-1, 3, 4, 4]),
    "flat": np.array([0, 3, -1]),
    "first": np.array([0]),
    "k": np.zeros((5, 3, 8, 8), np.float32),
    "channel": np.array([1]),
    "channels": np.array([1, 2]),
}
NAMES = ("x", "t", "cut", "rows", "second", "all", "one", "longer")


def with_outputs(data, names):
    graph = parse(data, "the model")
    values = {value.name: value for node in graph.graph for value in node.outputs}
    graph.graph.outputs.extend(values[name] for name in names)
    return serialise(graph), graph


@pytest.fixture(scope="module", params=[True, False], ids=["stated", "to be measured"])
def known(request):
    data, graph = with_outputs(built(GRAPH, CONSTANTS), NAMES)
    if not request.param:
        for value in graph.graph.outputs:
            value.shape = None
    return data, extents(data, graph, NAMES)


@pytest.mark.parametrize("faces", [1, 2, 7])
def test_shapes_are_those_of_a_run(known, faces):
    data, found = known
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    pixels = np.zeros((faces, 8, 8, 3), np.uint8)
    for name, value in zip(NAMES, session.run(NAMES, {"faces": pixels}), strict=True):
        assert found[name].shape(faces) == value.shape
        assert found[name].values(faces) == value.size


def test_channels_are_the_second_dimension_where_it_does_not_grow(known):
    found = {name: extent.channels for name, extent in known[1].items()}
    assert found == {
        "x": 8,
        "t": 3,
        "cut": 3,
        "rows": 3,
        "second": 0,
        "all": 0,
        "one": 3,
        "longer": 3,
    }


def test_rows_are_faces_where_the_first_dimension_alone_counts_them(known):
    found = {name for name, extent in known[1].items() if extent.row_per_face}
    assert found == {"x", "t", "rows"}


def test_numbers():
    extent = Extent((0, 16, 5), (4, 0, 1))
    assert extent.shape(3) == (12, 16, 8)
    assert extent.values(3) == 12 * 16 * 8
    assert not extent.row_per_face
    assert not Extent((), ()).row_per_face


def test_pairs_of_faces_are_refused():
    """Every face against every other: a detector would not judge a face by itself."""
    text = GRAPH.replace(
        "longer = Concat <axis = 0> (t, t, k)",
        """
        w = Shape <start = 0, end = 1> (t)
        s = Concat <axis = 0> (w, w)
        pairs = Expand (k, s)
        longer = Reshape (pairs, row)""",
    )
    constants = CONSTANTS | {"k": np.float32([0]), "row": np.array([-1])}
    data, graph = with_outputs(built(text, constants), NAMES)
    with pytest.raises(LpxError, match="longer does not grow linearly") as caught:
        extents(data, graph, NAMES)
    assert "[1], [4], [9]" in caught.value.why
