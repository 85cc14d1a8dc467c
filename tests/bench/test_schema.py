"""docs/report.schema.json describes what `lpx bench` writes, wholly."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest

from lpx import pipeline
from lpx.bench.report import SCHEMA

PATH = Path(__file__).parents[2] / "docs" / "report.schema.json"


@pytest.fixture(scope="module")
def schema():
    return json.loads(PATH.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def validator(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture
def report(workspace, monkeypatch):
    monkeypatch.setattr("lpx.bench.latency.MIN_ITERATIONS", 2)
    monkeypatch.setattr("lpx.bench.latency.BLOCK_SECONDS", 0.01)
    monkeypatch.setattr("lpx.bench.latency.WARM_UP_SECONDS", 0)
    done = pipeline.bench(workspace, "demo", limit=24, latency_seconds=0.01)
    return json.loads(done.json_path.read_text())


def test_it_is_of_the_version_that_is_written(schema):
    assert schema["title"] == schema["properties"]["schema"]["const"] == SCHEMA


def test_what_is_written_fits(validator, report):
    validator.validate(report)
    for path, value in (
        (("verdict",), "maybe"),
        (("candidates", 0, "breaks_at"), "kernel"),
        (("candidates", 0, "stages", 0, "against_torch", "auc"), 1.5),
        (("candidates", 0, "undescribed"), 1),
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
