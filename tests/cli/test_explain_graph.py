"""`lpx explain-graph` from the command line."""

from __future__ import annotations

import json

import pytest

from lpx.engines.manifest import read_manifest


def test_of_the_workspace(lpx, workspace):
    ran = lpx("explain-graph")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "lpx-out/model.onnx for tensorrt, strongly-typed"
    assert any(line.startswith("float  Conv_3") and "RGB stem" in line for line in lines)
    assert any(line.startswith("int8   Add_18") and "skip only" in line for line in lines)
    assert "24 of 26 convolutions in INT8" in lines[-2]
    assert lines[-1].endswith("an engine's manifest.json says what it takes")


@pytest.mark.parametrize("source", ["lpx-out", "lpx-out/model.onnx"])
def test_json_says_what_the_manifest_of_the_engine_says(lpx, workspace, source):
    ran = lpx("explain-graph", source, "--target", "onnxruntime", "--json")
    assert ran.code == 0
    values = json.loads(ran.out)
    manifest = read_manifest(workspace.engines / "onnxruntime-int8")
    assert values["nodes"] == list(manifest.placement)
    work = values["multiply_accumulates"]
    assert work["int8"] == manifest.multiply_accumulates["int8"] > 0
    assert work["float"] == manifest.multiply_accumulates["fp32"] > 0
    assert values["model_sha256"] == manifest.model_sha256
    assert (values["target"], values["dialect"]) == ("onnxruntime", "onnxruntime")
    assert manifest.calibration["weights"] == {
        "clip": "max",
        "rounding": "squant",
        "bias_correction": True,
        "equalise": False,
        "min_channels": 16,
        "requantise": False,
    }


def test_depthwise_convolutions_stay_float_for_rtx(lpx, workspace):
    found = {}
    for target in ("tensorrt", "tensorrt-rtx"):
        values = json.loads(lpx("explain-graph", "--target", target, "--json").out)
        depthwise = [n for n in values["nodes"] if n["reason"].startswith("depthwise")]
        found[target] = {n["quantised"] for n in depthwise}
    assert found == {"tensorrt": {True}, "tensorrt-rtx": {False}}


def test_a_provider_of_onnxruntime_gets_the_graph_of_what_lies_behind_it(lpx, workspace):
    found = {}
    for target in ("tensorrt", "onnxruntime-tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt-rtx"):
        values = json.loads(lpx("explain-graph", "--target", target, "--json").out)
        found[target] = (values["dialect"], values["nodes"])
    assert found["tensorrt"] == found["onnxruntime-tensorrt"]
    assert found["tensorrt-rtx"] == found["onnxruntime-tensorrt-rtx"]
    assert found["tensorrt"][0] == "strongly-typed"


def test_dla_and_equalisation(lpx, workspace):
    ran = lpx("explain-graph", "--dialect", "dla-explicit", "--equalise", "--json")
    values = json.loads(ran.out)
    assert values["shared_scales"]
    assert all(set(group) <= set(values["tensors"]) for group in values["shared_scales"])
    assert sum(pair["scaled"] for pair in values["equalisation"]) > 100
    shown = lpx("explain-graph", "--equalise").out
    assert "16 of 16 channels scaled" in shown
    assert "left alone (Add does not commute" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.onnx",), "nowhere.onnx does not exist"),
        (("lpx-out/engines/onnxruntime-int8/engine.onnx",), "is quantised already"),
        (("lpx-out/report.txt",), "is not a readable ONNX model"),
        (("--target", "tensorrt-rtx", "--dialect", "weakly-typed"), "takes no weakly-typed"),
        (("--target", "onnxruntime", "--dialect", "dla-explicit"), "takes no dla-explicit"),
        (("--dialect", "onnxruntime"), "takes no onnxruntime graph"),
        (
            ("--target", "onnxruntime-tensorrt", "--dialect", "weakly-typed"),
            "takes no weakly-typed",
        ),
        (("--target", "onnxruntime-cuda"), "has no integer convolutions"),
        (("--target", "openvino"), "'openvino' is not one of"),
        (("--dialect", "latin"), "'latin' is not one of"),
    ],
)
def test_mistakes(lpx, workspace, arguments, said):
    (workspace.root / "report.txt").write_text("no model")
    ran = lpx("explain-graph", *arguments)
    assert ran.code == 2
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_pairs_are_taken_out_on_demand(lpx, workspace):
    engine = "lpx-out/engines/onnxruntime-int8/engine.onnx"
    again = json.loads(lpx("explain-graph", engine, "--requantise", "--json").out)
    fresh = json.loads(lpx("explain-graph", "--json").out)
    assert again["nodes"] == fresh["nodes"]
