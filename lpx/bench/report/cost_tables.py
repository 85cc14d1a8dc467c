"""The report's tables of costs: who is faster, time on the device, throughput, energy, trtexec."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lpx.bench.report.engine_table import Cell
from lpx.bench.report.sentences import entries, has_map, significant

_SPREAD = ("min", "mean", "median", "p90", "p95", "p99")


@dataclass(frozen=True)
class CostTable:
    """A table, for page, pull request and terminal alike.

    Attributes:
        key: Its id.
        title: Its heading.
        lead: How to read it.
        heads: Titles of the columns, units in them.
        names: How many columns, the first, hold words.
        rows: A cell for each column.
        notes: What is not in the rows, and why.
    """

    key: str
    title: str
    lead: str
    heads: tuple[str, ...]
    names: int
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def cost_tables(report: Mapping[str, Any]) -> list[CostTable]:
    """The tables of what was measured.

    Args:
        report: What `lpx.bench.report.document.to_report` made.
    """
    made = (_speed, _device, _throughput, _single_patch, _energy, _trtexec)
    return [table for make in made if (table := make(report)).rows or table.notes]


def line(cell: Cell) -> str:
    """A cell in one line."""
    return f"{cell.text} {cell.detail}".strip()


def _speed(report: Mapping[str, Any]) -> CostTable:
    rows = [
        (
            _word(entry["name"]),
            _number(found["batch"], str),
            _word(found["against"]),
            _word(found["verdict"] or "too few rounds"),
            Cell(f"{significant(1 / found['ratio'])}×", *_interval_of_inverse(found)),
        )
        for entry in report["candidates"]
        for found in entry["speed"]
    ]
    return CostTable(
        "speed",
        "Which engine is faster",
        "Times as fast as another engine: the time of the other over the engine's own, paired over "
        "the rounds in which all took turns, with a 95 % interval. Where the interval includes 1 "
        "the comparison is inconclusive; it takes six rounds for an interval. Engines are compared "
        "with PyTorch, and with the fastest of FP32 and FP16.",
        ("engine", "batch", "against", "verdict", "times as fast [95 %]"),
        4,
        tuple(rows),
    )


def _interval_of_inverse(found: Mapping[str, Any]) -> tuple[str, float]:
    low, high = found["low"], found["high"]
    text = ""
    if low is not None and high is not None:
        text = f"[{significant(1 / high)}, {significant(1 / low)}]"
    return text, 1 / found["ratio"]


def _device(report: Mapping[str, Any]) -> CostTable:
    parts = ("h2d_ms", "compute_ms", "d2h_ms", "enqueue_ms")
    rows = [
        (
            _word(entry["name"]),
            _number(row["batch"], str),
            *(_number(row["device"][part]) for part in parts),
            _number(row["per_face_p50_ms"] * row["batch"]),
        )
        for entry in entries(report)
        for row in entry["latency_by_batch"]
        if row["device"]
    ]
    return CostTable(
        "device",
        "Where the time of a call goes",
        "Medians, ms per call. Copies and compute by the device's clock; to hand the work over is "
        "time of the host.",
        ("engine", "batch", "copy in", "compute", "copy out", "hand over", "call"),
        1,
        tuple(rows),
    )


def _throughput(report: Mapping[str, Any]) -> CostTable:
    rows = [
        (
            _word(name),
            _number(found["batch"], str),
            _number(found["in_flight"], str),
            _number(found["faces_per_second"]),
        )
        for name, found in _measured(report, "throughput")
    ]
    return CostTable(
        "throughput",
        "Throughput",
        "Faces scored in a second by several threads, each with a batch at work.",
        ("engine", "batch", "in flight", "faces/s"),
        1,
        tuple(rows),
        _missing(report, "throughput", "throughput"),
    )


def _single_patch(report: Mapping[str, Any]) -> CostTable:
    if not has_map(report):
        return CostTable("single-patch", "One patch alone", "", (), 1, ())
    rows = []
    for name, found in _measured(report, "single_patch"):
        low, high = ("–" if end is None else significant(end) for end in found["interval_us"])
        rows.append(
            (
                _word(name),
                _word(f"{found['size_px']} px"),
                _word("×".join(map(str, found["grid"]))),
                Cell(significant(found["p50_us"]), f"[{low}, {high}]", found["p50_us"]),
            )
        )
    return CostTable(
        "single-patch",
        "One patch alone",
        "Time of a call that scores one crop of the size of the receptive field, in ONNX Runtime. "
        "Where the network pads, more than one patch is computed.",
        ("engine", "crop", "patches", "µs [95 %]"),
        3,
        tuple(rows),
        _missing(report, "single_patch", "time of one patch alone"),
    )


def _energy(report: Mapping[str, Any]) -> CostTable:
    patches = has_map(report)
    heads = ["engine", "J/face [95 %]", "net [95 %]", "W", "idle W"]
    if patches:
        heads.insert(3, "net mJ/patch")
    rows = []
    for name, found in _measured(report, "energy"):
        row = [
            _word(name),
            _estimate(found["gross_j_per_face"]),
            _estimate(found["net_j_per_face"]),
            _number(found["load_w"]["mean"]),
            _number(found["idle_w"]["mean"]),
        ]
        if patches:
            patch = found["net_mj_per_patch"]["mean"]
            row.insert(3, Cell(_signed(patch), value=patch))
        rows.append(tuple(row))
    sources = dict.fromkeys(
        f"measured by {found['source']}: {found['covers']}; batch {found['batch']}"
        for _, found in _measured(report, "energy")
    )
    return CostTable(
        "energy",
        "Energy",
        "Gross is all that flowed while the engine ran, net is without what flowed before it, when "
        "the machine was idle. 95 % intervals over windows.",
        tuple(heads),
        1,
        tuple(rows),
        (*sources, *_missing(report, "energy", "energy")),
    )


def _trtexec(report: Mapping[str, Any]) -> CostTable:
    rows = [
        (_word(name), _word(f"lpx, as release {found['release']}"), *_spread(found["latency"]))
        for name, found in _measured(report, "like_trtexec")
    ]
    rows += [
        (_word(row["name"]), _word("trtexec"), *_spread(row["latency"]))
        for row in report["trtexec"]
    ]
    notes = list(_missing(report, "like_trtexec", "latency in trtexec's terms"))
    notes += [
        f"{names}: {note}"
        for names, note in _together(
            (name, note)
            for name, found in _measured(report, "like_trtexec")
            for note in found["notes"]
        )
    ]
    notes += [
        f"{row['name']} is as measured by trtexec ({row['iterations']:,} inferences in "
        f"{row['file']}): the file holds no scores, so that AUC cannot be compared, and does not "
        "say the batch size"
        for row in report["trtexec"]
    ]
    return CostTable(
        "trtexec",
        "Latency in trtexec's terms",
        "ms per inference of a batch: copies and compute in releases up to 10, compute alone from "
        "11 on.",
        ("engine", "measured by", *_SPREAD),
        2,
        tuple(rows),
        tuple(notes),
    )


def _measured(report: Mapping[str, Any], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The engines of which a cost was measured, and what was found."""
    for entry in entries(report):
        if entry[kind] is not None and "unavailable" not in entry[kind]:
            yield entry["name"], entry[kind]


def _missing(report: Mapping[str, Any], kind: str, what: str) -> tuple[str, ...]:
    """Why a cost was not measured."""
    return tuple(
        f"{what} of {names} unavailable: {why}"
        for names, why in _together(
            (entry["name"], entry[kind]["unavailable"])
            for entry in entries(report)
            if entry[kind] is not None and "unavailable" in entry[kind]
        )
    )


def _together(said: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """What is said of several engines, once: their names, and the text."""
    names: dict[str, list[str]] = {}
    for name, text in said:
        names.setdefault(text, []).append(name)
    for text, who in names.items():
        yield ", ".join(who), text


def _word(text: str) -> Cell:
    return Cell(text, value=text)


def _number(value: float | None, written: Callable[[Any], str] = significant) -> Cell:
    return Cell() if value is None else Cell(written(value), value=value)


def _estimate(found: Mapping[str, Any]) -> Cell:
    text = _signed(found["mean"])
    if found["low"] is None:
        return Cell(text, value=found["mean"])
    return Cell(text, f"[{_signed(found['low'])}, {_signed(found['high'])}]", found["mean"])


def _signed(value: float) -> str:
    """Net energy of a noisy machine may be below 0."""
    return significant(value) if value >= 0 else f"−{significant(-value)}"


def _spread(found: Mapping[str, float]) -> tuple[Cell, ...]:
    return tuple(_number(found[f"{name}_ms"]) for name in _SPREAD)
