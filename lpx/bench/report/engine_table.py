"""The table of engines: a row for each engine, a cell for each of its numbers."""

from __future__ import annotations

from dataclasses import dataclass

from lpx.bench.parity.parity import VERDICTS
from lpx.bench.performance.costs import Speed
from lpx.bench.performance.loaded_engine import REFERENCE
from lpx.bench.report.document.entries import Candidate, EngineCosts, Entry
from lpx.bench.report.document.report import Report
from lpx.bench.report.sentences import auc, bracketed, has_map, signed, significant
from lpx.engines.manifest import PRECISIONS, percent


@dataclass(frozen=True)
class Column:
    """A column of the table of engines.

    Attributes:
        key: Key to sort by: `#sort=key`.
        title: Header; it may break into lines at spaces, but not at no-break spaces.
        note: Line below the header: the unit, or the meaning of the cell's second line; breaks
            likewise.
        numeric: True if cells are right-aligned.
    """

    key: str
    title: str
    note: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: First line.
        detail: Second line.
        value: Value to sort by; None comes last in either direction.
    """

    text: str = "–"
    detail: str = ""
    value: float | str | None = None


def columns(report: Report) -> list[Column]:
    """Return the columns; those of latency only if it was measured."""
    shares = any(_in_integers(entry) for entry in report.entries)
    made = [
        Column("engine", "Engine", numeric=False),
        Column("precision", "Precision", "done in integers" if shares else "", numeric=False),
        Column("verdict", "Parity", numeric=False),
        Column("auc", "AUC", _unbroken("95 % interval")),
        Column("difference", _unbroken("Δ AUC"), _unbroken("95 % interval")),
        Column("score_max", "Max |Δ|", "score, p99"),
        Column("flips", "Flips", "to fake, real"),
    ]
    if has_map(report):
        made.append(Column("maps", "Map corr.", _unbroken("mean |Δ|")))
    return made + _latency_columns(report)


def _latency_columns(report: Report) -> list[Column]:
    batches = report.batches
    if not batches:
        return []
    made = [Column(f"batch{b}", _unbroken(f"Batch {b}"), "ms/face, p99") for b in batches]
    lines = _unbroken(f"batch {', '.join(map(str, batches))}")
    if has_map(report):
        made.append(Column("patch", "Patch", f"µs, {lines}"))
    made.append(Column("over_torch", "vs torch", lines))
    made.append(Column("over_float", "vs float", lines))
    return made


def _unbroken(text: str) -> str:
    """Replace spaces by no-break spaces."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def rows(report: Report) -> list[dict[str, Cell]]:
    """Return a row for each engine, the reference first: its cells by the key of their column."""
    return [_row(entry, report) for entry in report.entries]


def _row(entry: Entry, report: Report) -> dict[str, Cell]:
    interval = entry.auc_interval
    ends = f"[{auc(interval.low)}, {auc(interval.high)}]"
    place = PRECISIONS.index(entry.precision)
    row = {
        "engine": Cell(entry.name, value=entry.name),
        "precision": Cell(entry.precision.upper(), _in_integers(entry), place),
        # Sorts before every verdict.
        "verdict": Cell("reference", value=-1),
        "auc": Cell(auc(entry.auc), ends, entry.auc),
    }
    if isinstance(entry, Candidate):
        row |= _parity_cells(entry, report.margin)
    return row | _latency_cells(entry.costs)


def _in_integers(entry: Entry) -> str:
    """Write the share of its work that an INT8 engine does in integers; "" if it is unknown."""
    if not isinstance(entry, Candidate) or entry.engine.int8_share is None:
        return ""
    return percent(entry.engine.int8_share)


def _parity_cells(candidate: Candidate, margin: float) -> dict[str, Cell]:
    parity = candidate.parity
    difference, scores, maps = parity.auc_difference, parity.score_difference, parity.patch_map
    directions = f"{parity.flips.real_to_fake}, {parity.flips.fake_to_real}"
    return {
        "verdict": Cell(parity.verdict, value=VERDICTS.index(parity.verdict)),
        "difference": Cell(
            signed(difference.estimate, margin),
            bracketed(difference, margin),
            difference.estimate,
        ),
        "score_max": Cell(significant(scores.max), significant(scores.p99), scores.max),
        "flips": Cell(str(parity.flips.total), directions, parity.flips.total),
        "maps": Cell(
            f"{maps.rank_correlation:.4f}",
            significant(maps.mean_abs_difference),
            maps.rank_correlation,
        ),
    }


def _latency_cells(costs: EngineCosts) -> dict[str, Cell]:
    if not costs.latency_by_batch:
        return {}
    cells = {}
    for row in costs.latency_by_batch:
        p50, p99 = row.per_face_ms.p50.estimate, row.per_face_ms.p99.estimate
        cells[f"batch{row.batch}"] = Cell(significant(p50), significant(p99), p50)
    patches = [row.per_patch_p50_us for row in costs.latency_by_batch]
    others = ", ".join(map(significant, patches[1:]))
    # By rival: PyTorch, and the fastest float engine, which differs from report to report.
    over_torch, over_float = [], []
    for speed in costs.speed:
        if speed.against == REFERENCE:
            over_torch.append(speed)
        else:
            over_float.append(speed)
    cells |= {"patch": Cell(significant(patches[0]), others, patches[0])}
    if over_torch:
        cells |= {"over_torch": _speed_up(over_torch)}
    if over_float:
        cells |= {"over_float": _speed_up(over_float)}
    return cells


def _speed_up(speeds: list[Speed]) -> Cell:
    factors = [1 / speed.test.ratio.estimate for speed in speeds]
    texts = [f"{significant(factor)}×" for factor in factors]
    return Cell(texts[0], ", ".join(texts[1:]), factors[0])
