"""docs/report.schema.json describes what `lpx bench` writes, wholly."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest

from lpx import CostPlan
from lpx.api import bench as bench_api
from lpx.bench.report.document import SCHEMA
from lpx.machine.energy_sources import Unavailable

PATH = Path(__file__).parents[3] / "docs" / "report.schema.json"


@pytest.fixture(scope="module")
def schema():
    return json.loads(PATH.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def validator(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture
def report(workspace, monkeypatch):
    monkeypatch.setattr("lpx.bench.performance.latency.MIN_ITERATIONS", 2)
    monkeypatch.setattr("lpx.bench.performance.latency.BLOCK_SECONDS", 0.01)
    monkeypatch.setattr("lpx.bench.performance.latency.WARM_UP_SECONDS", 0)
    monkeypatch.setattr("lpx.bench.performance.costs.SECONDS", 0.01)
    monkeypatch.setattr(bench_api, "open_source", lambda device: Unavailable("no rails"))
    times = {"startComputeMs": 300, "h2dMs": 1, "computeMs": 2, "d2hMs": 1, "latencyMs": 4}
    path = workspace.root / "times.json"
    path.write_text(json.dumps([times]))
    done = workspace.bench(
        "demo",
        limit=24,
        costs=CostPlan((2, 1), 0.01, in_flight=2, like=10, energy_seconds=0.01),
        trtexec_times=[(path, "mine")],
    )
    return json.loads(done.json_path.read_text())


def test_it_is_of_the_version_that_is_written(schema):
    assert schema["title"] == schema["properties"]["schema"]["const"] == SCHEMA


def test_what_is_written_fits(validator, report):
    validator.validate(report)
    assert [row["batch"] for row in report["reference"]["latency_by_batch"]] == [1, 2]
    assert report["trtexec"][0]["name"] == "mine"
    shares = {c["precision"]: c["int8_share"] for c in report["candidates"]}
    assert shares["fp32"] is None
    assert 0.5 < shares["int8"] < 1
    assert report["candidates"][0]["energy"] == {"unavailable": "no rails"}
    for path, value in (
        (("verdict",), "maybe"),
        (("candidates", 0, "breaks_at"), "kernel"),
        (("candidates", 0, "stages", 0, "against_torch", "auc"), 1.5),
        (("candidates", 0, "undescribed"), 1),
        (("candidates", 0, "int8_share"), 1.5),
        (("candidates", 0, "latency", "intervals_ms", "p50"), [1.0]),
        (("candidates", 0, "throughput", "in_flight"), 0),
        (("candidates", 0, "energy"), {}),
        (("dataset", "digest"), None),
    ):
        wrong = copy.deepcopy(report)
        place = wrong
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        assert not validator.is_valid(wrong), path
        if path[-1] in ("verdict", "digest"):
            del place[path[-1]]
            assert not validator.is_valid(wrong), path
