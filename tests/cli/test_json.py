"""`--json`: standard output is one object, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.costs import QuickPlan
from tests.support.networks import write_small_checkpoint


@pytest.fixture
def parsed(lpx):
    """A function that runs a command with --json; returns the object printed, and its exit code."""

    def run(*arguments):
        ran = lpx(*arguments, "--json")
        value = json.loads(ran.out, parse_constant=pytest.fail)
        assert isinstance(value, dict)
        return value, ran.code

    return run


def test_export(parsed, workspace):
    write_small_checkpoint(Path("ckpt.pt"))
    value, code = parsed("export", "ckpt.pt", "-w", "new")
    assert code == 0
    assert value.keys() == {"model", "model_sha256", "opset", "verification", "card"}
    assert value["model"] == "new/model.onnx"
    assert value["verification"]["faces"] == 8
    assert value["card"]["architecture"] == "resnet18"


def test_build_of_several_precisions_at_once(parsed, workspace):
    value, code = parsed(
        "build",
        "--fp32",
        "--fp16",
        "--int8",
        "--target",
        "onnxruntime",
        "--faces",
        "demo",
        "--limit",
        4,
    )
    assert code == 0
    assert [engine["name"] for engine in value["engines"]] == [
        "onnxruntime-fp32",
        "onnxruntime-fp16",
        "onnxruntime-int8",
    ]
    fp32, fp16, int8 = value["engines"]
    assert fp32["calibration"] is None
    assert fp16["warnings"][0].startswith("ONNX Runtime's CPU computes float16 graphs in float32")
    assert int8["calibration"]["face_count"] == 4
    assert int8["convolutions"]["int8"] > fp32["convolutions"]["int8"] == 0


def test_bench(parsed, workspace, monkeypatch):
    monkeypatch.setattr("lpx.bench.performance.cost_plan.CostPlan", QuickPlan)
    value, code = parsed("bench", "--dataset", "demo", "--limit", 24, "--latency-seconds", 0.01)
    assert value == json.loads(Path("lpx-out/report.json").read_text())
    assert value["verdict"] in ("holds", "fails", "undecided")
    assert code == (0 if value["verdict"] == "holds" else 1)
    assert value["faces"] == 24
    assert 0 <= value["reference"]["auc"] <= 1
    assert [c["name"] for c in value["candidates"]] == ["onnxruntime-fp32", "onnxruntime-int8"]
    for candidate in value["candidates"]:
        assert candidate["target"] == "onnxruntime"
        assert candidate["precision"] in ("fp32", "int8")
        difference = candidate["auc_difference"]
        assert difference["low"] <= difference["estimate"] <= difference["high"]
        assert difference["estimate"] == pytest.approx(
            candidate["auc"] - value["reference"]["auc"], abs=1e-12
        )
        assert 0 <= candidate["score_difference"]["p99"] <= candidate["score_difference"]["max"]
        assert candidate["flips"] == (
            candidate["flips_real_to_fake"] + candidate["flips_fake_to_real"]
        )
        latency = candidate["latency"]
        assert latency["batch"] == 1
        assert 0 < latency["per_face_p50_ms"] <= latency["per_face_p99_ms"]
        units = value["model"]["grid"][0] * value["model"]["grid"][1]
        assert latency["per_patch_p50_us"] == pytest.approx(
            1e3 * latency["per_face_p50_ms"] / units
        )
        assert [row["batch"] for row in candidate["latency_by_batch"]] == [1, 8]


def test_bench_without_latency(parsed, workspace):
    value, _ = parsed("bench", "--dataset", "demo", "--limit", 8, "--latency-seconds", 0)
    assert value["reference"]["latency"] is None
    assert all(candidate["latency"] is None for candidate in value["candidates"])


def test_predict(parsed, workspace, crops):
    value, code = parsed("predict", "--crops", "crops")
    assert code == 0
    assert value.keys() == {
        "engine",
        "threshold",
        "crop",
        "detector",
        "rule",
        "ms_per_frame",
        "files",
        "skipped",
        "left_out",
        "resumed",
        "scores",
        "frames",
    }


def test_doctor(parsed):
    assert parsed("doctor")[0].keys() == {
        *("machine", "findings", "targets"),
        *("installed", "memory"),
    }
