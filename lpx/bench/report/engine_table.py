"""The report's table of engines: a row for each, a cell for each of its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lpx.bench.parity.parity import VERDICTS
from lpx.bench.report.sentences import auc, entries, has_map, signed, significant
from lpx.engines.manifest import PRECISIONS, percent


@dataclass(frozen=True)
class Column:
    """A column of the engines' table.

    Attributes:
        key: Sorts by it: `#sort=key`.
        title: Its header; it may break into lines at spaces, though not at no-break spaces.
        note: Below the header: unit, or what the cell's second line is; likewise.
        numeric: Aligned right.
    """

    key: str
    title: str
    note: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell of the engines' table.

    Attributes:
        text: What it says.
        detail: Its second line.
        value: What it sorts by; None comes last in either direction.
    """

    text: str = "–"
    detail: str = ""
    value: float | str | None = None


def columns(report: Mapping[str, Any]) -> list[Column]:
    """The columns: those of latency only where it was measured."""
    found = [
        Column("engine", "Engine", numeric=False),
        Column("precision", "Precision", _share_note(report), numeric=False),
        Column("verdict", "Parity", numeric=False),
        Column("auc", "AUC", _unbroken("95 % interval")),
        Column("difference", _unbroken("Δ AUC"), _unbroken("95 % interval")),
        Column("score_max", "Max |Δ|", "score, p99"),
        Column("flips", "Flips", "to fake, real"),
    ]
    if has_map(report):
        found.append(Column("maps", "Map corr.", _unbroken("mean |Δ|")))
    batches = sorted({r["batch"] for e in entries(report) for r in e["latency_by_batch"]})
    found += [Column(f"batch{b}", _unbroken(f"Batch {b}"), "ms/face, p99") for b in batches]
    if batches:
        lines = _unbroken(f"batch {', '.join(map(str, batches))}")
        if has_map(report):
            found.append(Column("patch", "Patch", f"µs, {lines}"))
        found += [
            Column("over_torch", "vs torch", lines),
            Column("over_float", "vs float", lines),
        ]
    return found


def _unbroken(text: str) -> str:
    """The text with spaces that do not break."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def rows(report: Mapping[str, Any]) -> list[dict[str, Cell]]:
    """A row for each engine, the reference first: the cells it has, by their column's key."""
    return [_row(entry, report) for entry in entries(report)]


def _row(entry: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Cell]:
    interval = entry["auc_interval"]
    row = {
        "engine": Cell(entry["name"], value=entry["name"]),
        "precision": Cell(
            entry["precision"].upper(), _in_integers(entry), PRECISIONS.index(entry["precision"])
        ),
        "verdict": Cell("reference", value=-1),
        "auc": Cell(
            auc(entry["auc"]), f"[{auc(interval['low'])}, {auc(interval['high'])}]", entry["auc"]
        ),
    }
    row |= _parity_cells(entry, report["margin"]) if "verdict" in entry else {}
    return row | _latency_cells(entry)


def _share_note(report: Mapping[str, Any]) -> str:
    return "done in integers" if any(_in_integers(entry) for entry in entries(report)) else ""


def _in_integers(entry: Mapping[str, Any]) -> str:
    """How much of its work an INT8 engine does in integers, where that is known."""
    share = entry.get("int8_share")
    return "" if share is None else percent(share)


def _parity_cells(entry: Mapping[str, Any], margin: float) -> dict[str, Cell]:
    found, scores, maps = entry["auc_difference"], entry["score_difference"], entry["patch_map"]
    ends = ", ".join(signed(found[end], margin) for end in ("low", "high"))
    to_fake, to_real = entry["flips_real_to_fake"], entry["flips_fake_to_real"]
    return {
        "verdict": Cell(entry["verdict"], value=VERDICTS.index(entry["verdict"])),
        "difference": Cell(signed(found["estimate"], margin), f"[{ends}]", found["estimate"]),
        "score_max": Cell(significant(scores["max"]), significant(scores["p99"]), scores["max"]),
        "flips": Cell(
            str(entry["flips"]),
            f"{to_fake}, {to_real}",
            entry["flips"],
        ),
        "maps": Cell(
            f"{maps['rank_correlation']:.4f}",
            significant(maps["mean_abs_difference"]),
            maps["rank_correlation"],
        ),
    }


def _latency_cells(entry: Mapping[str, Any]) -> dict[str, Cell]:
    measured = entry["latency_by_batch"]
    if not measured:
        return {}
    cells = {
        f"batch{row['batch']}": Cell(
            significant(row["per_face_p50_ms"]),
            significant(row["per_face_p99_ms"]),
            row["per_face_p50_ms"],
        )
        for row in measured
    }
    patches = [row["per_patch_p50_us"] for row in measured]
    cells["patch"] = Cell(
        significant(patches[0]), ", ".join(map(significant, patches[1:])), patches[0]
    )
    for key, speeds in (
        ("over_torch", [f for f in entry["speed"] if f["against"] == "torch"]),
        ("over_float", [f for f in entry["speed"] if f["against"] != "torch"]),
    ):
        if speeds:
            cells[key] = _speed_up(speeds)
    return cells


def _speed_up(speeds: list[dict[str, Any]]) -> Cell:
    texts = [f"{significant(1 / found['ratio'])}×" for found in speeds]
    return Cell(texts[0], ", ".join(texts[1:]), 1 / speeds[0]["ratio"])
