"""Tables of costs: speed tests, time on the device, throughput, single patch, energy, trtexec."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lpx.bench.performance.trtexec_metrics import TimeStatistics
from lpx.bench.report.document.report import Report
from lpx.bench.report.engine_table import Cell
from lpx.bench.report.sentences import has_map, significant
from lpx.metrics import Interval


@dataclass(frozen=True)
class CostTable:
    """A table, for page, pull request and terminal alike.

    Attributes:
        key: Id in the page.
        title: Heading.
        lead: Explanation of how to read it.
        heads: Titles of the columns, with units.
        names: Number of columns, the first ones, that hold words.
        rows: A cell for each column.
        notes: What is missing from the rows, and why.
    """

    key: str
    title: str
    lead: str
    heads: tuple[str, ...]
    names: int
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def cost_tables(report: Report) -> list[CostTable]:
    """Return the tables of the costs that were measured, or could not be."""
    tables = [
        _speed(report),
        _device(report),
        _throughput(report),
        _single_patch(report),
        _energy(report),
        _trtexec(report),
    ]
    return [table for table in tables if table.rows or table.notes]


def line(cell: Cell) -> str:
    """Write a cell in one line."""
    return f"{cell.text} {cell.detail}".strip()


def _speed(report: Report) -> CostTable:
    rows = []
    for candidate in report.candidates:
        for speed in candidate.costs.speed:
            row = (
                _word(candidate.name),
                _number(speed.batch, str),
                _word(speed.against),
                _word(speed.test.verdict or "too few rounds"),
                _inverse(speed.test.ratio),
            )
            rows.append(row)
    return CostTable(
        "speed",
        "Which engine is faster",
        "Times as fast as another engine: the time of the other over the engine's own, paired over "
        "the rounds in which all took turns, with a 95 % interval. If the interval includes 1, "
        "the comparison is inconclusive; an interval needs six rounds. Engines are compared "
        "with PyTorch, and with the fastest of FP32 and FP16.",
        ("engine", "batch", "against", "verdict", "times as fast [95 %]"),
        4,
        tuple(rows),
    )


def _inverse(ratio: Interval) -> Cell:
    """Return a ratio of times as a ratio of speeds, whose ends change places."""
    factor = 1 / ratio.estimate
    detail = ""
    if math.isfinite(ratio.low) and math.isfinite(ratio.high):
        detail = f"[{significant(1 / ratio.high)}, {significant(1 / ratio.low)}]"
    return Cell(f"{significant(factor)}×", detail, factor)


def _device(report: Report) -> CostTable:
    rows = []
    for entry in report.entries:
        for timed in entry.costs.latency_by_batch:
            if timed.device is None:
                continue
            row = (
                _word(entry.name),
                _number(timed.batch, str),
                _number(timed.device.h2d_ms),
                _number(timed.device.compute_ms),
                _number(timed.device.d2h_ms),
                _number(timed.device.enqueue_ms),
                _number(timed.per_face_ms.p50.estimate * timed.batch),
            )
            rows.append(row)
    return CostTable(
        "device",
        "Time of a call by part",
        "Medians, ms per call. Copies and compute by the device's clock; enqueuing the work is "
        "time of the host.",
        ("engine", "batch", "copy in", "compute", "copy out", "enqueue", "call"),
        1,
        tuple(rows),
    )


def _throughput(report: Report) -> CostTable:
    rows = []
    for entry in report.entries:
        if result := entry.costs.throughput:
            row = (
                _word(entry.name),
                _number(result.batch, str),
                _number(result.in_flight, str),
                _number(result.faces_per_second),
            )
            rows.append(row)
    return CostTable(
        "throughput",
        "Throughput",
        "Faces scored per second by several threads, each with a batch at work.",
        ("engine", "batch", "in flight", "faces/s"),
        1,
        tuple(rows),
        _missing(report, "throughput", "throughput"),
    )


def _single_patch(report: Report) -> CostTable:
    if not has_map(report):
        return CostTable("single-patch", "One patch alone", "", (), 1, ())
    rows = []
    for entry in report.entries:
        if cost := entry.costs.single_patch:
            low, high = map(_end, (cost.p50_us.low, cost.p50_us.high))
            row = (
                _word(entry.name),
                _word(f"{cost.size_px} px"),
                _word("×".join(map(str, cost.grid))),
                Cell(significant(cost.p50_us.estimate), f"[{low}, {high}]", cost.p50_us.estimate),
            )
            rows.append(row)
    return CostTable(
        "single-patch",
        "One patch alone",
        "Time of a call that scores one crop of the size of the receptive field, in ONNX Runtime. "
        "If the network pads, more than one patch is computed.",
        ("engine", "crop", "patches", "µs [95 %]"),
        3,
        tuple(rows),
        _missing(report, "single_patch", "time of one patch alone"),
    )


def _energy(report: Report) -> CostTable:
    patches = has_map(report)
    heads = ["engine", "J/face [95 %]", "net [95 %]", "W", "idle W"]
    if patches:
        heads.insert(3, "net mJ/patch")
    rows = []
    sources = []
    for entry in report.entries:
        if result := entry.costs.energy:
            row = [
                _word(entry.name),
                _mean(result.gross_j_per_face),
                _mean(result.net_j_per_face),
                _number(result.load_w.estimate),
                _number(result.idle_w.estimate),
            ]
            if patches:
                patch = result.net_mj_per_patch.estimate
                row.insert(3, Cell(_signed(patch), value=patch))
            rows.append(tuple(row))
            sources.append(f"measured by {result.source}: {result.covers}; batch {result.batch}")
    return CostTable(
        "energy",
        "Energy",
        "Gross is all energy that was drawn while the engine ran; net leaves out what the idle "
        "machine drew before. 95 % intervals over windows.",
        tuple(heads),
        1,
        tuple(rows),
        (*dict.fromkeys(sources), *_missing(report, "energy", "energy")),
    )


def _trtexec(report: Report) -> CostTable:
    rows = []
    notes = []
    for entry in report.entries:
        if metrics := entry.costs.like_trtexec:
            measured_by = _word(f"lpx, as release {metrics.release}")
            rows.append((_word(entry.name), measured_by, *_statistics(metrics.latency)))
            notes += [(entry.name, note) for note in metrics.notes]
    imported = []
    for row in report.trtexec:
        rows.append((_word(row.name), _word("trtexec"), *_statistics(row.latency)))
        imported.append(
            f"{row.name} was measured by trtexec ({row.iterations:,} inferences in {row.file}): "
            "the file holds no scores, so AUC cannot be compared, and does not name the batch size"
        )
    return CostTable(
        "trtexec",
        "Latency in trtexec's terms",
        "ms per inference of a batch: copies and compute in releases up to 10, compute alone from "
        "11 on.",
        ("engine", "measured by", "min", "mean", "median", "p90", "p95", "p99"),
        2,
        tuple(rows),
        (
            *_missing(report, "like_trtexec", "latency in trtexec's terms"),
            *(f"{names}: {note}" for names, note in _grouped(notes)),
            *imported,
        ),
    )


def _missing(report: Report, kind: str, what: str) -> tuple[str, ...]:
    """Return the reasons why a cost was not measured."""
    asked = [entry for entry in report.entries if kind in entry.costs.unavailable]
    reasons = [(entry.name, entry.costs.unavailable[kind]) for entry in asked]
    return tuple(f"{what} of {names} unavailable: {why}" for names, why in _grouped(reasons))


def _grouped(texts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Join the names of the engines to which the same text applies."""
    names: dict[str, list[str]] = {}
    for name, text in texts:
        names.setdefault(text, []).append(name)
    return [(", ".join(engines), text) for text, engines in names.items()]


def _word(text: str) -> Cell:
    return Cell(text, value=text)


def _number(value: float | None, written: Callable[[Any], str] = significant) -> Cell:
    return Cell() if value is None else Cell(written(value), value=value)


def _end(value: float) -> str:
    return significant(value) if math.isfinite(value) else "–"


def _mean(interval: Interval) -> Cell:
    text = _signed(interval.estimate)
    # A single window has no interval.
    if not math.isfinite(interval.low):
        return Cell(text, value=interval.estimate)
    ends = f"[{_signed(interval.low)}, {_signed(interval.high)}]"
    return Cell(text, ends, interval.estimate)


def _signed(value: float) -> str:
    """Write a number that may be below 0, as net energy on a noisy machine."""
    return significant(value) if value >= 0 else f"−{significant(-value)}"


def _statistics(times: TimeStatistics) -> tuple[Cell, ...]:
    shown = (
        times.min_ms,
        times.mean_ms,
        times.median_ms,
        times.p90_ms,
        times.p95_ms,
        times.p99_ms,
    )
    return tuple(map(_number, shown))
