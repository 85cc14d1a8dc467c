import json
import re
from dataclasses import replace

import pytest

from lpx.api.doctor import Finding
from lpx.cli.doctor import show, values
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


@pytest.fixture
def printed(capsys, monkeypatch):
    """A function that returns what is printed on 80 columns."""

    def show_to_text(findings=FINDINGS) -> str:
        monkeypatch.setenv("COLUMNS", "80")
        show(MACHINE, findings)
        return capsys.readouterr().out

    return show_to_text


def test_table_loses_no_advice_at_80_columns(printed) -> None:
    text = printed()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    words = " ".join(text.split())
    assert ADVICE in words
    assert 'pip install "lpx[cluster]"' in words
    assert "warning: two packages" in words


def test_closing_line_names_the_usable_targets(printed) -> None:
    words = " ".join(printed().split())
    assert (
        "This machine can: run torch, onnxruntime; build tensorrt-rtx but not run it "
        "(no NVIDIA GPU, no CUDA bindings). "
        "Not here: onnxruntime-cuda (onnxruntime has no CUDA provider, no NVIDIA GPU), "
        "onnxruntime-tensorrt (onnxruntime has no Tensorrt provider, no TensorRT, no NVIDIA GPU), "
        "onnxruntime-tensorrt-rtx (no RTX provider, no NVIDIA GPU), "
        "tensorrt (no TensorRT, no NVIDIA GPU, no CUDA bindings)."
    ) in words
    assert re.search(r"On the disk: [\d,]+ MB.* Memory of this process: \d+ MiB\.$", words)


def test_an_empty_machine_is_no_error(printed) -> None:
    none = tuple(replace(finding, status="missing") for finding in FINDINGS)
    assert "This machine can: nothing yet." in printed(none)


def test_values_of_json() -> None:
    report = json.loads(json.dumps(values(MACHINE, FINDINGS)))
    assert set(report) == {"machine", "findings", "targets", "installed", "memory"}
    assert report["installed"]["packages_mb"]["numpy"] > 10
    assert report["memory"]["process_rss_mib"] > 10
    assert report["machine"]["memory_mib"] == 16384
    assert report["machine"]["jetson"] is None
    assert set(report["findings"][0]) == {"name", "status", "found", "enables", "advice"}
    assert report["targets"]["torch"] == {"build": True, "run": True, "reason": ""}
    assert report["targets"]["tensorrt-rtx"]["build"] is True


def test_command_on_this_machine(lpx) -> None:
    shown, parsed = lpx("doctor"), lpx("doctor", "--json")
    assert (shown.code, parsed.code) == (0, 0)
    assert "This machine can: run torch, onnxruntime" in " ".join(shown.out.split())
    assert json.loads(parsed.out)["targets"]["onnxruntime"]["run"] is True
