"""What engines cost, and how it is told: costs.py, cost_tables.py, and the report of both."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lpx.bench.performance import costs, energy, latency
from lpx.bench.performance.candidate import Candidate
from lpx.bench.performance.costs import CostPlan, judge_speed, measure_costs
from lpx.bench.performance.latency import Samples
from lpx.bench.performance.trtexec_metrics import read_trtexec
from lpx.bench.report.cost_tables import cost_tables, line
from lpx.card import ModelCard
from lpx.engines.base import ON_THE_CPU
from lpx.errors import LpxError
from lpx.machine.energy_sources import Unavailable

CARD = ModelCard("net", "cut", "mean_prob", 8, grid=(2, 2))
PLAN = CostPlan(batches=(1, 4), latency_seconds=0.02)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(latency, "WARM_UP_SECONDS", 0)
    monkeypatch.setattr(latency, "BLOCK_SECONDS", 0.003)
    monkeypatch.setattr(latency, "MIN_ITERATIONS", 8)
    monkeypatch.setattr(costs, "SECONDS", 0.02)


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
    return Candidate(manifest, engine, opened or (lambda cuda_graph: nullcontext(engine)))


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
    found = measured({"torch": Spinning(2), "a-fp32": Spinning(1)}, timing=told.append)
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
        name: [(s.batch, s.against, s.found.verdict) for s in speeds]
        for name, speeds in found.items()
    }
    assert said == {
        "a-fp32": [(1, "torch", "faster"), (1, "a-fp16", "slower")],
        "a-fp16": [(1, "torch", "faster")],
        "a-int8": [(1, "torch", "faster"), (1, "a-fp16", "slower")],
    }
    assert found["a-int8"][1].found.ratio == pytest.approx(1.5)


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
    assert found["a-int8"][0].found.ratio == 0.5
    assert found["a-int8"][1].found.verdict == "inconclusive"


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


def test_engines_are_opened_anew_for_threads_and_for_trtexec():
    """Those in flight keep CUDA graphs; trtexec 10 uses none."""
    opened = []
    engine = Spinning(0.5)

    def another(cuda_graph):
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

    def refused(cuda_graph):
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


def test_energy_is_measured_where_there_is_a_source(monkeypatch):
    monkeypatch.setattr(energy, "WINDOWS", 2)
    plan = CostPlan((1,), latency_seconds=0, energy_seconds=0.02)
    told = []
    found = measured(
        {"torch": Spinning(1), "a-fp32": Spinning(1), "a-int8": Spinning(1, 1)},
        plan,
        {"torch": Unavailable("no rails"), "a-fp32": Steady(), "a-int8": Steady()},
        energy=told.append,
    )
    assert found.energy["torch"] == Unavailable("no rails")
    assert found.energy["a-fp32"].gross_j_per_face.mean > 0
    assert "a-int8" not in found.energy
    assert [(f.name, f.during) for f in found.failed] == [("a-int8", "measuring energy")]
    assert found.conditions is None
    assert told[-1] == 1.0


def test_how_long_energy_takes():
    assert costs.energy_seconds(3, 10.0) == 3 * energy.WINDOWS * 15.0


def entry(name, **found):
    kinds = ("throughput", "like_trtexec", "single_patch", "energy")
    return {"name": name, "speed": [], "latency_by_batch": [], **dict.fromkeys(kinds), **found}


def report(*candidates, trtexec=()):
    return {
        "reference": entry("torch"),
        "candidates": list(candidates),
        "trtexec": list(trtexec),
        "model": {"grid": [4, 4]},
    }


def rows_of(values, key):
    (table,) = (t for t in cost_tables(values) if t.key == key)
    assert all(len(row) == len(table.heads) for row in table.rows)
    return [[line(cell) for cell in row] for row in table.rows], table.notes


def test_nothing_measured_gives_no_table():
    assert cost_tables(report(entry("a"))) == []


def test_a_ratio_of_times_is_told_as_a_speed():
    speed = {
        "batch": 1,
        "against": "torch",
        "ratio": 0.5,
        "low": 0.4,
        "high": 0.8,
        "p_value": 0.01,
        "rounds": 9,
        "verdict": "faster",
    }
    unsure = speed | {"batch": 8, "low": None, "high": None, "verdict": None}
    rows, _ = rows_of(report(entry("a", speed=[speed, unsure])), "speed")
    assert rows == [
        ["a", "1", "torch", "faster", "2.00× [1.25, 2.50]"],
        ["a", "8", "torch", "too few rounds", "2.00×"],
    ]


def test_device_times_are_told_of_engines_that_have_them():
    device = {"h2d_ms": 0.1, "compute_ms": 2.0, "d2h_ms": 0.2, "enqueue_ms": None}
    timed = {"batch": 8, "per_face_p50_ms": 0.5, "device": device}
    plain = timed | {"device": None}
    rows, _ = rows_of(
        report(entry("a", latency_by_batch=[timed]), entry("b", latency_by_batch=[plain])), "device"
    )
    assert rows == [["a", "8", "0.100", "2.00", "0.200", "–", "4.00"]]


def test_energy_says_what_was_measured_and_why_it_was_not():
    def estimate(mean, half=None):
        low, high = (None, None) if half is None else (mean - half, mean + half)
        return {"mean": mean, "low": low, "high": high}

    found = {
        "source": "rapl: package-0",
        "covers": "the processor",
        "batch": 1,
        "windows": 5,
        "faces": 10,
        "gross_j_per_face": estimate(0.2, 0.01),
        "net_j_per_face": estimate(-0.1, 0.2),
        "gross_mj_per_patch": estimate(2.0),
        "net_mj_per_patch": estimate(-1.0),
        "load_w": estimate(20.0),
        "idle_w": estimate(10.0),
    }
    missing = {"unavailable": "no rails"}
    rows, notes = rows_of(
        report(entry("a", energy=found), entry("b", energy=missing), entry("c", energy=missing)),
        "energy",
    )
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
    rows, (note,) = rows_of(report(trtexec=[asdict(read_trtexec(path, "mine"))]), "trtexec")
    assert rows == [["mine", "trtexec", "1.20", "1.70", "1.70", "2.20", "2.20", "2.20"]]
    assert note.startswith("mine is as measured by trtexec (10 inferences in ")
    assert "AUC cannot be compared" in note


def test_what_is_no_file_of_times_is_refused():
    with pytest.raises(LpxError, match="cannot be read"):
        read_trtexec(Path("nowhere.json"))
