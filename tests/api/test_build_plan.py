"""Engines that are built by a precision plan."""

from __future__ import annotations

import hashlib
import json

import onnx
import pytest

from lpx.api.build import NotAllBuiltError
from lpx.api.package.content import request_of
from lpx.artefacts.calibration_cache import export_cache, import_cache
from lpx.artefacts.model import read_exported
from lpx.artefacts.plan_file import write_plan
from lpx.bundle.expected import identity
from lpx.calibration.scales import load_scales
from lpx.engines.build import cache_scales, make_graph, require_int8
from lpx.engines.manifest import read_manifest
from lpx.engines.request import BuildRequest
from lpx.errors import InvalidArgumentError, LpxError, NotAsAskedError
from lpx.graph.layers import read_named
from lpx.graph.nodes import COMPUTE
from lpx.graph.qdq.plan import LayerPlan, PrecisionPlan
from lpx.workspace import read_sealed

NAME = "onnxruntime-int8"


@pytest.fixture
def layers(workspace):
    """Names of the quantised layers of the engine in the workspace."""
    placement = read_manifest(workspace.engines / NAME).placement
    return [d["node"] for d in placement if d["quantised"] and d["op_type"] in COMPUTE]


@pytest.fixture
def request_for(workspace):
    """Returns requests for the exported model with the ranges of the workspace."""
    model = read_exported(workspace)
    scales = load_scales(workspace.scales, model.sha256)

    def make(plan, target="tensorrt", precision="int8", method="max"):
        return model.data, BuildRequest(target, precision, scales, method, plan=plan)

    return make


def build(workspace, plan, precisions="int8", **options):
    return workspace.build(precisions, target="onnxruntime", limit=16, plan=plan, **options)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (3, "plan must be a path"),
        ({"a": "int8"}, "plan must be a path"),
        ("nowhere.json", "does not exist"),
        ("lpx-out", "cannot be read"),
        ("lpx-out/model.json", "is not a precision plan"),
    ],
)
def test_what_is_no_plan(workspace, wrong, what):
    with pytest.raises(LpxError, match=what):
        build(workspace, wrong)


def test_plan_of_another_model_stops_the_whole_build(workspace, layers, tree):
    before = tree(workspace.root)
    plan = PrecisionPlan({layers[0]: LayerPlan("float")}, "b" * 64)
    for precisions in ("int8", ("fp32", "int8")):
        with pytest.raises(LpxError, match="made for model bbbbbbbbbbbb"):
            build(workspace, plan, precisions)
        with pytest.raises(LpxError, match="made for model bbbbbbbbbbbb"):
            workspace.emit(precisions, plan=plan)
    with pytest.raises(LpxError, match="not a layer of this model: nonsense"):
        build(workspace, PrecisionPlan({"nonsense": LayerPlan("float")}))
    assert tree(workspace.root) == before


@pytest.mark.parametrize("precisions", ["fp32", "fp16", ("fp32", "fp16")])
def test_plan_without_int8(workspace, layers, precisions):
    plan = PrecisionPlan({layers[0]: LayerPlan("float")})
    for step in (
        lambda: build(workspace, plan, precisions),
        lambda: workspace.emit(precisions, plan=plan),
    ):
        with pytest.raises(LpxError, match="`plan` with FP") as caught:
            step()
        assert caught.value.code == "invalid-argument"


def test_plan_that_leaves_nothing(workspace, layers):
    workspace.scales.unlink()
    plan = PrecisionPlan(dict.fromkeys(layers, LayerPlan("float", "all of them")))
    with pytest.raises(NotAsAskedError, match="the precision plan leaves no layer in INT8"):
        build(workspace, plan)
    with pytest.raises(NotAsAskedError, match="the precision plan leaves no layer in INT8"):
        workspace.emit("int8", plan=plan)
    with pytest.raises(NotAllBuiltError):
        build(workspace, plan, ("fp32", "int8"))
    # Before anything was calibrated.
    assert not workspace.scales.exists()


def test_engine_follows_the_plan_and_records_it(workspace, layers, tmp_path):
    kept, options = layers[3], layers[5]
    plan = PrecisionPlan(
        {
            kept: LayerPlan("float", "it is sensitive"),
            options: LayerPlan("int8", method="mse", clip="mse", rounding="nearest"),
        },
        hashlib.sha256(workspace.model.read_bytes()).hexdigest(),
        {"by": "hand"},
    )
    before = read_manifest(workspace.engines / NAME)
    write_plan(tmp_path / "plan.json", plan)
    (manifest,) = build(workspace, tmp_path / "plan.json")
    assert read_manifest(workspace.engines / NAME).plan == manifest.plan
    assert manifest.precision_plan == plan
    assert manifest.plan["format"] == "lpx-plan/1"
    said = {d["node"]: d for d in manifest.placement}
    assert said[kept]["reason"].startswith("the precision plan keeps it in float: it is sensitive")
    assert manifest.convolutions["int8"] == before.convolutions["int8"] - 1
    nodes = {n.name: n for n in onnx.load(workspace.engines / NAME / "engine.onnx").graph.node}
    assert "weight" not in nodes[kept].input[1] or "dequantized" not in nodes[kept].input[1]
    assert nodes[options].input[1].endswith("dequantized")
    # A plan is part of what bundles expect an engine to be.
    assert identity(manifest) != identity(before)
    # An engine that is rebuilt from its manifest, as packages do, is the same.
    request = request_of(workspace, manifest)
    assert (request.plan, request.method) == (plan, manifest.calibration["method"])
    # And it can be benched.
    report = workspace.bench("demo", limit=8, candidates=[NAME])
    assert report.candidates[0].name == NAME


def test_plan_of_int8_only_changes_no_byte(workspace, layers):
    before = (workspace.engines / NAME / "engine.onnx").read_bytes()
    (manifest,) = build(workspace, PrecisionPlan(dict.fromkeys(layers, LayerPlan("int8"))))
    assert (workspace.engines / NAME / "engine.onnx").read_bytes() == before
    assert manifest.plan is not None
    (manifest,) = build(workspace, None)
    assert manifest.plan is None
    assert "plan" not in read_sealed(workspace.engines / NAME / "manifest.json", "")


@pytest.mark.parametrize("name", ["method", "clip", "rounding"])
@pytest.mark.parametrize(
    "dialect", ["onnxruntime", "strongly-typed", "weakly-typed", "dla-explicit"]
)
def test_options_of_one_layer_change_that_layer_alone(layers, request_for, name, dialect):
    value = {"method": "percentile-99.9", "clip": "mse", "rounding": "nearest"}[name]
    target = "onnxruntime" if dialect == "onnxruntime" else "tensorrt"
    chosen = layers[5]
    graphs = []
    for plan in (PrecisionPlan(), PrecisionPlan({chosen: LayerPlan("int8", **{name: value})})):
        data, _ = make_graph(*request_for(plan, target), dialect)
        model = onnx.load_from_string(data)
        graphs.append({i.name: i.SerializeToString() for i in model.graph.initializer})
    assert graphs[0].keys() == graphs[1].keys()
    changed = {key for key in graphs[0] if graphs[0][key] != graphs[1][key]}
    assert changed
    if name == "method":
        # The scale of its input, and in ONNX Runtime what is stored in its unit.
        assert len({key.split(".")[0] for key in changed}) <= 4
    else:
        assert all(key.startswith(f"{chosen}.") for key in changed)


def test_method_of_one_layer_in_a_calibration_cache(layers, request_for):
    plan = PrecisionPlan({layers[5]: LayerPlan("int8", method="percentile-99.9")})
    before, after = (cache_scales(*request_for(p)) for p in (PrecisionPlan(), plan))
    changed = {name for name in before if before[name] != after[name]}
    assert 0 < len(changed) <= 4
    assert all(after[name] < before[name] for name in changed)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_layers_in_float32(layers, request_for, precision):
    plan = PrecisionPlan({layers[3]: LayerPlan("fp32")})
    data, _ = make_graph(*request_for(plan, precision=precision), "strongly-typed")
    model = onnx.load_from_string(data)
    kinds = {i.name: i.data_type for i in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    floats = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    assert kinds[nodes[layers[3]].input[1]] == floats[0]
    if precision == "fp16":
        assert kinds[nodes[layers[4]].input[1]] == floats[1]
    for dialect in ("weakly-typed", "calibration-cache"):
        with pytest.raises(LpxError, match="1 layers in float32"):
            make_graph(*request_for(plan, precision=precision), dialect)
    with pytest.raises(LpxError, match="1 layers in float32"):
        require_int8(*request_for(plan), "weakly-typed")


def test_fp16_engine_with_layers_in_float32(workspace, layers):
    plan = PrecisionPlan({layers[3]: LayerPlan("fp32"), layers[4]: LayerPlan("float")})
    whole, kept = (workspace.build("fp16", target="onnxruntime", plan=p)[0] for p in (None, plan))
    assert whole.plan is None
    assert kept.precision_plan == plan
    assert whole.engine_sha256 != kept.engine_sha256
    every = [
        n.name for n in read_named(workspace.model.read_bytes(), "m").graph if n.op_type in COMPUTE
    ]
    plan = PrecisionPlan(dict.fromkeys(every, LayerPlan("fp32")))
    with pytest.raises(NotAsAskedError, match="leaves no layer in FP16"):
        workspace.build("fp16", target="onnxruntime", plan=plan)


def test_imported_ranges_have_one_method(workspace, layers, request_for, tmp_path):
    model = read_exported(workspace)
    export_cache(model.data, load_scales(workspace.scales, model.sha256), tmp_path / "c.cache")
    import_cache(workspace, tmp_path / "c.cache")
    plan = PrecisionPlan({layers[5]: LayerPlan("int8", method="mse")})
    with pytest.raises(LpxError, match="asks for calibration method mse"):
        build(workspace, plan)


def test_command_line(workspace, lpx, layers, tmp_path):
    path = tmp_path / "plan.json"
    write_plan(path, PrecisionPlan({layers[3]: LayerPlan("float")}))
    ran = lpx("build", "--int8", "--target", "onnxruntime", "--limit", "16", "--plan", path)
    assert ran.code == 0, ran.err
    assert "  precision plan: 1 in float\n" in ran.out
    for target in ("tensorrt", "onnxruntime"):
        ran = lpx("explain-graph", "--target", target, "--plan", path, "--json")
        nodes = {node["node"]: node for node in json.loads(ran.out)["nodes"]}
        assert nodes[layers[3]]["reason"].startswith("the precision plan keeps it in float")
    ran = lpx("build", "--fp32", "--plan", path)
    assert ran.code == 2
    assert "--plan with FP32" in ran.err
    path.write_text("{}")
    for command in ("build", "explain-graph"):
        ran = lpx(command, "--plan", path)
        assert ran.code == 2
        assert "plan.json is not a precision plan" in ran.err
    write_plan(path, PrecisionPlan({"nonsense": LayerPlan("float")}))
    ran = lpx("explain-graph", "--plan", path)
    assert ran.code == 2
    assert "nonsense" in ran.err


def test_values_of_another_type(workspace):
    with pytest.raises(InvalidArgumentError):
        build(workspace, b"plan.json")
