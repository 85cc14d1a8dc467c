"""Capacity of a workspace's engines, with stand-ins for engines, detector and sensors."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lpx.cli.bench_streams import bench_streams, conclusion, show
from lpx.errors import InvalidArgumentError, LpxError
from lpx.interrupts import Interrupted
from lpx.machine.energy_sources import Unavailable
from lpx.metrics import Interval
from lpx.reporter import SILENT
from lpx.streams.capacity.measure import (
    CapacityHost,
    CapacityRequest,
    known_auc,
    measure_capacity,
)
from lpx.streams.capacity.plan import Budget, CapacityOptions
from lpx.streams.capacity.result import EngineCapacity, KnownAuc
from lpx.streams.scoring import ScorerOptions
from tests.streams.capacity.test_judge import BUDGET, samples
from tests.streams.capacity.test_trial import Battery
from tests.support.costs import UNTIMED
from tests.support.streaming import ConstantEngine, FixedDetector

# Nothing is ever late, however busy the machine that tests.
EASY = Budget(200.0, 600_000.0)
QUICK = CapacityOptions(seconds=0.5, warm_up_seconds=0, most_streams=2, workers=1)
INT8, FP32 = "onnxruntime-int8", "onnxruntime-fp32"


class Loaded(ConstantEngine):
    """An engine of the demo model's size."""

    def __init__(self):
        super().__init__()
        self.size = 160


class Broken(Loaded):
    def _infer(self, faces):
        raise RuntimeError("illegal instruction")


def host(load=None, source=None):
    return CapacityHost(
        load=load or (lambda folder, **_: Loaded()),
        open_source=lambda device: source or Unavailable("no sensor"),
        open_detector=lambda name, threads: FixedDetector(),
    )


def request(budget=EASY, engines=(INT8,), batches=(1,)):
    scorer = ScorerOptions(crop="square-1.3")
    return CapacityRequest(Path("demo"), budget, scorer, engines, batches, QUICK)


def measure(workspace, *, asked=None, **settings):
    return measure_capacity(workspace, asked or request(), SILENT, host=host(**settings))


def test_a_measurement_and_its_file(workspace):
    result = measure(workspace, source=Battery())
    (one,) = result.engines
    assert (one.engine, one.batch, one.streams, one.reached_limit) == (INT8, 1, 2, True)
    assert one.best.load.watts == pytest.approx(10, rel=0.3)
    assert result.recommended.engine == INT8
    assert result.json_path == workspace.root / "streams.json"
    values = json.loads(result.json_path.read_text(), parse_constant=pytest.fail)
    assert values == result.to_dict()
    assert values["schema"] == "lpx-streams/1"
    assert values["complete"] is True
    assert values["energy_source"] == "battery (all of it)"
    recommended = {"engine": INT8, "batch": 1, "streams": 2, "reached_limit": True}
    assert values["recommended"] == recommended
    assert conclusion(result) == f"use {INT8} with batch 1: 2 streams or more"
    assert values["engines"][0]["best"]["verdict"] == "holds"
    assert len(values["engines"][0]["trials"]) == len(one.trials)


def test_every_engine_and_batch_size(workspace):
    result = measure(workspace, asked=request(engines=None, batches=(4, 1, 4)))
    assert [(one.engine, one.batch) for one in result.engines] == [
        (FP32, 1),
        (FP32, 4),
        (INT8, 1),
        (INT8, 4),
    ]


def test_an_engine_that_fails_does_not_stop_the_others(workspace):
    def load(folder, **_):
        return Broken() if folder.name == FP32 else Loaded()

    result = measure(workspace, asked=request(engines=(FP32, INT8)), load=load)
    assert [one.engine for one in result.engines] == [INT8]
    assert [(one.name, one.reason) for one in result.failed] == [
        (FP32, "RuntimeError: illegal instruction")
    ]
    assert json.loads(result.json_path.read_text())["complete"] is True


def test_what_was_measured_is_kept_when_the_rest_is_interrupted(workspace):
    def load(folder, **_):
        if folder.name == INT8:
            raise Interrupted(signal.SIGTERM)
        return Loaded()

    with pytest.raises(Interrupted) as caught:
        measure(workspace, asked=request(engines=(FP32, INT8)), load=load)
    assert caught.value.kept == "1 of 2 engines and batch sizes are in streams.json"
    assert (caught.value.signal, caught.value.resumable) == (signal.SIGTERM, False)
    path = workspace.root / "streams.json"
    values = json.loads(path.read_text())
    assert values["complete"] is False
    assert [one["engine"] for one in values["engines"]] == [FP32]


def test_an_interrupt_before_anything_was_measured_says_so(workspace):
    """The file of an earlier measurement must not pass for the result of this one."""
    path = workspace.root / "streams.json"
    path.write_text("{}")

    def stopped(*_, **__):
        raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        bench_streams(stopped, as_json=False)
    assert caught.value.kept == "nothing was finished, and streams.json was not written"
    with pytest.raises(Interrupted) as caught:
        measure(workspace, load=stopped)
    assert caught.value.kept == ""
    assert path.read_text() == "{}"


def test_a_budget_of_power_needs_a_sensor(workspace):
    asked = request(Budget(200.0, 600_000.0, 15.0))
    with pytest.raises(LpxError, match="power cannot be measured here") as caught:
        measure(workspace, asked=asked)
    assert caught.value.code == "unsupported"
    assert not (workspace.root / "streams.json").exists()
    assert measure(workspace, asked=asked, source=Battery()).recommended is not None


def test_a_budget_of_power_that_nothing_meets(workspace):
    result = measure(workspace, asked=request(Budget(200.0, 600_000.0, 5.0)), source=Battery())
    assert result.recommended is None
    assert result.nearest.streams == 0
    assert "W are over 5 W" in result.nearest.best.reason


def test_the_auc_of_the_last_bench(workspace, lpx):
    from lpx.artefacts.select_engine import find_engine
    from lpx.engines.manifest import read_manifest

    manifest = read_manifest(find_engine(workspace, INT8))
    assert "there is no bench report" in known_auc(workspace, manifest).reason
    report = workspace.bench("demo", limit=24, candidates=INT8, stages=(), costs=UNTIMED)
    known = known_auc(workspace, manifest)
    assert known.reason == ""
    assert known.auc == report.candidates[0].auc_interval
    assert known.verdict == report.candidates[0].verdict
    other = replace(manifest, engine_sha256="0" * 64)
    assert "another build" in known_auc(workspace, other).reason
    assert "does not have it" in known_auc(workspace, replace(manifest, name="x")).reason
    (workspace.root / "report.json").write_text("{}")
    assert "not a report" in known_auc(workspace, manifest).reason


def test_the_table_looks_like_those_of_the_other_benches(workspace, capsys):
    capacities = (capacity("a", 12), replace(capacity("b", 0, 650.0), batch=8))
    show(replace(measure(workspace), engines=capacities))
    out = capsys.readouterr().out
    assert not set("│┃┏┡") & set(out)
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "a 1 12 50 [50, 50] - 0.9000 (demo), parity holds" in rows
    assert "650 [650, 650] with 1 stream" in out


@pytest.mark.parametrize(
    ("batches", "fault"),
    [
        ((), "batch sizes"),
        ("8", "batch sizes"),
        ((0,), ">= 1"),
        ((1.5,), "whole"),
        ((10**9,), "<="),
    ],
)
def test_wrong_batches(batches, fault):
    with pytest.raises(InvalidArgumentError, match=fault):
        request(batches=batches)


def capacity(name, streams, p99=50.0, verdict="holds"):
    from lpx.streams.capacity.judge import judge

    best = replace(judge(samples(np.full(400, p99)), BUDGET), streams=max(streams, 1))
    auc = KnownAuc(Interval(0.9, 0.8, 1.0), verdict, "demo", "")
    return EngineCapacity(
        name, "onnxruntime", "int8", "0" * 64, 1, streams, False, best, (best,), auc
    )


@pytest.mark.parametrize(
    ("engines", "recommended"),
    [
        ([capacity("a", 3), capacity("b", 4)], "b"),
        ([capacity("a", 4, 80.0), capacity("b", 4, 50.0)], "b"),
        ([capacity("a", 3), capacity("b", 9, verdict="fails")], "a"),
        ([capacity("a", 3, verdict=None), capacity("b", 2)], "a"),
        ([capacity("a", 0), capacity("b", 9, verdict="fails")], None),
        ([capacity("a", 0)], None),
        ([], None),
    ],
)
def test_the_recommendation(workspace, engines, recommended):
    result = replace(measure(workspace), engines=tuple(engines))
    found = result.recommended
    assert (found and found.engine) == recommended
    said = conclusion(result)
    if recommended:
        assert said.startswith(f"use {recommended} with batch 1")
    elif not engines:
        assert said == "no engine could be measured"
    elif any(one.streams for one in engines):
        assert "fails parity" in said
    else:
        assert "not even one stream holds the budget" in said
