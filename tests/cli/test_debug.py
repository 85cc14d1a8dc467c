"""`lpx debug` from the command line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

ENGINE = "onnxruntime-int8"


def rewrite(engine, data):
    """Put another graph into an engine's place, its manifest along with it."""
    folder = Path("lpx-out/engines") / engine
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / manifest["file"]).write_bytes(data)
    manifest["engine_sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def broken(engine):
    proto = onnx.load(Path("lpx-out/engines") / engine / "engine.onnx")
    for entry in proto.graph.initializer:
        if entry.name == "hardtanh_1.scale":
            scale = onnx.numpy_helper.to_array(entry) / np.float32(50)
            entry.CopyFrom(onnx.numpy_helper.from_array(scale, entry.name))
    rewrite(engine, proto.SerializeToString())


def test_healthy_engine(lpx, workspace):
    ran = lpx("debug", ENGINE, "--count", 4)
    assert ran.code == 0, ran.err
    assert "10 of 27 layers, the worst by 'alone'" in ran.out
    assert "within tolerance: no layer is off by more than 0.25" in ran.out
    assert ran.out.splitlines()[-1] == f"written: lpx-out/debug/{ENGINE}/layers.png and layers.json"
    assert Path(f"lpx-out/debug/{ENGINE}/layers.png").read_bytes().startswith(b"\x89PNG")


def test_fault_is_named_and_ends_in_1(lpx, workspace, crops):
    broken(ENGINE)
    ran = lpx("debug", ENGINE, "--faces", "crops", "--count", 2, "--sensitivity", "--out", "found",
              "--json")  # fmt: skip
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
    shown = lpx("debug", ENGINE, "--count", 2)
    assert f"first layer beyond 0.25: {name}, off by 0.9" in shown.out
    assert "by its own doing" in shown.out


def test_against_the_checkpoint(lpx, workspace):
    ran = lpx("debug", "onnxruntime-fp32", "--against", "torch", "--count", 2)
    assert ran.code == 0, ran.err
    assert "onnxruntime-fp32 against torch: 21 layers on 2 faces" in ran.out
    assert "are not told apart" in ran.out


def test_errors_that_add_up(lpx, workspace):
    ran = lpx("debug", ENGINE, "--count", 2, "--tolerance", 0.04)
    assert ran.code == 1
    assert "no layer alone is beyond, the largest error alone is 0.0" in ran.out
    assert "the error lies in the graph, not in fused kernels" in ran.out


def test_tensorrt_engine_is_looked_into_by_its_graph(lpx, workspace):
    source, folder = Path("lpx-out/engines") / ENGINE, Path("lpx-out/engines/tensorrt-rtx-int8")
    manifest = json.loads((source / "manifest.json").read_text())
    manifest |= {"name": folder.name, "target": "tensorrt-rtx", "file": "engine.plan"}
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    ran = lpx("debug", folder.name, "--count", 2)
    assert ran.code == 2
    assert "graph.onnx does not exist" in ran.err
    (folder / "graph.onnx").write_bytes((source / "engine.onnx").read_bytes())
    ran = lpx("debug", folder.name, "--count", 2)
    assert ran.code == 0, ran.err
    said = " ".join(ran.out.split())
    assert "faults of kernels of its own runtime do not" in said
    assert "(TensorRT cannot show them here: its manifest does not say how it was built" in said
    assert json.loads(Path(f"lpx-out/debug/{folder.name}/layers.json").read_text())["ran_in"] == (
        "onnxruntime"
    )
    manifest["options"]["graph_sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    ran = lpx("debug", folder.name, "--count", 2)
    assert ran.code == 2
    assert "graph.onnx is not the graph that tensorrt-rtx-int8 was built from" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "lpx-out holds onnxruntime-fp32, onnxruntime-int8"),
        ([ENGINE, "--tolerance", "0"], "--tolerance 0 is no bound"),
        ([ENGINE, "--tolerance", "nan"], "--tolerance nan is no bound"),
        ([ENGINE, "--count", "0"], "--count 0 is too small"),
        ([ENGINE, "--against", "torch", "--sensitivity"], "leave --against out"),
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
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"model_sha256": "0" * 64}))
    assert "was built from another model" in lpx("debug", ENGINE).err
