"""`lpx debug` from the command line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from lpx.api.debug import DebugOptions, debug
from lpx.api.debug_runtime import TensorRTAccess
from lpx.cli.debug import debug as command
from lpx.cli.debug import show
from lpx.cli.option_names import error_text
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.tensorrt import LayerTable, Plan
from lpx.errors import LpxError
from lpx.layerwise.compare import OnnxRuntimeTensors
from lpx.reporter import SILENT
from lpx.workspace import read_sealed, write_sealed
from tests.support.reporting import RecordingReporter

ENGINE = "onnxruntime-int8"


def rewrite(engine, data):
    """Put another graph into an engine's place, its manifest along with it."""
    folder = Path("lpx-out/engines") / engine
    manifest = read_sealed(folder / "manifest.json", "")
    (folder / manifest["file"]).write_bytes(data)
    manifest["engine_sha256"] = hashlib.sha256(data).hexdigest()
    write_sealed(folder / "manifest.json", manifest)


def broken(engine):
    """An engine's graph with a scale that is too small."""
    proto = onnx.load(Path("lpx-out/engines") / engine / "engine.onnx")
    for entry in proto.graph.initializer:
        if entry.name == "hardtanh_1.scale":
            scale = onnx.numpy_helper.to_array(entry) / np.float32(50)
            entry.CopyFrom(onnx.numpy_helper.from_array(scale, entry.name))
    return proto.SerializeToString()


def test_healthy_engine(lpx, workspace):
    ran = lpx("debug", ENGINE, "--limit", 4)
    assert ran.code == 0, ran.err
    assert "worst of 40 layers by 'alone'" in ran.out
    assert "within tolerance: no layer's error exceeds 0.25" in ran.out
    assert ran.out.splitlines()[-1] == f"written: lpx-out/debug/{ENGINE}/layers.png and layers.json"
    assert Path(f"lpx-out/debug/{ENGINE}/layers.png").read_bytes().startswith(b"\x89PNG")


def test_fault_is_named_and_ends_in_1(lpx, workspace, crops):
    rewrite(ENGINE, broken(ENGINE))
    ran = lpx(
        "debug",
        ENGINE,
        "--faces",
        "crops",
        "--limit",
        2,
        "--sensitivity",
        "--out",
        "found",
        "--json",
    )
    assert ran.code == 1
    found = json.loads(ran.out, parse_constant=pytest.fail)
    assert found == json.loads(Path("found/layers.json").read_text())
    name = "Conv_5:backbone.blocks.0.0.conv_dw"
    assert found["first_beyond"] == found["culprit"] == name
    assert not found["within_tolerance"]
    assert found["count"] == 2
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert layers[name]["own"]["sqnr_db"] < 3
    assert layers["Cast_0"]["own"]["sqnr_db"] is None
    assert layers[name]["effect"]["score_mean"] > 0
    shown = lpx("debug", ENGINE, "--limit", 2)
    assert f"first layer beyond 0.25: {name}, off by 0.9" in shown.out
    assert "caused by the layer itself" in shown.out


def test_against_the_checkpoint(lpx, workspace):
    ran = lpx("debug", "onnxruntime-fp32", "--against", "torch", "--limit", 2)
    assert ran.code == 0, ran.err
    assert "onnxruntime-fp32 against torch: 32 layers on 2 faces" in ran.out
    assert "cannot be separated" in ran.out


def test_errors_that_add_up(lpx, workspace):
    ran = lpx("debug", ENGINE, "--limit", 2, "--tolerance", 0.04)
    assert ran.code == 1
    assert "no layer alone is beyond it, the largest error of a layer alone is 0.0" in ran.out
    assert "the error is in the graph, not in fused kernels" in ran.out


def test_tensorrt_engine_is_inspected_by_its_graph(lpx, workspace):
    source, folder = Path("lpx-out/engines") / ENGINE, Path("lpx-out/engines/tensorrt-rtx-int8")
    manifest = read_sealed(source / "manifest.json", "")
    manifest |= {"name": folder.name, "target": "tensorrt-rtx", "file": "engine.plan"}
    folder.mkdir()
    write_sealed(folder / "manifest.json", manifest)
    ran = lpx("debug", folder.name, "--limit", 2)
    assert ran.code == 2
    assert "graph.onnx does not exist" in ran.err
    (folder / "graph.onnx").write_bytes((source / "engine.onnx").read_bytes())
    ran = lpx("debug", folder.name, "--limit", 2)
    assert ran.code == 0, ran.err
    said = " ".join(ran.out.split())
    assert "but no faults of the engine's own kernels" in said
    assert "(TensorRT cannot show them here: its manifest does not say how it was built" in said
    assert json.loads(Path(f"lpx-out/debug/{folder.name}/layers.json").read_text())["runtime"] == (
        "onnxruntime"
    )
    manifest["options"]["graph_sha256"] = "0" * 64
    write_sealed(folder / "manifest.json", manifest)
    ran = lpx("debug", folder.name, "--limit", 2)
    assert ran.code == 2
    assert "graph.onnx is not the graph that tensorrt-rtx-int8 was built from" in ran.err


class Tensors(OnnxRuntimeTensors):
    """Tensors of a plan, for lack of a GPU computed by ONNX Runtime from `graph`."""

    def __init__(self, graph, names, closed):
        super().__init__(graph, "the kernels", 160, names, as_written=True)
        self.closed = closed

    def close(self):
        self.closed.append("watched")


class Engine(OnnxRuntimeEngine):
    """A TensorRT engine, likewise."""

    def __init__(self, graph, closed):
        super().__init__(graph, 160, as_written=True)
        self.record = closed

    def close(self):
        self.record.append("engine")
        super().close()


PLAN = "tensorrt-int8"


class TensorRTHere:
    """A workspace with a TensorRT engine, on a machine that runs and builds it.

    Attributes:
        path: Manifest of the engine.
        kernels: Graph that its kernels compute.
        closed: What was closed, in order.
    """

    def __init__(self, workspace, capsys):
        self.workspace, self.capsys = workspace, capsys
        source, folder = workspace.engines / ENGINE, workspace.engines / PLAN
        manifest = read_sealed(source / "manifest.json", "")
        manifest |= {"name": PLAN, "target": "tensorrt", "file": "engine.plan"}
        manifest["options"] = {"tensorrt": {}}
        self.kernels = (source / "engine.onnx").read_bytes()
        folder.mkdir()
        self.path = folder / "manifest.json"
        write_sealed(self.path, manifest)
        (folder / "graph.onnx").write_bytes(self.kernels)
        self.closed = []

    def edit(self, options=None, **values):
        manifest = read_sealed(self.path, "")
        write_sealed(
            self.path, manifest | values | {"options": manifest["options"] | (options or {})}
        )

    def debug(self, reporter=SILENT, runtime=None, limit=2, **access):
        usual = TensorRTAccess(
            can_run=lambda manifest, machine: (True, "here"),
            load=lambda folder, **options: Engine(self.kernels, self.closed),
            build=lambda *arguments: Plan(b"", "tensorrt", "10.3.0", LayerTable(()), None, ()),
            open=lambda plan, manifest, names: Tensors(self.kernels, names, self.closed),
        )
        options = DebugOptions(limit=limit, runtime=runtime)
        return debug(self.workspace, PLAN, options, reporter, access=replace(usual, **access))

    def shown(self, result):
        self.capsys.readouterr()
        show(result)
        return " ".join(self.capsys.readouterr().out.split())


@pytest.fixture
def tensorrt(workspace, capsys):
    return TensorRTHere(workspace, capsys)


def test_tensorrt_engine_is_inspected_in_tensorrt(tensorrt, tree):
    before = tree(Path("lpx-out/engines"))
    reporter = RecordingReporter()
    result = tensorrt.debug(reporter)
    assert result.verdict.first is None
    assert any(
        text.startswith("building tensorrt-int8 again with 40 intermediate tensors exposed")
        for text in reporter.said
    )
    text = tensorrt.shown(result)
    assert f"{PLAN} in TensorRT against onnx: 40 layers on 2 faces" in text
    assert "layers by 'alone' or 'TensorRT'" in text
    assert "the engine compared with its graph in ONNX Runtime" in text
    # The plan has no integer convolutions, the manifest has some.
    assert "changes how TensorRT runs: scores moved by up to 0, and 0 of" in text
    values = json.loads(result.table.read_text())
    assert values["runtime"] == "tensorrt"
    assert not values["by_runtime"]
    assert {layer["runtime"]["relative"] for layer in values["layers"]} == {0}
    assert tensorrt.closed == ["watched", "engine"]
    assert tree(Path("lpx-out/engines")) == before


def test_fault_of_tensorrts_kernels_is_named(tensorrt):
    tensorrt.kernels = broken(ENGINE)
    result = tensorrt.debug()
    name = "Conv_5:backbone.blocks.0.0.conv_dw"
    assert result.verdict.first.layer.name == name
    text = tensorrt.shown(result)
    assert f"first layer beyond 0.25: {name}, off by 0.9" in text
    assert f"TensorRT deviates from the engine's graph from {name} on" in text
    plain = tensorrt.debug(runtime="onnxruntime")
    assert plain.verdict.first is None, "there is nothing wrong with the graph"
    assert plain.runtime == "onnxruntime"
    assert all(layer.runtime is None for layer in plain.comparison.layers)


def test_fault_of_the_graph_is_not_blamed_on_tensorrt(tensorrt):
    tensorrt.kernels = broken(ENGINE)
    tensorrt.path.with_name("graph.onnx").write_bytes(tensorrt.kernels)
    result = tensorrt.debug()
    assert result.verdict.first is not None
    text = tensorrt.shown(result)
    assert (
        "(TensorRT deviates from the engine's graph by only 0), caused by the layer itself" in text
    )


@pytest.mark.parametrize(
    ("precision", "dialect", "tolerance", "note"),
    [
        ("fp32", "strongly-typed", 0.02, ""),
        ("fp32", "weakly-typed", 0.02, ""),
        ("fp16", "weakly-typed", 0.02, "takes FP16 from a flag"),
        ("int8", "calibration-cache", 0.25, "takes INT8 from a flag"),
        ("int8", "strongly-typed", 0.25, ""),
    ],
)
def test_precision_outside_the_graph_is_noted(tensorrt, precision, dialect, tolerance, note):
    tensorrt.edit(precision=precision, dialect=dialect)
    result = tensorrt.debug(limit=1)
    assert result.tolerance == tolerance
    assert any("from a flag" in text for text in result.notes) is bool(note)
    assert note in " ".join(result.notes)


@pytest.mark.parametrize(("tf32", "tolerance"), [(True, 0.02), (False, 0.001)])
def test_float32_without_tf32_has_the_tolerance_of_float32(tensorrt, tf32, tolerance):
    tensorrt.edit({"tf32": tf32}, precision="fp32", dialect="strongly-typed")
    assert tensorrt.debug(limit=1).tolerance == tolerance


def test_engine_that_cannot_be_built_again_can_be_inspected_by_its_graph(tensorrt):
    def refuse(*arguments):
        raise LpxError("TensorRT did not build the plan", "no kernel")

    with pytest.raises(LpxError, match="exposed: TensorRT did not build the plan") as refused:
        tensorrt.debug(limit=1, build=refuse)
    assert "--runtime onnxruntime" in error_text(refused.value, command)
    assert tensorrt.closed == ["engine"]


def test_tensorrt_that_is_requested_but_absent_is_an_error(tensorrt):
    def absent(manifest, machine):
        return False, "no NVIDIA GPU"

    with pytest.raises(LpxError, match=r"cannot inspect engine .* with TensorRT") as refused:
        tensorrt.debug(limit=1, runtime="tensorrt", can_run=absent)
    assert refused.value.why == "no NVIDIA GPU"
    result = tensorrt.debug(limit=1, can_run=absent)
    assert "(TensorRT cannot show them here: no NVIDIA GPU)" in tensorrt.shown(result)


def test_the_lean_runtime_does_not_build_the_engine_again(tensorrt):
    tensorrt.edit({"tensorrt": {"version_compatible": True}})
    result = tensorrt.debug(limit=1, can_build=lambda flavour: (False, "it builds no plans"))
    assert "(TensorRT cannot show them here: it builds no plans)" in tensorrt.shown(result)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([ENGINE, "--runtime", "tensorrt"], "onnxruntime runs it"),
        (["nothing"], "engines of lpx-out: onnxruntime-fp32, onnxruntime-int8"),
        ([ENGINE, "--tolerance", "0"], "--tolerance must be > 0 (got 0.0)"),
        ([ENGINE, "--tolerance", "nan"], "--tolerance must be a finite number (got nan)"),
        ([ENGINE, "--limit", "0"], "--limit must be >= 1 (got 0)"),
        ([ENGINE, "--against", "torch", "--sensitivity"], "leave out --against"),
        ([ENGINE, "--against", "jax"], "'jax' is not one of"),
        ([ENGINE, "--faces", "nowhere"], "nowhere"),
        ([], "Missing argument 'ENGINE'"),
    ],
)
def test_mistakes(lpx, workspace, tree, arguments, said):
    before = tree(".")
    ran = lpx("debug", *arguments)
    assert ran.code == 2
    assert said in ran.err
    assert ran.out == ""
    assert tree(".") == before


def test_altered_engine_and_another_model(lpx, workspace):
    path = Path("lpx-out/engines") / ENGINE
    (path / "engine.onnx").write_bytes(b"")
    assert "is not the engine that its manifest describes" in lpx("debug", ENGINE).err
    manifest = read_sealed(path / "manifest.json", "")
    write_sealed(path / "manifest.json", manifest | {"model_sha256": "0" * 64})
    assert "was built from another model" in lpx("debug", ENGINE).err
