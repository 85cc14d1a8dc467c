"""benchmarks/gpu.py on a machine without a GPU: what it refuses, and its own arithmetic."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/gpu.py"


@pytest.fixture(scope="module")
def gpu():
    sys.path.insert(0, str(SCRIPT.parent))
    yield importlib.import_module("gpu")
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def limits(gpu):
    return importlib.import_module("gpu_limits")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_exits_with_2():
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, cwd=ROOT
    )  # fmt: skip
    assert done.returncode == 2
    assert "sees no NVIDIA GPU" in done.stderr
    assert "--dry-run" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_lists_every_contender_with_a_time_or_a_reason(gpu, tmp_path):
    from click.testing import CliRunner

    line = [
        *("--dry-run", "--only", "resnet18", "--batches", "1", "--size", "64", "--seconds", "0"),
        *("--json", str(tmp_path / "gpu.json"), "--markdown", str(tmp_path / "gpu.md")),
    ]
    ran = CliRunner().invoke(gpu.main, line)
    assert ran.exit_code == 0, ran.output
    values = json.loads((tmp_path / "gpu.json").read_text())
    rows = {row["contender"]: row for row in values["rows"]}
    assert len(rows) == 14
    ran_ = [name for name, row in rows.items() if row["cannot_run"] is None]
    assert ran_ == ["torch eager fp32", "torch fp16 channels-last"]
    assert rows["torch eager fp32"]["per_face_p50_ms"] > 0
    assert values["limits"]["gigabytes_per_second"] > 0
    text = (tmp_path / "gpu.md").read_text()
    assert "these are no figures of a GPU" in text
    for name in rows:
        assert f"{name} " in text, "a contender is hidden"
    assert values["about"]["versions"]["torch"] in text


def test_only_the_chosen_contenders_run_and_unknown_ones_are_refused(gpu, tmp_path):
    from click.testing import CliRunner

    line = ["--dry-run", "--only", "resnet18", "--batches", "1,2", "--size", "64", "--seconds", "0"]
    where = tmp_path / "gpu.json"
    chosen = "torch eager fp32, torch.compile fp16"
    ran = CliRunner().invoke(gpu.main, [*line, "--contenders", chosen, "--json", str(where)])
    assert ran.exit_code == 0, ran.output
    rows = json.loads(where.read_text())["rows"]
    assert [row["contender"] for row in rows] == [*map(str.strip, chosen.split(","))] * 2
    ran = CliRunner().invoke(gpu.main, [*line, "--contenders", "tensorflow"])
    assert ran.exit_code == 2
    assert "tensorflow: unknown; choose from torch eager fp32" in " ".join(ran.output.split())
    ran = CliRunner().invoke(gpu.main, [*line, "--minutes", "0"])
    assert "batch 1: left out (--minutes)" in ran.output


def test_operations_are_those_of_the_convolutions(limits):
    from lpx.models.checkpoint import Detector

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.depthwise = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)

        def forward(self, x):
            return self.depthwise(self.stem(x))

    card = type("Card", (), {"input_size": 16})()
    stem, depthwise = limits.costs(Detector(Net(), card))
    assert stem == limits.Cost(216, 3 * 256 + 8 * 64, 2 * 64 * 8 * 27)
    assert depthwise == limits.Cost(72, 2 * 8 * 64, 2 * 64 * 8 * 9)


def test_floors_are_the_larger_of_memory_and_arithmetic(limits):
    device = limits.Limits(1.0, {"fp16": 1.0}, {})  # 1e9 bytes/s, 1e12 operations/s
    slow_memory = limits.Cost(weights=1_000_000, values=0, operations=1)
    slow_arithmetic = limits.Cost(weights=0, values=0, operations=5_000_000_000)
    whole, single = limits.floors_ms([slow_memory, slow_arithmetic], 2, "fp16", device, 0)
    assert whole == pytest.approx(10.0)  # 2 faces x 5e9 operations; memory alone would be 2 ms
    assert single == pytest.approx(2.0 + 10.0)
    assert limits.floors_ms([slow_memory], 1, "int8", device, 0) == (None, None)


def test_a_reason_is_one_line_with_the_kind_of_error(limits):
    assert limits.words(RuntimeError("no\n  kernel")) == "RuntimeError: no kernel"
