"""Weights as uint8: the same values, and no sums that saturate."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import closing

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine, count_convolutions
from lpx.errors import LpxError
from lpx.graph.model_io import parse
from lpx.graph.qdq.unsigned_weights import saturating_weights, with_unsigned_weights

EMULATOR = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
# Runs a graph on a face set as a program does that sets no options.
PLAIN = """
import sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
if sys.argv[4] == "exact":
    options.add_session_config_entry("session.x64quantprecision", "1")
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
np.save(sys.argv[3], session.run(["score"], {"faces": np.load(sys.argv[2])})[0])
"""


@pytest.fixture(scope="module")
def graph(built):
    return (built.engine("onnxruntime-int8") / "engine.onnx").read_bytes()


@pytest.fixture
def faces(drawn, built):
    import cv2

    from lpx.artefacts.model import read_exported

    size = read_exported(built).card.input_size
    return np.stack([cv2.resize(image, (size, size)) for pair in drawn[:2] for image in pair])


def dequantised(graph):
    """The values of all constants that are dequantised, by the name of the result."""
    model = onnx.load_model_from_string(graph)
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    values = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            levels, scale = constants[node.input[0]], constants[node.input[1]]
            zero = constants[node.input[2]]
            shape = [1] * levels.ndim
            if scale.size > 1:
                shape[node.attribute[0].i] = -1
            whole = levels.astype(np.int64) - zero.astype(np.int64).reshape(shape)
            values[node.output[0]] = whole * scale.astype(np.float64).reshape(shape)
    return values


def test_weights_keep_their_values_and_no_int8_is_left(graph):
    made = with_unsigned_weights(graph, "the graph")
    assert saturating_weights(parse(graph, "it"))
    assert not saturating_weights(parse(made, "it"))
    before, after = dequantised(graph), dequantised(made)
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])


def test_scores_are_equal_bit_for_bit_and_in_integers(graph, faces):
    made = with_unsigned_weights(graph, "the graph")
    assert count_convolutions(made) == count_convolutions(graph)
    size = faces.shape[1]
    # As a program does that sets no option: lpx's own engine is exact.
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    with closing(OnnxRuntimeEngine(graph, size)) as engine:
        expected = engine.infer(faces)
    score, patch_map = session.run(["score", "patch_map"], {"faces": faces})
    np.testing.assert_array_equal(score, expected.score)
    np.testing.assert_array_equal(patch_map, expected.patch_map)


@pytest.mark.skipif(EMULATOR is None, reason="there is no qemu-x86_64 to play a processor")
def test_scores_are_equal_on_an_emulated_processor_without_vnni(graph, faces, tmp_path):
    """Haswell has AVX2 and no VNNI: ONNX Runtime takes the kernels that saturate."""
    np.save(tmp_path / "faces.npy", faces)
    forms = {"int8": graph, "uint8": with_unsigned_weights(graph, "the graph")}
    scores = {}
    for form, mode in (("int8", "exact"), ("int8", "plain"), ("uint8", "plain")):
        (tmp_path / "graph.onnx").write_bytes(forms[form])
        command = [EMULATOR, "-cpu", "Haswell", sys.executable, "-c", PLAIN]
        paths = [tmp_path / "graph.onnx", tmp_path / "faces.npy", tmp_path / "scores.npy"]
        done = subprocess.run(
            [*command, *map(str, paths), mode], capture_output=True, text=True, check=False
        )
        if done.returncode != 0 and "Haswell" in done.stderr:
            pytest.skip("this emulator has no Haswell")
        assert done.returncode == 0, done.stderr
        scores[form, mode] = np.load(tmp_path / "scores.npy")
    np.testing.assert_array_equal(scores["uint8", "plain"], scores["int8", "exact"])
    assert np.abs(scores["int8", "plain"] - scores["int8", "exact"]).max() > 0.01


def test_a_float_graph_stays_as_it_is(built):
    graph = (built.engine("onnxruntime-fp32") / "engine.onnx").read_bytes()
    assert with_unsigned_weights(graph, "the graph") is graph


SMALL = """
<ir_version: 8, opset_import: ["" : 13]>
small (float[1] x, float scale) => (float[4] y)
<int8[4] w = {-128, -1, 0, 127}, float s = {0.5}, int8 z = {%d}> {
    d = DequantizeLinear(w%s)
    y = Add(d, x)
}
"""


def small(zero, inputs):
    return onnx.parser.parse_model(SMALL % (zero, inputs)).SerializeToString()


@pytest.mark.parametrize("inputs", [", s, z", ", s"])
def test_extremes_and_a_missing_zero_point(inputs):
    made = with_unsigned_weights(small(0, inputs), "the graph")
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    feed = {"x": np.zeros(1, np.float32), "scale": np.array(1, np.float32)}
    (values,) = session.run(None, feed)
    np.testing.assert_array_equal(values, [-64, -0.5, 0, 63.5])


@pytest.mark.parametrize(
    ("graph", "what"),
    [
        (small(3, ", s, z"), "a zero point that is not 0"),
        (small(0, ", scale, z"), "a scale that is computed"),
    ],
)
def test_weights_that_lpx_does_not_write_are_refused(graph, what):
    with pytest.raises(LpxError, match=what) as caught:
        with_unsigned_weights(graph, "the graph")
    assert caught.value.code == "unsupported"


def test_bytes_that_are_no_graph():
    with pytest.raises(LpxError, match="the graph"):
        with_unsigned_weights(b"nonsense", "the graph")
