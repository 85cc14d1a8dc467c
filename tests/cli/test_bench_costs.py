"""`lpx bench`: options for what engines cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lpx.api import bench as bench_api
from lpx.machine.energy_sources import Unavailable

BENCH = ("bench", "--dataset", "demo", "--limit", 8, "--no-stages")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("lpx.bench.performance.latency.MIN_ITERATIONS", 2)
    monkeypatch.setattr("lpx.bench.performance.latency.BLOCK_SECONDS", 0.01)
    monkeypatch.setattr("lpx.bench.performance.latency.WARM_UP_SECONDS", 0)
    monkeypatch.setattr("lpx.bench.performance.costs.SECONDS", 0.02)


def test_everything_at_once(lpx, workspace, monkeypatch):
    monkeypatch.setattr(bench_api, "open_source", lambda device: Unavailable("no rails"))
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
        (["--batches", "1,x"], "'1,x' are no whole numbers, as 1,8"),
        (["--batches", "0,8"], "--batches 0,8 are no batch sizes"),
        (["--batches", ","], "it names nothing"),
        (["--in-flight", "-1"], "--in-flight must be >= 0 (got -1)"),
        (["--in-flight", "2", "--latency-seconds", "0"], "--in-flight with --latency-seconds 0"),
        (["--like-trtexec", "9"], "'9' is not one of '10', '11'"),
        (["--energy", "--energy-seconds", "0"], "--energy-seconds 0 is not a duration"),
        (["--energy", "--energy-seconds", "nan"], "--energy-seconds nan is not a duration"),
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


def test_energy_is_off_unless_asked_for(lpx, workspace, monkeypatch):
    monkeypatch.setattr(bench_api, "open_source", lambda device: pytest.fail("was asked"))
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

    monkeypatch.setattr(bench_api, "open_source", lambda device: Source())
    ran = lpx(*BENCH, "--latency-seconds", 0.02, "--energy", "--energy-seconds", 0.06)
    assert "measuring the energy of 3 engines will take about 1 seconds" in ran.err
    assert "measured by fake: the board; batch 1" in ran.out
    assert (
        "In AUC, latency and energy together none beats " in Path("lpx-out/report.html").read_text()
    )
