"""`lpx bench`: options for what engines cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lpx.api import bench as bench_api
from lpx.api.bench import Host
from lpx.machine.energy_sources import Unavailable
from tests.support.costs import QuickPlan

BENCH = ("bench", "--dataset", "demo", "--limit", 8, "--no-stages")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("lpx.bench.performance.cost_plan.CostPlan", QuickPlan)


def test_everything_at_once(lpx, workspace, monkeypatch):
    host = Host(open_source=lambda device: Unavailable("no rails"))
    monkeypatch.setattr(bench_api, "THIS_HOST", host)
    times = {"startComputeMs": 300, "h2dMs": 1, "computeMs": 2, "d2hMs": 1, "latencyMs": 4}
    Path("a=b.json").write_text(json.dumps([times]))
    ran = lpx(
        *BENCH,
        "--latency-seconds",
        0.02,
        "--batches",
        "2, 1",
        "--in-flight",
        2,
        "--energy",
        "--energy-seconds",
        0.01,
        "--like-trtexec",
        11,
        "--import-trtexec",
        "a=b.json",
        "--import-trtexec",
        "a=b.json=mine",
    )
    assert ran.code in (0, 1), ran.err
    for said in (
        "which engine is faster:",
        "throughput:",
        "one patch alone:",
        "lpx, as release 11",
        "a=b             ",
        "mine            ",
        "note: energy of torch, onnxruntime-fp32, onnxruntime-int8 unavailable: no rails",
        "AUC cannot be compared",
    ):
        assert said in ran.out, said
    assert "warning: energy is unavailable: no rails" in ran.err
    # It fits a terminal of 80 columns.
    assert max(len(row) for row in ran.out.splitlines() if "─" in row) <= 80
    report = json.loads(Path("lpx-out/report.json").read_text())
    assert [row["batch"] for row in report["reference"]["latency_by_batch"]] == [1, 2]
    assert report["candidates"][0]["throughput"]["in_flight"] == 2
    page = Path("lpx-out/report.html").read_text()
    assert all(f'id="{key}-table"' in page for key in ("speed", "throughput", "trtexec"))
    assert "<summary>Throughput</summary>" in Path("lpx-out/report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batches", "1,x"], "must be whole numbers, such as 1,8 (got '1,x')"),
        (["--batches", "0,8"], "--batches must be >= 1 (got 0)"),
        (["--batches", ","], "it is empty"),
        (["--in-flight", "-1"], "--in-flight must be >= 0 (got -1)"),
        (
            ["--in-flight", "2", "--latency-seconds", "0"],
            "--in-flight cannot be combined with --latency-seconds 0 (got 2)",
        ),
        (
            ["--like-trtexec", "10", "--latency-seconds", "0"],
            "--like-trtexec cannot be combined with --latency-seconds 0",
        ),
        (["--latency-seconds", "-1"], "--latency-seconds must be >= 0 (got -1"),
        (["--margin", "2"], "--margin must be between 0 and 1 (got 2"),
        (["--like-trtexec", "9"], "'9' is not one of '10', '11'"),
        (["--energy", "--energy-seconds", "0"], "--energy-seconds must be > 0 (got 0"),
        (
            ["--energy", "--energy-seconds", "nan"],
            "--energy-seconds must be a finite number (got nan)",
        ),
        (["--import-trtexec", "none.json"], "none.json cannot be read"),
        (["--import-trtexec", "none.json=x"], "none.json cannot be read"),
    ],
)
def test_mistakes(lpx, workspace, tree, arguments, said):
    before = tree(".")
    ran = lpx(*BENCH, *arguments)
    assert ran.code == 2
    assert said in ran.err
    assert ran.out == ""
    assert tree(".") == before


def test_energy_is_off_unless_asked_for(lpx, workspace):
    ran = lpx(*BENCH, "--latency-seconds", 0, "--energy-seconds", 3, "--json")
    assert json.loads(ran.out)["reference"]["energy"] is None


def test_how_long_energy_takes_is_said_first(lpx, workspace, monkeypatch):
    class Source:
        name, covers = "fake", "the board"

        def start(self):
            pass

        def stop(self):
            return 1.0

        def close(self):
            pass

    host = Host(open_source=lambda device: Source())
    monkeypatch.setattr(bench_api, "THIS_HOST", host)
    ran = lpx(*BENCH, "--latency-seconds", 0.02, "--energy", "--energy-seconds", 0.06)
    assert "measuring the energy of 3 engines will take about 1 second\n" in ran.err
    assert "measured by fake: the board; batch 1" in ran.out
    assert (
        "In AUC, latency and energy together no engine beats "
        in Path("lpx-out/report.html").read_text()
    )
