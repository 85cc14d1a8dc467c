"""`lpx bench --pixels`."""

from __future__ import annotations

import json

import pytest

from lpx.cli.main import cli
from lpx.data.pipelines.table import ALIASES, PIPELINES

BENCH = ("bench", "--dataset", "demo", "--limit", 48, "--latency-seconds", 0)


def test_pipelines_are_shown_with_their_verdicts(lpx, workspace):
    ran = lpx(*BENCH, "--pixels", "deepstream, triton")
    # 48 faces decide nothing.
    assert ran.code == 1, ran.err
    assert "triton leaves resizing to its clients" in ran.err
    for name in ("deepstream", "opencv-linear"):
        assert f"note: {name}: " in ran.out
        assert f"pixels of {name}: parity " in ran.out
    assert ran.out.count("  pixels alone ") == 4
    assert max(len(row) for row in ran.out.splitlines() if "─" in row) <= 80
    report = json.loads((workspace.root / "report.json").read_text())
    assert [stage["kind"] for stage in report["candidates"][0]["stages"]] == ["onnx", "engine"]


def test_stages_may_be_left_out_beside(lpx, workspace):
    ran = lpx(*BENCH, "--pixels", "nv12", "--no-stages", "--json")
    report = json.loads(ran.out)
    assert report["candidates"][0]["stages"] == []
    assert [row["pipeline"] for row in report["candidates"][0]["pixels"]] == ["nv12"]


def test_a_bench_without_pixels_has_none(lpx, workspace):
    ran = lpx(*BENCH, "--json")
    report = json.loads(ran.out)
    assert report["pixels"] == []
    assert report["candidates"][0]["pixels"] == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("vic", "--pixels must name pipelines that lpx knows: deepstream, deepstream-nearest, "),
        ("deepstream,pixels:nv12", "(got 'pixels:nv12')"),
        (" , ", "it is empty"),
    ],
)
def test_bad_names(lpx, workspace, value, said):
    ran = lpx(*BENCH, "--pixels", value)
    assert ran.code == 2
    assert said in ran.err
    assert not (workspace.root / "report.json").exists()


def test_the_help_names_every_pipeline():
    (option,) = [p for p in cli.get_command(None, "bench").params if p.name == "stages"]
    for name in (*PIPELINES, *ALIASES):
        assert name in option.help
