"""`lpx debug` from the command line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from lpx.api import debug_runtime
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.tensorrt import LayerTable, Plan
from lpx.errors import LpxError
from lpx.layerwise.compare import OnnxRuntimeTensors
from lpx.workspace import read_sealed, write_sealed

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
    assert "of 40 layers, the worst by 'alone'" in ran.out
    assert "within tolerance: no layer is off by more than 0.25" in ran.out
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
    assert "by its own doing" in shown.out


def test_against_the_checkpoint(lpx, workspace):
    ran = lpx("debug", "onnxruntime-fp32", "--against", "torch", "--limit", 2)
    assert ran.code == 0, ran.err
    assert "onnxruntime-fp32 against torch: 32 layers on 2 faces" in ran.out
    assert "cannot be separated" in ran.out


def test_errors_that_add_up(lpx, workspace):
    ran = lpx("debug", ENGINE, "--limit", 2, "--tolerance", 0.04)
    assert ran.code == 1
    assert "no layer alone is beyond, the largest error alone is 0.0" in ran.out
    assert "the error is in the graph, not in fused kernels" in ran.out


def test_tensorrt_engine_is_looked_into_by_its_graph(lpx, workspace):
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
    assert "faults of kernels of its own runtime do not" in said
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
    """A runtime of its own, for the lack of a GPU: it computes `graph`."""

    def __init__(self, graph, names):
        super().__init__(graph, "what ran", 160, names, as_written=True)

    def close(self):
        CLOSED.append("watched")


class Engine(OnnxRuntimeEngine):
    def close(self):
        CLOSED.append("engine")
        super().close()


CLOSED = []
PLAN = "tensorrt-int8"


@pytest.fixture
def tensorrt(workspace, monkeypatch):
    """A TensorRT engine that runs here; the function given makes its kernels compute a graph."""
    source, folder = Path("lpx-out/engines") / ENGINE, Path("lpx-out/engines") / PLAN
    manifest = read_sealed(source / "manifest.json", "")
    manifest |= {"name": PLAN, "target": "tensorrt", "file": "engine.plan"}
    manifest["options"] = {"profiles": []}
    graph = (source / "engine.onnx").read_bytes()
    folder.mkdir()
    write_sealed(folder / "manifest.json", manifest)
    (folder / "graph.onnx").write_bytes(graph)
    CLOSED.clear()

    def computes(ran=graph):
        monkeypatch.setattr(debug_runtime, "can_run", lambda manifest, machine: (True, "here"))
        monkeypatch.setattr(
            debug_runtime, "load", lambda folder, **how: Engine(ran, 160, as_written=True)
        )
        monkeypatch.setattr(
            debug_runtime,
            "build_watched",
            lambda *what: Plan(b"", "tensorrt", "10.3.0", LayerTable(()), None, ()),
        )
        monkeypatch.setattr(
            debug_runtime, "open_watched", lambda plan, manifest, names: Tensors(ran, names)
        )

    return computes


def test_tensorrt_engine_is_looked_into_by_tensorrt(lpx, tensorrt, tree):
    tensorrt()
    before = tree(Path("lpx-out/engines"))
    ran = lpx("debug", PLAN, "--limit", 2)
    assert ran.code == 0, ran.err
    assert f"{PLAN} in TensorRT against onnx: 40 layers on 2 faces" in ran.out
    assert "building tensorrt-int8 again with 40 tensors handed out" in ran.err
    assert "the worst by 'alone' or 'TensorRT'" in ran.out
    said = " ".join(ran.out.split())
    assert "the engine against ONNX Runtime, both with the engine's graph" in said
    # The plan says of no convolution that it is computed in integers, the manifest of some.
    assert "changes how TensorRT runs: scores moved by up to 0, and 0 of" in said
    found = json.loads(Path(f"lpx-out/debug/{PLAN}/layers.json").read_text())
    assert found["runtime"] == "tensorrt"
    assert not found["by_runtime"]
    assert {layer["runtime"]["relative"] for layer in found["layers"]} == {0}
    assert CLOSED == ["watched", "engine"]
    assert tree(Path("lpx-out/engines")) == before


def test_fault_of_tensorrts_kernels_is_named(lpx, tensorrt):
    tensorrt(broken(ENGINE))
    ran = lpx("debug", PLAN, "--limit", 2)
    assert ran.code == 1
    name = "Conv_5:backbone.blocks.0.0.conv_dw"
    said = " ".join(ran.out.split())
    assert f"first layer beyond 0.25: {name}, off by 0.9" in said
    assert f"TensorRT computes something else than the engine's graph says, from {name} on" in said
    plain = lpx("debug", PLAN, "--limit", 2, "--runtime", "onnxruntime", "--json")
    found = json.loads(plain.out)
    assert plain.code == 0, "its graph is sound"
    assert found["runtime"] == "onnxruntime"
    assert all(layer["runtime"] is None for layer in found["layers"])


def test_fault_of_the_graph_is_not_put_down_to_tensorrt(lpx, tensorrt):
    graph = broken(ENGINE)
    (Path("lpx-out/engines") / PLAN / "graph.onnx").write_bytes(graph)
    tensorrt(graph)
    ran = lpx("debug", PLAN, "--limit", 2)
    assert ran.code == 1
    said = " ".join(ran.out.split())
    assert "(TensorRT is off the engine's graph by just 0), by its own doing" in said


@pytest.mark.parametrize(
    ("precision", "dialect", "tolerance", "said"),
    [
        ("fp32", "strongly-typed", 0.02, ""),
        ("fp32", "weakly-typed", 0.02, ""),
        ("fp16", "weakly-typed", 0.02, "takes FP16 from a flag"),
        ("int8", "calibration-cache", 0.25, "takes INT8 from a flag"),
        ("int8", "strongly-typed", 0.25, ""),
    ],
)
def test_what_stands_beside_the_graph_is_said(lpx, tensorrt, precision, dialect, tolerance, said):
    tensorrt()
    path = Path("lpx-out/engines") / PLAN / "manifest.json"
    manifest = read_sealed(path, "") | {"precision": precision, "dialect": dialect}
    write_sealed(path, manifest)
    ran = lpx("debug", PLAN, "--limit", 1, "--json")
    found = json.loads(ran.out)
    assert found["tolerance"] == tolerance
    assert any("from a flag" in note for note in found["notes"]) is bool(said)
    assert said in " ".join(found["notes"])


@pytest.mark.parametrize(("tf32", "tolerance"), [(True, 0.02), (False, 0.001)])
def test_float32_without_tf32_is_held_to_float32(lpx, tensorrt, tf32, tolerance):
    tensorrt()
    path = Path("lpx-out/engines") / PLAN / "manifest.json"
    manifest = read_sealed(path, "") | {"precision": "fp32", "dialect": "strongly-typed"}
    manifest["options"] |= {"tf32": tf32}
    write_sealed(path, manifest)
    ran = lpx("debug", PLAN, "--limit", 1, "--json")
    assert json.loads(ran.out)["tolerance"] == tolerance


def test_watched_plan_that_is_not_built_leaves_the_graph_to_look_into(lpx, tensorrt, monkeypatch):
    tensorrt()

    def refused(*what):
        raise LpxError("TensorRT did not build the plan", "no kernel")

    monkeypatch.setattr(debug_runtime, "build_watched", refused)
    ran = lpx("debug", PLAN, "--limit", 1)
    assert ran.code == 2
    assert "handed out: TensorRT did not build the plan" in " ".join(ran.err.split())
    assert "--in onnxruntime" in ran.err
    assert CLOSED == ["engine"]


def test_tensorrt_that_is_asked_for_and_not_there_is_an_error(lpx, tensorrt, monkeypatch):
    monkeypatch.setattr(
        debug_runtime, "can_run", lambda manifest, machine: (False, "no NVIDIA GPU")
    )
    ran = lpx("debug", PLAN, "--limit", 1, "--runtime", "tensorrt")
    assert ran.code == 2
    assert "cannot be looked into by TensorRT here" in ran.err
    assert "no NVIDIA GPU" in ran.err
    left = lpx("debug", PLAN, "--limit", 1)
    assert left.code == 0
    assert "(TensorRT cannot show them here: no NVIDIA GPU)" in " ".join(left.out.split())


def test_the_lean_runtime_does_not_build_the_engine_again(lpx, tensorrt, monkeypatch):
    tensorrt()
    path = Path("lpx-out/engines") / PLAN / "manifest.json"
    values = read_sealed(path, "")
    write_sealed(path, values | {"options": {"profiles": [], "version_compatible": True}})
    monkeypatch.setattr(debug_runtime, "available", lambda flavour: (False, "it builds no plans"))
    left = lpx("debug", PLAN, "--limit", 1)
    assert left.code == 0
    assert "(TensorRT cannot show them here: it builds no plans)" in " ".join(left.out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([ENGINE, "--runtime", "tensorrt"], "onnxruntime runs it"),
        (["nothing"], "lpx-out has onnxruntime-fp32, onnxruntime-int8"),
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
