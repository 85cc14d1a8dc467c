"""The form of nvinfer: float32 planes in, and the same scores and maps to the last bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from lpx.calibration.observe import calibrate
from lpx.card import METADATA_KEY
from lpx.data.face_sets.demo import demo_set
from lpx.engines.build import make_graph
from lpx.engines.request import BuildRequest
from lpx.errors import LpxError
from lpx.export.to_onnx import to_onnx
from lpx.graph.nvinfer_form import PATCH_MAP, SCORE, for_nvinfer
from lpx.models.checkpoint import Detector
from lpx.models.detector import new_detector

SIZE, FACES = 64, 8
CUTS = {
    "xception": "block1",
    "resnet18": "layer1",
    "mobilenet_v2": "features.3",
    "tf_efficientnet_lite0": "stage2",
}
ORDERS = {"resnet18": "BGR"}
LEVELS = onnxruntime.GraphOptimizationLevel
OPTIMISERS = (LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_BASIC, LEVELS.ORT_ENABLE_ALL)


@pytest.fixture(scope="module", params=CUTS)
def exported(request, randomise):
    """An exported model of each backbone, with random weights, and its ranges."""
    backbone = request.param
    module, card = new_detector(backbone, CUTS[backbone], input_size=SIZE)
    card = replace(card, channel_order=ORDERS.get(backbone, "RGB"), mean=(0.5, 0.4, 0.3))
    model = to_onnx(Detector(randomise(module), card))
    return model, calibrate(model, demo_set("train").first(FACES), SIZE)


@pytest.fixture(scope="module")
def pixels():
    (batch,) = demo_set("test").first(FACES).stream(FACES, SIZE, [])
    return batch.pixels


def planes(pixels):
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)


def run(graph, faces, level):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {"faces": faces}), strict=True))


@pytest.mark.parametrize("dialect", ["strongly-typed", "weakly-typed", "onnxruntime"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_scores_are_equal_to_the_last_bit(exported, pixels, precision, dialect):
    model, scales = exported
    target = "onnxruntime" if dialect == "onnxruntime" else "tensorrt"
    request = BuildRequest(target, precision, scales, "max")
    graph, _ = make_graph(model, request, dialect)
    both, score = for_nvinfer(graph, (SCORE, PATCH_MAP)), for_nvinfer(graph, (SCORE,))
    for level in OPTIMISERS:
        of_lpx = run(graph, pixels, level)
        of_both = run(both, planes(pixels), level)
        of_score = run(score, planes(pixels), level)
        assert set(of_both) == {SCORE, PATCH_MAP}
        assert set(of_score) == {SCORE}
        assert of_score[SCORE].shape == (FACES, 1)
        assert np.unique(of_lpx[SCORE]).size > 1
        for found in (of_both, of_score):
            np.testing.assert_array_equal(found[SCORE][:, 0], of_lpx[SCORE])
        np.testing.assert_array_equal(of_both[PATCH_MAP], of_lpx[PATCH_MAP])


def test_only_the_ends_of_the_graph_change(exported):
    before = onnx.load_model_from_string(exported[0])
    after = onnx.load_model_from_string(for_nvinfer(exported[0], (SCORE, PATCH_MAP)))
    (faces,) = after.graph.input
    kind = faces.type.tensor_type
    assert (faces.name, kind.elem_type) == ("faces", TensorProto.FLOAT)
    assert [size.dim_param or size.dim_value for size in kind.shape.dim] == ["batch", 3, SIZE, SIZE]
    outputs = {value.name: value.type.tensor_type for value in after.graph.output}
    assert list(outputs) == [SCORE, PATCH_MAP]
    # nvinfer reads every output as float32.
    assert {kind.elem_type for kind in outputs.values()} == {TensorProto.FLOAT}
    dims = outputs[SCORE].shape.dim
    assert [size.dim_param or size.dim_value for size in dims] == ["batch", 1]
    kinds = [[node.op_type for node in model.graph.node] for model in (before, after)]
    assert kinds[0][:2] == ["Cast", "Transpose"]
    assert sorted([*kinds[0][2:], "Unsqueeze"]) == sorted(kinds[1])
    # The normalisation stays, and so does the card.
    assert "Sub" in kinds[1]
    keys = [{entry.key: entry.value for entry in m.metadata_props} for m in (before, after)]
    assert keys[0][METADATA_KEY] == keys[1][METADATA_KEY]


def net(*nodes):
    """A detector of few nodes between `faces` and both outputs."""
    faces = helper.make_tensor_value_info("faces", TensorProto.UINT8, ["batch", 4, 4, 3])
    outputs = [
        helper.make_tensor_value_info(SCORE, TensorProto.FLOAT, ["batch"]),
        helper.make_tensor_value_info(PATCH_MAP, TensorProto.FLOAT, ["batch", 4, 4]),
    ]
    graph = helper.make_graph(nodes, "net", [faces], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def reduced(name, output, axes):
    return helper.make_node("ReduceMax", [name], [output], axes=axes, keepdims=0)


CAST = helper.make_node("Cast", ["faces"], ["pixels"], to=TensorProto.FLOAT)
TURN = helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2])
NETS = {
    "reads pixels in rows": net(
        CAST, reduced("pixels", SCORE, [1, 2, 3]), reduced("pixels", PATCH_MAP, [3])
    ),
    "reads them both ways": net(
        CAST, TURN, reduced("planes", SCORE, [1, 2, 3]), reduced("pixels", PATCH_MAP, [3])
    ),
    "turns them otherwise": net(
        CAST,
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 2, 1]),
        reduced("pixels", SCORE, [1, 2, 3]),
        reduced("planes", PATCH_MAP, [1]),
    ),
    "casts twice": net(
        CAST,
        helper.make_node("Cast", ["faces"], ["again"], to=TensorProto.FLOAT),
        reduced("pixels", SCORE, [1, 2, 3]),
        reduced("again", PATCH_MAP, [3]),
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_other_ways_to_read_pixels(name):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    before = run(NETS[name], pixels, LEVELS.ORT_DISABLE_ALL)
    after = run(for_nvinfer(NETS[name], (SCORE, PATCH_MAP)), planes(pixels), LEVELS.ORT_DISABLE_ALL)
    np.testing.assert_array_equal(after[SCORE][:, 0], before[SCORE])
    np.testing.assert_array_equal(after[PATCH_MAP], before[PATCH_MAP])


def test_every_grey_level_is_exact():
    levels = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    pixels = np.broadcast_to(levels, (256, 4, 4, 3)).copy()
    graph = for_nvinfer(NETS["reads pixels in rows"], (SCORE,))
    found = run(graph, planes(pixels), LEVELS.ORT_ENABLE_ALL)[SCORE]
    np.testing.assert_array_equal(found[:, 0], np.arange(256, dtype=np.float32))


def test_graph_that_reads_uint8_itself_is_refused():
    half = net(
        CAST,
        helper.make_node("Cast", ["faces"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["single"], to=TensorProto.FLOAT),
        reduced("pixels", SCORE, [1, 2, 3]),
        reduced("single", PATCH_MAP, [3]),
    )
    with pytest.raises(LpxError, match="reads its uint8 input with Cast") as caught:
        for_nvinfer(half, (SCORE,))
    assert caught.value.code == "unsupported"
