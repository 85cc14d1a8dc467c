"""Faults planted in lowered graphs, and whether the layer that has them is the one named."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from lpx.calibration.observe import calibrate
from lpx.calibration.scales import load_scales
from lpx.card import ModelCard
from lpx.data.face_sets.demo import demo_set
from lpx.engines.build import BuildRequest, make_graph
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.errors import LpxError
from lpx.export.to_onnx import to_onnx
from lpx.graph.layers import layers_of, read_named
from lpx.layerwise.compare import (
    Inside,
    OnnxRuntimeTensors,
    batch_size,
    compare,
    judge,
    tensors_to_watch,
    unexplained,
)
from lpx.layerwise.figure import draw_layers
from lpx.layerwise.tensor_error import ErrorSum
from lpx.layerwise.torch_layers import TorchLayers
from lpx.models.checkpoint import Detector, load_checkpoint
from lpx.models.detector import new_detector

SIZE = 160
TOLERANCE = 0.25
finite = st.floats(-100, 100, width=32)


@pytest.fixture(scope="module")
def model(built):
    return built.model.read_bytes()


@pytest.fixture(scope="module")
def batches():
    # Not the first pair, which is called real: a score near 0 has a large relative error.
    return [b.pixels for b in demo_set("test").first(6).stream(2, SIZE, [])][1:]


@pytest.fixture(scope="module")
def int8(built):
    return (built.engines / "onnxruntime-int8" / "engine.onnx").read_bytes()


@pytest.fixture(scope="module")
def healthy(int8, model, batches):
    return compare(int8, model, batches, SIZE, sensitivity=True)


def edited(data, edit):
    """The model with `edit(arrays)` done to its initialisers, a dict by name."""
    proto = onnx.load_model_from_string(data)
    found = {t.name: onnx.numpy_helper.to_array(t).copy() for t in proto.graph.initializer}
    edit(found)
    for entry in proto.graph.initializer:
        entry.CopyFrom(onnx.numpy_helper.from_array(found[entry.name], entry.name))
    return proto.SerializeToString()


def scaled(name, factor):
    def edit(found):
        found[name] = (found[name] * factor).astype(found[name].dtype)

    return edit


def by_name(comparison):
    return {e.layer.name: e for e in comparison.layers}


@given(
    arrays.arrays(np.float32, (2, 7), elements=finite),
    arrays.arrays(np.float32, (2, 7), elements=finite),
)
def test_sums_over_batches_are_the_measures_of_the_whole(x, y):
    total = ErrorSum()
    for truth, found in zip(x, y, strict=True):
        total.add(truth, found)
    error = total.result()
    d = y.astype(np.float64) - x
    assert error.max_abs == np.abs(d).max()
    assert error.mean_abs == pytest.approx(np.abs(d).mean(), rel=1e-12)
    norm, noise = np.linalg.norm(x.astype(np.float64)), np.linalg.norm(d)
    if norm > 1e-30:
        assert error.relative == pytest.approx(noise / norm, rel=1e-9)
        if noise > 1e-30:
            assert error.sqnr_db == pytest.approx(20 * math.log10(norm / noise), abs=1e-6)
    assert -1 - 1e-9 <= error.cosine <= 1


def test_values_that_are_not_finite_are_counted_and_are_no_agreement():
    total = ErrorSum()
    total.add(np.ones(4, np.float32), np.array([1, np.nan, np.inf, 1], np.float32))
    error = total.result()
    assert (error.not_finite, error.relative, error.sqnr_db) == (2, math.inf, -math.inf)
    assert error.max_abs == 0


def test_same_infinities_agree():
    """The mask of an attention holds -inf on both sides."""
    total = ErrorSum()
    truth = np.array([1, -np.inf, np.inf, -np.inf], np.float32)
    total.add(truth, np.array([2, -np.inf, np.inf, 5], np.float32))
    assert (total.result().not_finite, total.result().max_abs) == (1, 1)


def test_zeros_agree_with_zeros_only():
    agrees, differs = ErrorSum(), ErrorSum()
    agrees.add(np.zeros(3, np.float32), np.zeros(3, np.float32))
    differs.add(np.zeros(3, np.float32), np.ones(3, np.float32))
    assert agrees.result().relative == 0
    assert agrees.result().cosine == 1
    assert differs.result().relative == math.inf


def test_healthy_engine_is_within_tolerance_and_looking_changes_nothing(healthy):
    assert judge(healthy, TOLERANCE).first is None
    assert not healthy.unmatched
    assert healthy.watched.score_difference < 1e-6
    seen = healthy.watched
    assert seen.integer_convolutions == seen.integer_convolutions_unwatched > 10
    errors = by_name(healthy)
    assert errors["Conv_28:backbone.blocks.2.1.conv_pwl"].computes_in == "int8"
    stem, pair = errors["Conv_3"], errors["hardtanh.quantize"]
    assert (stem.computes_in, stem.stored_in) == ("fp32", "fp32")
    assert (pair.computes_in, pair.stored_in) == ("int8", "int8")
    # Rounding to 8 bits: no layer alone is exact, and none is far off.
    assert all(1e-4 < e.own.relative < 0.05 for e in healthy.layers if e.computes_in == "int8")


@pytest.fixture(scope="module")
def pooled(randomise):
    """A network whose float stem is pooled in front of its first INT8 convolution, in FP16."""
    module, card = new_detector("resnet18", "layer1", input_size=64)
    data = to_onnx(Detector(randomise(module), card))
    faces = demo_set("train").first(4)
    scales = calibrate(data, faces, 64)
    lowered, _ = make_graph(data, BuildRequest("tensorrt", "int8", scales, "max"), "strongly-typed")
    return data, lowered, [next(iter(faces.stream(4, 64, []))).pixels]


def test_pair_behind_a_float_layer_is_charged_with_its_own_rounding(pooled):
    data, lowered, faces = pooled
    found = compare(lowered, data, faces, 64, sensitivity=True, as_written=True)
    pool = next(e for e in found.layers if e.layer.op_type == "MaxPool")
    pair = next(e for e in found.layers if e.layer.name == f"{pool.layer.tensor}.quantize")
    assert (pool.computes_in, pool.stored_in) == ("fp16", "fp16")
    assert (pair.layer.op_type, pair.computes_in) == ("QuantizeLinear", "int8")
    # FP16's rounding of what it is given, and nothing of the 8 bits behind it.
    assert pool.own.relative < 1e-3 < pair.own.relative
    assert found.layers.index(pair) == found.layers.index(pool) + 1
    assert pool.effect.score_mean <= pair.effect.score_mean
    verdict = judge(found, (pool.total.relative + pair.total.relative) / 2)
    assert verdict.first is pair
    assert verdict.culprit is pair


def test_pair_with_a_bad_scale_is_the_culprit_and_not_the_layer_before(pooled):
    data, lowered, faces = pooled
    pool = next(x for x in layers_of(read_named(data, "model")) if x.op_type == "MaxPool")
    broken = edited(lowered, scaled(f"{pool.tensor}.scale", 1 / 50))
    verdict = judge(compare(broken, data, faces, 64, as_written=True), TOLERANCE)
    assert verdict.first.layer.name == verdict.culprit.layer.name == f"{pool.tensor}.quantize"


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("hardtanh_1", "Conv_5:backbone.blocks.0.0.conv_dw"),
        ("add_228", "Add_18"),
        ("getitem_33", "Conv_23:backbone.blocks.2.0.conv_pwl"),
    ],
)
def test_scale_that_is_too_small(int8, model, batches, healthy, tensor, layer):
    broken = edited(int8, scaled(f"{tensor}.scale", 1 / 50))
    found = compare(broken, model, batches, SIZE, sensitivity=True)
    verdict = judge(found, TOLERANCE)
    assert verdict.first.layer.name == verdict.culprit.layer.name == layer
    errors, before = by_name(found), by_name(healthy)
    assert errors[layer].own.relative > 0.5
    # All others are as they were, once they are given the right tensors to read.
    for name in errors.keys() - {layer}:
        assert errors[name].own.relative == pytest.approx(before[name].own.relative, rel=0.02)
    assert max(found.layers, key=lambda e: e.effect.score_mean).layer.name == layer


def test_one_altered_weight(model, batches):
    name = "detector.backbone.blocks.2.0.conv_pwl.weight"

    def edit(found):
        found[name][3, 5, 0, 0] += 10

    found = compare(edited(model, edit), model, batches, SIZE, sensitivity=True)
    verdict = judge(found, 1e-3)
    expected = "Conv_23:backbone.blocks.2.0.conv_pwl"
    assert verdict.first.layer.name == verdict.culprit.layer.name == expected
    assert [e.layer.name for e in found.layers if e.own.relative > 1e-5] == [expected]
    # Only this layer differs, so what it does to the score is what the engine does.
    effect = by_name(found)[expected].effect
    assert effect.score_mean == pytest.approx(found.score_mean, rel=1e-3)
    assert effect.score_max == pytest.approx(found.score_max, rel=1e-3)
    assert all(e.effect.score_max < 1e-6 for e in found.layers if e.layer.name != expected)


def test_altered_weight_is_found_against_the_checkpoint_too(built, model, batches):
    detector = load_checkpoint(built.reference)
    graph = read_named(model, "the model")
    reference = TorchLayers(detector, graph, layers_of(graph))
    assert judge(compare(model, model, batches, SIZE, reference=reference), 1e-4).first is None
    altered = edited(model, scaled("detector.backbone.blocks.1.1.conv_dw.weight", 1.1))
    found = compare(altered, model, batches, SIZE, reference=reference)
    verdict = judge(found, 1e-3)
    assert verdict.first.layer.name == "Conv_15:backbone.blocks.1.1.conv_dw"
    assert verdict.culprit is None


def test_small_errors_that_add_up_are_put_down_to_the_largest(healthy):
    total = max(e.total.relative for e in healthy.layers)
    verdict = judge(healthy, 0.9 * total)
    assert verdict.first.own.relative < 0.9 * total
    before = healthy.parents[verdict.first.layer.tensor]
    own = {e.layer.tensor: e.own.relative for e in healthy.layers}
    assert own[verdict.culprit.layer.tensor] == max(
        own[t] for t in before | {verdict.first.layer.tensor}
    )


@pytest.fixture
def half(model):
    """A float model whose float16 overflows in one linear layer, and that float16 graph."""

    def edit(found):
        for kind in ("weight", "weight_bias"):
            scaled(f"detector.backbone.blocks.0.0.conv_pw.{kind}", 2e4)(found)
        scaled("detector.backbone.blocks.1.0.conv_pw.weight", 0.5e-4)(found)

    big = edited(model, edit)
    return big, make_graph(big, BuildRequest("onnxruntime", "fp16"), "onnxruntime")[0]


def test_overflow_of_float16(half, batches):
    model, lowered = half
    found = compare(lowered, model, batches, SIZE)
    verdict = judge(found, 0.02)
    assert verdict.first is verdict.culprit
    assert verdict.first.layer.name == "Conv_7:backbone.blocks.0.0.conv_pw"
    assert verdict.first.own.not_finite > 0
    assert verdict.first.computes_in == "fp16"
    png = cv2.imdecode(
        np.frombuffer(draw_layers(found, verdict, 0.02, "folder:a$\\x^$"), np.uint8), 1
    )
    assert png.shape[0] > 300


def test_healthy_float16(model, batches):
    lowered, _ = make_graph(model, BuildRequest("onnxruntime", "fp16"), "onnxruntime")
    found = compare(lowered, model, batches, SIZE)
    assert judge(found, 0.02).first is None
    assert 1e-5 < max(e.own.relative for e in found.layers) < 5e-3


def test_nan_in_the_engine_is_beyond_any_tolerance(model, batches):
    broken = edited(model, scaled("detector.head.bottleneck.0.weight", np.nan))
    verdict = judge(compare(broken, model, batches, SIZE), 1e9)
    assert verdict.first.layer.name == "Conv_47:head.bottleneck.0"


def test_nan_in_the_reference_is_an_error(model, batches):
    broken = edited(model, scaled("detector.head.bottleneck.0.weight", np.nan))
    with pytest.raises(LpxError, match=r"reference itself .* Conv_47:head.bottleneck.0"):
        compare(model, broken, batches, SIZE)


def test_batches_shrink_with_the_tensors_of_a_face(model):
    assert 1 <= batch_size(model) <= 8
    assert batch_size(model, room=1) == 1


def test_figure_marks_the_first_layer_beyond(healthy):
    def red(tolerance):
        data = draw_layers(healthy, judge(healthy, tolerance), tolerance, "title")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(int)
        blue, green, other = image[..., 0], image[..., 1], image[..., 2]
        return int(((other > 200) & (abs(green - blue) < 12) & (other - green > 25)).sum())

    assert red(0.03) > 2000 > 10 * red(TOLERANCE)


@pytest.mark.parametrize("dialect", ["strongly-typed", "weakly-typed", "dla-explicit"])
def test_graphs_that_tensorrt_is_given(built, model, batches, dialect):
    scales = load_scales(built.scales, onnx_digest(model))
    request = BuildRequest("tensorrt", "int8", scales, scales.method or "max")
    lowered, _ = make_graph(model, request, dialect)
    found = compare(lowered, model, batches[:1], SIZE, as_written=True)
    assert not found.unmatched
    assert judge(found, TOLERANCE).first is None
    name = "hardtanh_3.scale"
    altered = edited(lowered, scaled(name, 1 / 50))
    broken = compare(altered, model, batches[:1], SIZE, as_written=True)
    verdict = judge(broken, TOLERANCE)
    tensor = name.removesuffix(".scale")
    assert verdict.culprit.layer.tensor == tensor


def onnx_digest(model):
    return hashlib.sha256(model).hexdigest()


@pytest.mark.parametrize(
    ("backbone", "cut"),
    [("resnet18", "layer1"), ("mobilenet_v2", "features.4"), ("xception", "block1")],
)
def test_modules_are_matched_with_the_graph(randomise, backbone, cut):
    module, card = new_detector(backbone, cut, input_size=64)
    detector = Detector(randomise(module), card)
    model = to_onnx(detector)
    graph = read_named(model, "the model")
    layers = layers_of(graph)
    reference = TorchLayers(detector, graph, layers)
    batches = [np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)]
    found = compare(model, model, batches, 64, reference=reference)
    assert max(e.total.relative for e in found.layers) < 1e-4
    kinds = {layer.op_type.split("+")[0] for layer in found.unmatched}
    assert not kinds & {"Conv", "Add"}
    assert all(e.own is None for e in found.layers)


class LoneNorms(nn.Module):
    """Batch norms before convolutions, behind an activation, and on what others read."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.behind, self.before, self.beside = (nn.BatchNorm2d(8) for _ in range(3))
        self.relu, self.head = nn.ReLU(), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        x = self.behind(self.relu(self.first(x)))
        y = self.second(nn.functional.relu(self.before(nn.functional.avg_pool2d(x, 2))))
        patch_map = self.head(y - self.beside(y)).squeeze(1).sigmoid()
        return patch_map.mean((1, 2)), patch_map


def test_batch_norms_by_themselves_are_matched_too(randomise):
    detector = Detector(randomise(LoneNorms()), ModelCard("m:f", "whole", "own", 32))
    model = to_onnx(detector)
    graph = read_named(model, "the model")
    layers = layers_of(graph)
    reference = TorchLayers(detector, graph, layers)
    batches = [np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)]
    found = compare(model, model, batches, 32, reference=reference)
    assert max(e.total.relative for e in found.layers) < 1e-5
    names = {e.layer.name.partition(":")[2] for e in found.layers}
    # The ReLU behind `before` is a function: it has no call to be matched with.
    assert names >= {"behind", "beside", "second", "head"}


class Patches(nn.Module):
    """A convolution of 16 patches of 8 px; 16 rows for each face."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3, padding=1)

    def forward(self, x):
        cut = x.view(-1, 3, 4, 8, 4, 8).permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, 8, 8)
        patch_map = self.conv(cut).mean((1, 2, 3)).sigmoid().view(-1, 4, 4)
        return patch_map.mean((1, 2)), patch_map


def test_every_row_of_a_face_takes_room():
    model = to_onnx(Detector(Patches().eval(), ModelCard("m:f", "whole", "own", 32)))
    convolved = 16 * 64 * 8 * 8
    # Pixels, planes and patches take a tenth of it together.
    assert batch_size(model, room=3 * convolved) == 2


class Withholding:
    """A runtime that fuses some tensors away."""

    def __init__(self, source, names):
        self.source, self.names = source, names

    def run(self, pixels):
        found = self.source.run(pixels)
        return {name: found[name] for name in found.keys() - self.names}


def inside(ran, lowered, model, withheld=()):
    """As if another runtime computed an engine's tensors: those of the graph `ran`."""
    names = tensors_to_watch(lowered, model)
    seen = OnnxRuntimeTensors(ran, "what ran", SIZE, names, as_written=True)
    plain = OnnxRuntimeEngine(ran, SIZE, as_written=True)
    return Inside(Withholding(seen, set(withheld)), plain, 9, 10)


@pytest.fixture(scope="module")
def typed(built, model):
    """The INT8 graph that TensorRT is given."""
    scales = load_scales(built.scales, onnx_digest(model))
    request = BuildRequest("tensorrt", "int8", scales, scales.method or "max")
    return make_graph(model, request, "strongly-typed")[0]


ALTERED = "hardtanh_3.scale"


def test_runtime_that_does_what_the_graph_says_adds_nothing(typed, model, batches):
    found = compare(
        typed, model, batches[:1], SIZE, inside=inside(typed, typed, model), as_written=True
    )
    plain = compare(typed, model, batches[:1], SIZE, as_written=True)
    assert all(e.runtime.relative == 0 for e in found.layers)
    assert [e.total for e in found.layers] == [e.total for e in plain.layers]
    assert [e.own for e in found.layers] == [e.own for e in plain.layers]
    assert all(e.runtime is None for e in plain.layers)
    seen = found.watched
    assert (seen.integer_convolutions, seen.integer_convolutions_unwatched) == (9, 10)
    assert judge(found, TOLERANCE).first is None


@pytest.fixture(scope="module")
def of_runtime(typed, model, batches):
    """A sound graph in a runtime that computes another one."""
    broken = edited(typed, scaled(ALTERED, 1 / 50))
    return compare(
        typed, model, batches[:1], SIZE, inside=inside(broken, typed, model), as_written=True
    )


def test_fault_of_the_runtime_is_told_from_one_of_the_graph(of_runtime, typed, model, batches):
    verdict = judge(of_runtime, TOLERANCE)
    tensor = ALTERED.removesuffix(".scale")
    assert verdict.by_runtime
    assert verdict.first.layer.tensor == verdict.culprit.layer.tensor == tensor
    assert verdict.culprit.own.relative < TOLERANCE, "the graph's own layer is sound"
    assert not unexplained(verdict, TOLERANCE)
    assert of_runtime.score_mean > 0
    broken = edited(typed, scaled(ALTERED, 1 / 50))
    of_graph = compare(
        broken, model, batches[:1], SIZE, inside=inside(broken, broken, model), as_written=True
    )
    verdict = judge(of_graph, TOLERANCE)
    assert not verdict.by_runtime
    assert verdict.culprit.layer.tensor == tensor
    assert verdict.culprit.own.relative > 0.5


def test_tensors_that_a_runtime_fused_away_are_unmatched(typed, model, batches):
    names = tensors_to_watch(typed, model)
    hidden = names[3]
    found = compare(
        typed,
        model,
        batches[:1],
        SIZE,
        inside=inside(typed, typed, model, [hidden]),
        as_written=True,
    )
    (unmatched,) = found.unmatched
    assert hidden.startswith(unmatched.tensor)
    assert len(found.layers) == len(names) - 1


def test_overflow_that_stands_in_the_graph_is_not_the_runtimes(half, batches):
    model, lowered = half
    found = compare(
        lowered, model, batches[:1], SIZE, inside=inside(lowered, lowered, model), as_written=True
    )
    verdict = judge(found, 0.02)
    assert not verdict.by_runtime
    assert verdict.culprit.layer.name == "Conv_7:backbone.blocks.0.0.conv_pw"
    assert verdict.first.runtime.relative == 0


def test_nan_that_only_the_runtime_gives_is_the_runtimes(model, batches):
    typed, _ = make_graph(model, BuildRequest("tensorrt", "fp16"), "strongly-typed")
    broken = edited(typed, scaled("detector.head.bottleneck.0.weight.half", np.nan))
    found = compare(
        typed, model, batches[:1], SIZE, inside=inside(broken, typed, model), as_written=True
    )
    verdict = judge(found, 1e9)
    assert verdict.by_runtime
    assert verdict.culprit.layer.name == "Conv_47:head.bottleneck.0"
    assert verdict.culprit.runtime.not_finite > 0


def test_figure_shows_what_the_runtime_adds(of_runtime):
    drawn = draw_layers(of_runtime, judge(of_runtime, TOLERANCE), TOLERANCE, "t", "TensorRT")
    bare = replace(of_runtime, layers=tuple(replace(e, runtime=None) for e in of_runtime.layers))
    assert drawn != draw_layers(bare, judge(bare, TOLERANCE), TOLERANCE, "t", "TensorRT")
