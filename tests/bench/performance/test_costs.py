"""What engines cost, and how it is told: costs.py, cost_tables.py, and the report of both."""

from __future__ import annotations

import json
import math
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lpx.bench.performance.cost_plan import CostPlan, energy_seconds
from lpx.bench.performance.costs import Speed, judge_speed, measure_costs
from lpx.bench.performance.energy import EnergyResult
from lpx.bench.performance.latency import DeviceTime, Samples, TimingLimits, summarise
from lpx.bench.performance.loaded_engine import LoadedEngine
from lpx.bench.performance.speed_test import SpeedTest
from lpx.bench.performance.trtexec_metrics import read_trtexec
from lpx.bench.report.cost_tables import cost_tables, line
from lpx.bench.report.document.entries import EngineCosts
from lpx.card import ModelCard
from lpx.engines.base import ON_THE_CPU, DeviceMemory
from lpx.errors import LpxError
from lpx.machine.energy_sources import Unavailable
from lpx.metrics import Interval
from tests.support.reports import full_report

CARD = ModelCard("net", "cut", "mean_prob", 8, grid=(2, 2))
LIMITS = TimingLimits(
    warm_up_seconds=0, block_seconds=0.003, min_iterations=8, trtexec_seconds=0.02
)
PLAN = CostPlan(batches=(1, 4), latency_seconds=0.02, limits=LIMITS)


class Spinning:
    """Takes a time that does not hang on the scheduler, and may fail at a batch size."""

    device_memory = ON_THE_CPU

    def __init__(self, ms, fails_at=0):
        self.ms, self.fails_at, self.batches = ms, fails_at, []

    def infer(self, faces):
        if len(faces) == self.fails_at:
            raise RuntimeError("no kernel")
        self.batches.append(len(faces))
        end = time.perf_counter() + self.ms / 1e3
        while time.perf_counter() < end:
            pass

    def close(self):
        pass


class Steady:
    """A source of energy that gives the same joules for every window."""

    name, covers = "fake", "the board"

    def start(self):
        pass

    def stop(self):
        return 2.0

    def close(self):
        pass


def candidate(name, engine, opened=None):
    manifest = SimpleNamespace(name=name, precision=name.rsplit("-", 1)[1])
    return LoadedEngine(manifest, engine, opened or (lambda *, cuda_graph: nullcontext(engine)))


def measured(engines, plan=PLAN, sources=None, **options):
    candidates = {n: candidate(n, e) for n, e in engines.items() if n != "torch"}
    return measure_costs(
        engines,
        candidates,
        lambda batch: np.zeros((batch, 8, 8, 3), np.uint8),
        CARD,
        plan,
        sources or {},
        **options,
    )


def test_every_batch_size_is_timed_and_progress_ends_once():
    told = []
    engines = {"torch": Spinning(2), "a-fp32": Spinning(1)}
    found = measured(engines, timing=lambda done, total: told.append(done / total))
    assert {n: [r.batch for r in rows] for n, rows in found.latency.items()} == {
        "torch": [1, 4],
        "a-fp32": [1, 4],
    }
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert told.count(1.0) == 1
    assert set(found.times_ms) == {(n, b) for n in ("torch", "a-fp32") for b in (1, 4)}
    before, after = found.conditions
    assert before.load_per_core >= 0
    assert after.load_per_core >= 0
    assert found.single_patch == {"a-fp32": Unavailable("its engine is built for whole faces")}
    assert found.energy == found.throughput == found.like == {}


def taking(ms):
    """Forty calls over eight rounds, some slower than others."""
    drift = np.repeat(np.linspace(1, 3, 8), 5)
    return Samples(ms * drift, np.repeat(np.arange(8), 5))


def test_who_is_faster_is_judged_against_torch_and_the_fastest_float_engine():
    times_ms = {"torch": 2.0, "a-fp32": 1.2, "a-fp16": 0.6, "a-int8": 0.9}
    found = judge_speed(
        {name: {1: taking(ms)} for name, ms in times_ms.items()},
        {name: name[2:] for name in times_ms if name != "torch"},
    )
    said = {
        name: [(s.batch, s.against, s.test.verdict) for s in speeds]
        for name, speeds in found.items()
    }
    assert said == {
        "a-fp32": [(1, "torch", "faster"), (1, "a-fp16", "slower")],
        "a-fp16": [(1, "torch", "faster")],
        "a-int8": [(1, "torch", "faster"), (1, "a-fp16", "slower")],
    }
    assert found["a-int8"][1].test.ratio.estimate == pytest.approx(1.5)


def test_an_engine_that_misses_a_batch_size_is_compared_where_it_ran():
    ones, twos = taking(1.0), taking(2.0)
    found = judge_speed(
        {"torch": {1: twos, 8: twos}, "a-fp32": {1: ones}, "a-int8": {1: ones, 8: ones}},
        {"a-fp32": "fp32", "a-int8": "int8"},
    )
    assert [(s.batch, s.against) for s in found["a-int8"]] == [
        (1, "torch"),
        (1, "a-fp32"),
        (8, "torch"),
    ]
    assert found["a-int8"][0].test.ratio.estimate == 0.5
    assert found["a-int8"][1].test.verdict == "inconclusive"


def test_an_engine_that_fails_is_left_out_from_there_on():
    plan = replace(PLAN, in_flight=2, like=10)
    found = measured({"torch": Spinning(1), "a-fp32": Spinning(1), "a-int8": Spinning(1, 4)}, plan)
    (failed,) = found.failed
    assert (failed.name, failed.during) == ("a-int8", "timing")
    assert failed.reason == "RuntimeError: no kernel (batch 4)"
    assert [r.batch for r in found.latency["a-int8"]] == [1]
    assert set(found.throughput) == set(found.like) == {"a-fp32"}


def test_what_the_reference_raises_is_raised():
    with pytest.raises(RuntimeError, match="no kernel"):
        measured({"torch": Spinning(1, 4), "a-fp32": Spinning(1)})


def test_engines_are_opened_again_for_threads_and_for_trtexec():
    """Those in flight keep CUDA graphs; trtexec 10 uses none."""
    opened = []
    engine = Spinning(0.5)

    def another(*, cuda_graph):
        opened.append(cuda_graph)
        return nullcontext(Spinning(0.5))

    run = partial(
        measure_costs,
        {"torch": engine, "a-fp32": engine},
        {"a-fp32": candidate("a-fp32", engine, another)},
        lambda batch: np.zeros((batch, 8, 8, 3), np.uint8),
        CARD,
        sources={},
    )
    found = run(plan=replace(PLAN, batches=(2,), in_flight=3, like=10))
    assert opened == [True, True, True, False]
    assert (found.throughput["a-fp32"].batch, found.throughput["a-fp32"].in_flight) == (2, 3)
    opened.clear()
    found = run(plan=replace(PLAN, like=11))
    assert opened == [True]
    assert found.like["a-fp32"].release == 11

    def refused(*, cuda_graph):
        raise LpxError("out of memory", "the plan is large", "")

    found = measure_costs(
        {"torch": engine, "a-fp32": engine},
        {"a-fp32": candidate("a-fp32", engine, refused)},
        lambda batch: np.zeros((batch, 8, 8, 3), np.uint8),
        CARD,
        replace(PLAN, in_flight=2),
        {},
    )
    assert found.throughput == {"a-fp32": Unavailable("out of memory: the plan is large")}
    assert found.failed == ()


def test_energy_is_measured_where_there_is_a_source():
    limits = replace(LIMITS, energy_windows=2)
    plan = CostPlan((1,), latency_seconds=0, energy_seconds=0.02, limits=limits)
    told = []
    found = measured(
        {"torch": Spinning(1), "a-fp32": Spinning(1), "a-int8": Spinning(1, 1)},
        plan,
        {"torch": Unavailable("no rails"), "a-fp32": Steady(), "a-int8": Steady()},
        energy=lambda done, total: told.append(done / total),
    )
    assert found.energy["torch"] == Unavailable("no rails")
    assert found.energy["a-fp32"].gross_j_per_face.estimate > 0
    assert "a-int8" not in found.energy
    assert [(f.name, f.during) for f in found.failed] == [("a-int8", "measuring energy")]
    assert found.conditions is None
    assert told[-1] == 1.0


def test_how_long_energy_takes():
    assert energy_seconds(3, CostPlan(energy_seconds=10.0)) == 3 * 5 * 15.0


def report(**costs):
    """A report whose candidates have these costs and no others; the reference has none."""
    made = full_report()
    nothing = EngineCosts(DeviceMemory(None))
    template = made.candidates[0]
    return replace(
        made,
        reference=replace(made.reference, costs=nothing),
        candidates=tuple(
            replace(template, name=name, costs=replace(nothing, **of_engine))
            for name, of_engine in costs.items()
        ),
        trtexec=(),
    )


def rows_of(report, key):
    (table,) = (t for t in cost_tables(report) if t.key == key)
    assert all(len(row) == len(table.heads) for row in table.rows)
    return [[line(cell) for cell in row] for row in table.rows], table.notes


def test_nothing_measured_gives_no_table():
    assert cost_tables(report(a={})) == []


def test_a_ratio_of_times_is_told_as_a_speed():
    sure = SpeedTest(Interval(0.5, 0.4, 0.8), 0.01, 9, "faster")
    unsure = SpeedTest(Interval(0.5, -math.inf, math.inf), 0.01, 5, None)
    speed = (Speed(1, "torch", sure), Speed(8, "torch", unsure))
    rows, _ = rows_of(report(a={"speed": speed}), "speed")
    assert rows == [
        ["a", "1", "torch", "faster", "2.00× [1.25, 2.50]"],
        ["a", "8", "torch", "too few rounds", "2.00×"],
    ]


def test_device_times_are_told_of_engines_that_have_them():
    plain = summarise(np.full(10, 4.0), 8, 16)
    device = DeviceTime(0.1, 2.0, 0.2, None, 2.3, 0.0)
    timed = replace(plain, device=device)
    rows, _ = rows_of(
        report(a={"latency_by_batch": (timed,)}, b={"latency_by_batch": (plain,)}), "device"
    )
    assert rows == [["a", "8", "0.100", "2.00", "0.200", "–", "4.00"]]


def test_energy_says_what_was_measured_and_why_it_was_not():
    result = EnergyResult(
        source="rapl: package-0",
        covers="the processor",
        batch=1,
        windows=5,
        faces=10,
        gross_j_per_face=Interval.about(0.2, 0.01),
        net_j_per_face=Interval.about(-0.1, 0.2),
        gross_mj_per_patch=Interval.about(2.0, math.inf),
        net_mj_per_patch=Interval.about(-1.0, math.inf),
        load_w=Interval.about(20.0, math.inf),
        idle_w=Interval.about(10.0, math.inf),
    )
    missing = {"unavailable": {"energy": "no rails"}}
    rows, notes = rows_of(report(a={"energy": result}, b=missing, c=missing), "energy")
    assert rows == [
        ["a", "0.200 [0.190, 0.210]", "−0.100 [−0.300, 0.100]", "−1.00", "20.0", "10.0"]
    ]
    assert notes == (
        "measured by rapl: package-0: the processor; batch 1",
        "energy of b, c unavailable: no rails",
    )


def test_times_of_trtexec_are_shown_beside_ours(tmp_path):
    times = [
        {
            "startComputeMs": 300 + i,
            "h2dMs": 0.1,
            "computeMs": 1.0 + i % 2,
            "d2hMs": 0.1,
            "latencyMs": 1.2 + i % 2,
        }
        for i in range(10)
    ]
    path = tmp_path / "plan=a.json"
    path.write_text(json.dumps(times))
    row = read_trtexec(path)
    assert (row.name, row.iterations, row.enqueue) == ("plan=a", 10, None)
    assert row.latency.mean_ms == pytest.approx(1.7)
    shown = replace(report(), trtexec=(read_trtexec(path, "mine"),))
    rows, (note,) = rows_of(shown, "trtexec")
    assert rows == [["mine", "trtexec", "1.20", "1.70", "1.70", "2.20", "2.20", "2.20"]]
    assert note.startswith("mine was measured by trtexec (10 inferences in ")
    assert "AUC cannot be compared" in note


def test_what_is_no_file_of_times_is_refused():
    with pytest.raises(LpxError, match="cannot be read"):
        read_trtexec(Path("nowhere.json"))
