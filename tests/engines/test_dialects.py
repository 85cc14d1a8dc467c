"""One calibration, every dialect: checked as graphs, and run in ONNX Runtime, without a GPU."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from lpx.calibration.observe import calibrate
from lpx.data.face_sets.demo import demo_set
from lpx.engines.build import DIALECTS, cache_scales, make_graph
from lpx.engines.request import BuildRequest
from lpx.errors import LpxError
from lpx.export.to_onnx import to_onnx
from lpx.graph.qdq.prepare import prepare_model
from lpx.graph.qdq.weights import WeightOptions
from lpx.layerwise.compare import compare_layers
from lpx.models.checkpoint import Detector
from lpx.models.detector import new_detector

PAIRS = ("QuantizeLinear", "DequantizeLinear")
FACES = 8


@pytest.fixture(scope="module")
def models(randomise, exported_demo):
    """Name -> (ONNX model, request with its scales): the demo's, and one with residual blocks."""
    demo = exported_demo.model.read_bytes()
    module, card = new_detector("resnet18", "layer2", input_size=64)
    residual = to_onnx(Detector(randomise(module), card))
    return {
        "demo": (demo, request(demo, input_size((demo,)))),
        "resnet18": (residual, request(residual, card.input_size)),
    }


def request(model, size, **options):
    scales = calibrate(model, demo_set("train").first(FACES), size)
    return BuildRequest("tensorrt", "int8", scales, "max", **options)


@pytest.fixture(params=["demo", "resnet18"])
def case(request, models):
    return models[request.param]


def made(case, dialect, **options):
    model, wanted = case
    if dialect == "onnxruntime":
        options["target"] = "onnxruntime"
    data, placement = make_graph(model, replace(wanted, **options), dialect)
    proto = onnx.load_model_from_string(data)
    onnx.checker.check_model(proto, full_check=True)
    return proto, placement


def scores(proto, size):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # As written: an optimiser that joins Q/DQ into integer kernels would round differently.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    batch = next(iter(demo_set("test").first(FACES).stream(FACES, size, [])))
    return np.concatenate([part.ravel() for part in session.run(None, {"faces": batch.pixels})])


def input_size(case):
    return (
        onnx.load_model_from_string(case[0]).graph.input[0].type.tensor_type.shape.dim[1].dim_value
    )


def opset(proto):
    return next(entry.version for entry in proto.opset_import if entry.domain == "")


def scale_types(proto):
    kinds = {entry.name: entry.data_type for entry in proto.graph.initializer}
    return {kinds[node.input[1]] for node in proto.graph.node if node.op_type in PAIRS}


@pytest.mark.parametrize(
    ("dialect", "opsets", "type_of_scales"),
    [
        ("onnxruntime", (20,), TensorProto.FLOAT),
        ("strongly-typed", (19, 20), TensorProto.FLOAT16),
        ("weakly-typed", (17,), TensorProto.FLOAT),
        ("dla-explicit", (19, 20), TensorProto.FLOAT16),
    ],
)
def test_opset_and_type_of_scales(case, dialect, opsets, type_of_scales):
    proto, placement = made(case, dialect)
    assert opset(proto) in opsets
    assert scale_types(proto) == {type_of_scales}
    assert placement.convolutions
    assert all(decision.reason for decision in placement.decisions)
    assert [o.name for o in proto.graph.output] == ["score", "patch_map"]


def test_tensorrt_dialects_are_symmetric_int8(case):
    for dialect in ("strongly-typed", "weakly-typed", "dla-explicit"):
        proto, _ = made(case, dialect)
        zeros = {e.name: onnx.numpy_helper.to_array(e) for e in proto.graph.initializer}
        for node in proto.graph.node:
            if node.op_type in PAIRS:
                assert zeros[node.input[2]].dtype == np.int8
                assert not zeros[node.input[2]].any()


def test_every_dialect_is_known(case):
    for dialect in DIALECTS:
        made(case, dialect)


def pairs_of(proto):
    """(reader, input) -> scale of the pair before it, casts to half precision looked through."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    constants = {e.name: onnx.numpy_helper.to_array(e) for e in proto.graph.initializer}
    found = {}
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            maker = makers.get(name)
            if maker is not None and maker.op_type == "DequantizeLinear":
                found[node.name, index] = constants[maker.input[1]].astype(np.float64)
    return found


def test_weakly_typed_equals_strongly_typed_within_rounding(case):
    weak, strong = (made(case, d)[0] for d in ("weakly-typed", "strongly-typed"))
    scales, halves = pairs_of(weak), pairs_of(strong)
    assert scales.keys() == halves.keys()
    for place, scale in scales.items():
        # The value and its scale are each rounded to 11 bits; the smallest normal half is the least
        # scale, and a channel that batch norm has switched off has no weights left in half.
        alive = scale * 127 > np.finfo(np.float16).smallest_normal
        least = np.maximum(scale, 6.2e-5)
        assert np.allclose(halves[place][alive], least[alive], rtol=2**-10)


def test_weakly_and_strongly_typed_layers_are_as_near_to_the_float_model(case):
    # Half precision carries a value or a weight over a rounding border here and there; how far a
    # layer by itself is from the float model, given the same to read, is that of rounding to INT8.
    size = input_size(case)
    faces = next(iter(demo_set("test").first(FACES).stream(FACES, size, []))).pixels
    weak, strong = (
        compare_layers(
            made(case, dialect)[0].SerializeToString(), case[0], [faces], size, as_written=True
        )
        for dialect in ("weakly-typed", "strongly-typed")
    )
    assert [e.layer for e in weak.layers] == [e.layer for e in strong.layers]
    assert any(e.stored_in == "int8" for e in strong.layers)
    for one, other in zip(weak.layers, strong.layers, strict=True):
        assert one.stored_in == other.stored_in or one.stored_in == "fp32", one.layer
        difference = abs(one.own.relative - other.own.relative)
        assert difference < 2**-10 + 0.1 * one.own.relative, one.layer
    assert abs(weak.score_mean - strong.score_mean) < 0.01


@pytest.mark.parametrize("dialect", ["weakly-typed", "strongly-typed", "dla-explicit"])
def test_scores_are_near_those_of_the_float_model(case, dialect):
    size = input_size(case)
    found, truth = scores(made(case, dialect)[0], size), scores(case[0], size)
    assert np.abs(found - truth).mean() < 0.05


def test_calibration_cache_is_the_plain_graph_and_a_scale_per_tensor(case):
    model, wanted = case
    plain, placement = made(case, "calibration-cache")
    exported = onnx.load_model_from_string(model)
    assert opset(plain) == 17
    assert not {node.op_type for node in plain.graph.node} & set(PAIRS)
    assert [n.output for n in plain.graph.node] == [n.output for n in exported.graph.node]
    size = input_size(case)
    assert np.abs(scores(plain, size) - scores(model, size)).max() < 1e-6
    scales = cache_scales(model, wanted)
    names = {name for node in plain.graph.node for name in node.output}
    assert set(scales) <= names
    assert set(scales) == set(placement.tensors)
    assert not {"score", "patch_map"} & set(scales)
    peaks = {n: max(abs(t.low), abs(t.high)) for n, t in wanted.scales.tensors.items()}
    alone = set(placement.observed) - {name for group in placement.shared for name in group}
    assert alone
    assert all(np.isclose(scales[name], peaks[name] / 127) for name in alone)


def test_dla_has_the_scales_of_the_cache(case):
    # The two roads to a DLA say the same of every tensor.
    scales = cache_scales(*case)
    proto, _ = made(case, "dla-explicit")
    constants = {e.name: onnx.numpy_helper.to_array(e) for e in proto.graph.initializer}
    found = {
        node.input[0].removesuffix(".half"): float(constants[node.input[1]])
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear" and constants[node.input[1]].size == 1
    }
    assert found.keys() == scales.keys()
    assert all(np.isclose(found[name], scales[name], rtol=1e-3) for name in scales)


def test_model_that_is_quantised_already(case):
    model, wanted = case
    quantised, _ = make_graph(model, replace(wanted, target="onnxruntime"), "onnxruntime")
    for precision in ("fp32", "fp16", "int8"):
        with pytest.raises(LpxError, match="the exported model is quantised already"):
            make_graph(quantised, replace(wanted, precision=precision), "strongly-typed")
    stripped, _ = prepare_model(quantised, "it", requantise=True)
    scales = replace(wanted.scales, model_sha256=hashlib.sha256(stripped).hexdigest())
    again = replace(wanted, scales=scales, weights=replace(wanted.weights, requantise=True))
    data, placement = make_graph(quantised, again, "strongly-typed")
    assert placement.convolutions == made(case, "strongly-typed")[1].convolutions
    assert onnx.load_model_from_string(data).graph.node


def test_scales_of_another_model(case):
    model, wanted = case
    other = replace(wanted, scales=replace(wanted.scales, model_sha256="0" * 64))
    with pytest.raises(LpxError, match="calibrated on model 000000000000, and this is"):
        make_graph(model, other, "strongly-typed")
    with pytest.raises(LpxError, match="calibrated on model 000000000000, and this is"):
        cache_scales(model, other)


def test_equalised_graph_takes_the_scales_of_the_equalised_model(case):
    model, wanted = case
    options = WeightOptions(equalise=True)
    with pytest.raises(LpxError, match="before equalisation"):
        make_graph(model, replace(wanted, weights=options), "strongly-typed")
    size = input_size(case)
    equalised, pairs = prepare_model(model, "it", equalised=True)
    assert any(pair.scaled for pair in pairs)
    right = request(equalised, size, weights=options)
    data, _ = make_graph(model, right, "weakly-typed")
    found, truth = scores(data, size), scores(model, size)
    assert np.abs(found - truth).max() > 1e-4
    assert np.abs(found - truth).mean() < 0.05


@pytest.mark.parametrize("clip", ["max", "mse"])
@pytest.mark.parametrize("rounding", ["squant", "nearest"])
def test_weight_options_reach_the_graph(case, clip, rounding):
    size = input_size(case)
    options = WeightOptions(clip, rounding, bias_correction=False)
    found = scores(made(case, "weakly-typed", weights=options)[0], size)
    assert (found != scores(made(case, "weakly-typed")[0], size)).any()


def test_old_opset_is_refused_where_scales_are_half(case):
    from lpx.graph.lower_opset import lower_opset
    from lpx.graph.model_io import parse, serialise

    model, wanted = case
    graph = parse(model, "it")
    lower_opset(graph, 17)
    old = serialise(graph)
    scales = replace(wanted.scales, model_sha256=hashlib.sha256(old).hexdigest())
    for dialect in ("strongly-typed", "dla-explicit"):
        with pytest.raises(LpxError, match="opset 17"):
            make_graph(old, replace(wanted, scales=scales), dialect)
    make_graph(old, replace(wanted, scales=scales), "weakly-typed")
