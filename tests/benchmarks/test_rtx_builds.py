"""benchmarks/rtx_builds.py: what it counts, and that it fails where something is not recognised."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from lpx.engines.tensorrt import LayerTable, Plan, PlanLayer, available

ROOT = Path(__file__).parents[2]
USABLE, REASON = available("tensorrt-rtx")


@pytest.fixture(scope="module")
def builds():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("rtx_builds")
    sys.path.remove(str(ROOT / "benchmarks"))


def plan(*graph: str) -> Plan:
    table = LayerTable((PlanLayer("a", "correlation", "fp16", True, ("a",)),), graph)
    return Plan(b"plan", "tensorrt-rtx", "1.7.1.116", table, None, ())


def test_a_convolution_that_is_not_recognised_is_counted(builds):
    whole = builds.measured("resnet18", "fp16", "8", plan("a"), 1.0)
    assert (whole.graph, whole.recognised, whole.kinds) == (1, 1, {"correlation": 1})
    part = builds.measured("resnet18", "fp16", "8", plan("a", "b"), 1.0)
    assert (part.graph, part.recognised) == (2, 1)
    without = builds.measured("resnet18", "fp16", "8", replace(plan("a"), layers=None), 1.0)
    assert without.problem


def test_it_fails_where_a_convolution_is_not_recognised(builds, capsys):
    whole = builds.Build("resnet18", "fp16", "8", 2, {"fp16": 2, "unknown": 0})
    part = replace(whole, shown={"fp16": 1, "unknown": 1})
    assert builds.run(["resnet18"], lambda _: [[whole], [whole]]) == 0
    assert "2 builds; 0 failed" in capsys.readouterr().out
    assert builds.run(["resnet18"], lambda _: [[whole], [whole, part]]) == 1
    assert "3 builds; 1 failed" in capsys.readouterr().out


@pytest.mark.skipif(not USABLE, reason=REASON)
def test_one_backbone(builds, tmp_path):
    output = tmp_path / "out.json"
    options = ["--backbones", "resnet18", "--size", "64", "--json", str(output)]
    ran = CliRunner().invoke(builds.main, options)
    assert ran.exit_code == 0, ran.output
    assert "9 builds; 0 failed" in ran.output
    found = json.loads(output.read_text())["builds"]
    assert {(one["graph"], sum(one["shown"].values())) for one in found} == {(12, 12)}
