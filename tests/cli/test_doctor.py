import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from lpx.api.doctor import Finding
from lpx.cli.doctor import doctor
from tests.support.machines import PC as MACHINE

ADVICE = "re-create the environment: python3.10 -m venv --system-site-packages DIR"
FINDINGS = (
    Finding("torch", "ok", "2.8.0", "models and export"),
    Finding("onnx", "ok", "1.19.0", "export"),
    Finding("onnxruntime", "warning", "1.22.0", "calibration", "two packages"),
    Finding("TensorRT", "missing", "", "tensorrt engines", ADVICE),
    Finding("TensorRT-RTX", "ok", "1.7.1.116", "engines for RTX GPUs"),
    Finding("ray", "missing", "", "a cluster", 'pip install "lpx[cluster]"'),
)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lpx.machine.machine.read_machine", lambda: MACHINE)
    monkeypatch.setattr("lpx.api.doctor.examine", lambda machine: FINDINGS)


def test_table_loses_no_advice_at_80_columns() -> None:
    result = CliRunner().invoke(doctor, env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80
    assert "…" not in result.output
    words = " ".join(result.output.split())
    assert ADVICE in words
    assert 'pip install "lpx[cluster]"' in words
    assert "warning: two packages" in words


def test_closing_line_names_the_usable_targets() -> None:
    words = " ".join(CliRunner().invoke(doctor).output.split())
    assert words.endswith(
        "This machine can: run torch, onnxruntime; build tensorrt-rtx but not run it "
        "(no NVIDIA GPU, no CUDA bindings). "
        "Not here: onnxruntime-cuda (onnxruntime has no CUDA provider, no NVIDIA GPU), "
        "onnxruntime-tensorrt (onnxruntime has no Tensorrt provider, no TensorRT, no NVIDIA GPU), "
        "onnxruntime-tensorrt-rtx (no RTX provider, no NVIDIA GPU), "
        "tensorrt (no TensorRT, no NVIDIA GPU, no CUDA bindings)."
    )


def test_a_machine_without_anything_still_exits_0(monkeypatch: pytest.MonkeyPatch) -> None:
    none = tuple(replace(finding, status="missing") for finding in FINDINGS)
    monkeypatch.setattr("lpx.api.doctor.examine", lambda machine: none)
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 0
    assert "This machine can: nothing yet." in result.output


def test_json_is_one_object() -> None:
    result = CliRunner().invoke(doctor, ["--json"])
    assert result.exit_code == 0
    report = json.loads(result.output)
    assert set(report) == {"machine", "findings", "targets"}
    assert report["machine"]["memory_mib"] == 16384
    assert report["machine"]["jetson"] is None
    assert set(report["findings"][0]) == {"name", "status", "found", "enables", "advice"}
    assert report["targets"]["torch"] == {"build": True, "run": True, "reason": ""}
    assert report["targets"]["tensorrt-rtx"]["build"] is True
