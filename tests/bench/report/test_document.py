"""docs/report.schema.json describes what `lpx bench` writes, wholly."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import jsonschema
import pytest

from lpx import CostPlan
from lpx.api.bench import BenchOptions, Host, bench
from lpx.bench.report.document.report import SCHEMA, Report, read_report
from lpx.errors import LpxError
from lpx.machine.energy_sources import Unavailable
from tests.support.costs import QUICK
from tests.support.reports import full_report

PATH = Path(__file__).parents[3] / "docs" / "report.schema.json"
# Written by the version before reports became typed, from the results of `full_report`.
GOLDEN = Path(__file__).parent / "report.json"


@pytest.fixture(scope="module")
def schema():
    return json.loads(PATH.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def validator(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture
def report(workspace):
    times = {"startComputeMs": 300, "h2dMs": 1, "computeMs": 2, "d2hMs": 1, "latencyMs": 4}
    path = workspace.root / "times.json"
    path.write_text(json.dumps([times]))
    costs = CostPlan((2, 1), 0.01, 2, 10, 0.01, [(path, "mine")], QUICK)
    options = BenchOptions(limit=24, costs=costs)
    host = Host(open_source=lambda device: Unavailable("no rails"))
    return json.loads(bench(workspace, "demo", options, host=host).json_path.read_text())


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


@pytest.fixture(scope="module")
def made():
    return full_report()


def test_the_json_of_a_report_is_unchanged(made, validator):
    values, golden = made.to_dict(), json.loads(GOLDEN.read_text())
    validator.validate(values)
    assert keys(values) == keys(golden)
    assert same(values, golden)


def keys(value, path=""):
    """Every key of nested values, in order."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return [path]
    return [path, *(key for name, part in value.items() for key in keys(part, f"{path}/{name}"))]


def same(value, other):
    """Whether nested values are the same but for the last digits of numbers."""
    if isinstance(value, dict):
        return all(same(part, other[name]) for name, part in value.items())
    if isinstance(value, list):
        return all(map(same, value, other))
    if isinstance(value, float):
        return value == pytest.approx(other, rel=1e-6, abs=1e-9)
    return value == other


def test_a_report_that_is_read_is_the_one_that_was_written(made, tmp_path):
    assert Report.from_dict(made.to_dict()) == made
    path = tmp_path / "report.json"
    path.write_text(json.dumps(made.to_dict()))
    for given in (path, str(path), tmp_path):
        read = read_report(given)
        assert read == made
        assert read.json_path == path
        assert read.html_path == tmp_path / "report.html"
        assert read.to_dict() == made.to_dict()


def test_a_report_that_was_not_written_has_no_paths(made):
    with pytest.raises(LpxError, match="the report is not in a file"):
        made.json_path  # noqa: B018


def test_every_missing_field_is_named(made):
    values = made.to_dict()
    for name in values.keys() - {"schema", "threshold", "threshold_source", "pixels"}:
        rest = {key: value for key, value in values.items() if key != name}
        with pytest.raises(LpxError, match="is damaged or was edited") as caught:
            Report.from_dict(rest)
        assert caught.value.code == "damaged"
        assert caught.value.why == f"missing fields: {name}"
    engine = values["candidates"][0]
    # Reports that were written before they were added lack engine_sha256 and pixels.
    for name in engine.keys() - {"latency", "engine_sha256", "pixels"}:
        rest = {key: value for key, value in engine.items() if key != name}
        with pytest.raises(LpxError) as caught:
            Report.from_dict(values | {"candidates": [rest]})
        assert caught.value.why == f"candidates[0]: missing fields: {name}"


def test_a_report_of_a_version_without_pixels_is_read(made):
    values = made.to_dict()
    del values["pixels"]
    for candidate in values["candidates"]:
        del candidate["pixels"]
    read = Report.from_dict(values)
    assert read.pixels == ()
    assert all(candidate.pixels == () for candidate in read.candidates)


def test_no_verdict_on_pixels_goes_unseen(made):
    """Tables have a row for each pipeline that the report describes."""
    for change in (
        lambda values: values["pixels"].pop(),
        lambda values: values["candidates"][1]["pixels"].pop(0),
        lambda values: values["candidates"][0].pop("pixels"),
    ):
        values = made.to_dict()
        change(values)
        with pytest.raises(LpxError, match="damaged") as caught:
            Report.from_dict(values)
        assert caught.value.why.endswith("was scored on other pixels than are described")


def test_a_report_of_an_earlier_version_has_no_digests_of_engines(made):
    values = made.to_dict()
    for candidate in values["candidates"]:
        del candidate["engine_sha256"]
    report = Report.from_dict(values)
    assert [one.engine.engine_sha256 for one in report.candidates] == [""] * len(report.candidates)


def test_a_report_names_the_engines_that_were_measured(report, workspace):
    engines = {row["name"]: row["engine_sha256"] for row in report["candidates"]}
    for name in workspace.engine_names():
        data = (workspace.engine(name) / "engine.onnx").read_bytes()
        assert engines[name] == hashlib.sha256(data).hexdigest()


def test_reports_of_others_have_codes(made):
    with pytest.raises(LpxError, match="another version, lpx-report/9") as caught:
        Report.from_dict(made.to_dict() | {"schema": "lpx-report/9"})
    assert caught.value.code == "unsupported"
