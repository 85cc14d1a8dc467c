"""What became worse from one report to another of the same faces."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lpx.bench.parity.parity import VERDICTS
from lpx.bench.report.document import SCHEMA
from lpx.bench.report.sentences import entries
from lpx.engines.tensorrt_options import MAX_BATCH
from lpx.errors import LpxError
from lpx.metrics import Verdict
from lpx.schema import MAX_INTEGER, SchemaError, in_range, read_record
from lpx.workspace import read_json

SLOWER = 0.05
"""Share by which a median may grow: two runs on one machine differ by as much."""
MORE_ENERGY = 0.05
"""Share by which energy may grow."""
REMAKE = "lpx bench --dataset NAME"

Kind = Literal["verdict", "auc", "latency", "energy", "engine"]

_ENERGIES = {"gross": "gross_j_per_face", "net": "net_j_per_face"}


# What is read of a report; it holds more. `read_report` hands on the values as they are.


@dataclass(frozen=True)
class _Intervals:
    p50: tuple[float | None, float | None]


@dataclass(frozen=True)
class _Latency:
    batch: int
    per_face_p50_ms: float
    intervals_ms: _Intervals


@dataclass(frozen=True)
class _Estimate:
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class _Energy:
    unavailable: str | None = None
    batch: int | None = None
    source: str | None = None
    gross_j_per_face: _Estimate | None = None
    net_j_per_face: _Estimate | None = None


@dataclass(frozen=True)
class _Discrimination:
    direction: str


@dataclass(frozen=True)
class _Reference:
    name: str
    auc: float | None
    latency_by_batch: tuple[_Latency, ...]
    discrimination: _Discrimination


@dataclass(frozen=True)
class _Candidate:
    name: str
    auc: float | None
    verdict: Verdict
    latency_by_batch: tuple[_Latency, ...]
    energy: _Energy | None


@dataclass(frozen=True)
class _Lost:
    name: str
    reason: str


@dataclass(frozen=True)
class _Dataset:
    name: str
    split: str
    digest: str


@dataclass(frozen=True)
class _Model:
    weights_sha256: str


@dataclass(frozen=True)
class _Report:
    reference: _Reference
    candidates: tuple[_Candidate, ...]
    failed: tuple[_Lost, ...]
    not_run: tuple[_Lost, ...]
    margin: float
    dataset: _Dataset
    faces: int
    environment: dict[str, Any]
    model: _Model


@dataclass(frozen=True)
class Change:
    """One figure of one engine, before and after.

    Attributes:
        engine: Its name.
        kind: What the figure is.
        figure: Its name for a reader, with its unit.
        before: None where the engine or the figure was not there.
        after: None where it is not there any more.
        regression: It became worse by more than is tolerated.
        note: Why it is (not) one, or "".
        unjudged: Nothing can be said of it, since a value is not known.
    """

    engine: str
    kind: Kind
    figure: str
    before: float | str | None
    after: float | str | None
    regression: bool
    note: str = ""
    unjudged: bool = False


@dataclass(frozen=True)
class Comparison:
    """Two reports side by side.

    Attributes:
        environment: What differs in machine, power mode and versions: (what, before, after).
        same_machine: Latencies and energies may be compared.
        changes: Per engine and figure.
    """

    environment: tuple[tuple[str, str, str], ...]
    same_machine: bool
    changes: tuple[Change, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The changes for the worse."""
        return tuple(change for change in self.changes if change.regression)

    @property
    def unjudged(self) -> tuple[Change, ...]:
        """The figures that do not tell whether they became worse."""
        return tuple(change for change in self.changes if change.unjudged)


def read_report(path: Path) -> dict[str, Any]:
    """Read `report.json`, or that of a workspace.

    Args:
        path: The file, or the folder that holds it.

    Raises:
        LpxError: It is missing, damaged, no report, or one of another version of lpx.
    """
    if path.is_dir():
        path /= "report.json"
    report = read_json(path, REMAKE)
    found = report.get("schema")
    if found == SCHEMA:
        try:
            _check(read_record(_Report, report, others=True))
        except SchemaError as error:
            raise LpxError(
                f"{path} is damaged or was edited", str(error), f"make it again with `{REMAKE}`"
            ) from error
        return report
    if isinstance(found, str) and found.startswith("lpx-report/"):
        raise LpxError(
            f"{path} is a report of another version, {found}",
            f"this lpx reads {SCHEMA}",
            f"make it again with this version: `{REMAKE}`",
        )
    raise LpxError(
        f"{path} is not a report of lpx bench",
        f"a report names its schema, {SCHEMA}",
        f"make one with `{REMAKE}`",
    )


def _check(report: _Report) -> None:
    """Refuse figures that no bench writes.

    Raises:
        SchemaError: An AUC or a margin is not in [0, 1], or a count, a time or an energy is
            impossible, or two engines share a name.
    """
    every: tuple[_Reference | _Candidate, ...] = (report.reference, *report.candidates)
    for entry in every:
        in_range(entry.auc, 0, 1, f"the AUC of {entry.name}")
        for row in entry.latency_by_batch:
            in_range(row.batch, 1, MAX_BATCH, f"a batch of {entry.name}")
            for ms in (row.per_face_p50_ms, *row.intervals_ms.p50):
                in_range(ms, 0, math.inf, f"a latency of {entry.name}")
    if len({entry.name for entry in every}) < len(every):
        raise SchemaError("two engines have the same name")
    in_range(report.margin, 0, 1, "margin")
    in_range(report.faces, 1, MAX_INTEGER, "faces")
    for candidate in report.candidates:
        energy = candidate.energy
        if energy is not None and energy.unavailable is None:
            lacking = [name for name, value in vars(energy).items() if value is None]
            if lacking != ["unavailable"]:
                raise SchemaError(f"the energy of {candidate.name} lacks {', '.join(lacking[1:])}")


def compare_reports(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    slower: float = SLOWER,
    more_energy: float = MORE_ENERGY,
) -> Comparison:
    """Compare two reports.

    Args:
        before: The report to compare with, as `read_report` gives it.
        after: The new one.
        slower: Share by which a median latency may grow before it is a regression.
        more_energy: Share by which the energy of a face may, gross or net.

    Raises:
        LpxError: They are of different faces, so that AUCs cannot be compared.
    """
    _check_same_faces(before, after)
    environment, same_machine = _environment(before, after)
    old, new = ({e["name"]: e for e in entries(report)} for report in (before, after))
    broken = {row["name"]: f"failed: {row['reason']}" for row in after["failed"]}
    broken |= {row["name"]: f"not run: {row['reason']}" for row in after["not_run"]}
    reversed_ = before["reference"]["discrimination"]["direction"] == "real higher"
    changes: list[Change] = []
    for name in dict.fromkeys((*old, *new)):
        if name in broken and name in old:
            changes.append(Change(name, "engine", "engine", "ran", None, True, broken[name]))
        elif name not in new:
            changes.append(
                Change(name, "engine", "engine", "ran", None, True, "it is not measured any more")
            )
        elif name not in old:
            changes.append(Change(name, "engine", "engine", None, "ran", False, "it is new"))
        if name in old and name in new:
            changes += _figures(
                old[name], new[name], after["margin"], slower, same_machine, reversed_
            )
            if "verdict" in new[name]:
                changes += _energies(old[name], new[name], more_energy, same_machine)
    return Comparison(tuple(environment), same_machine, tuple(changes))


def _figures(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    margin: float,
    slower: float,
    judged: bool,
    reversed_: bool,
) -> Iterator[Change]:
    """Verdict, AUC and latency of an engine.

    Args:
        old: Its entry in the report before.
        new: Its entry in the report after.
        margin: AUC that may be lost.
        slower: Share by which a median may grow.
        judged: Latencies may be compared.
        reversed_: The reference scores real faces higher, so that a higher AUC is a loss.
    """
    name = new["name"]
    if "verdict" in old and "verdict" in new:
        worse = VERDICTS.index(new["verdict"]) > VERDICTS.index(old["verdict"])
        yield Change(name, "verdict", "AUC parity", old["verdict"], new["verdict"], worse)
    yield _auc(name, old["auc"], new["auc"], margin, reversed_)
    if "verdict" not in new:
        return  # how fast PyTorch is says nothing of the engines
    rows = {row["batch"]: row for row in old["latency_by_batch"]}
    for row in new["latency_by_batch"]:
        if row["batch"] in rows:
            yield _latency(name, rows[row["batch"]], row, slower, judged)


def _auc(name: str, old: float | None, new: float | None, margin: float, reversed_: bool) -> Change:
    if old is None or new is None:
        note = f"not judged: it is not known {'now' if new is None else 'before'}"
        return Change(name, "auc", "AUC", old, new, False, note, unjudged=True)
    lost = new - old if reversed_ else old - new
    note = f"lost more than the margin of {margin:g}" if lost > margin else ""
    return Change(name, "auc", "AUC", old, new, lost > margin, note)


def _latency(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], slower: float, judged: bool
) -> Change:
    """A median; worse where it grew by more than `slower` and its interval moved too."""
    before, after = old["per_face_p50_ms"], new["per_face_p50_ms"]
    apart = _low(new) > _high(old)
    worse = apart and after > before * (1 + slower)
    note = ""
    if worse:
        note = f"{after / before:.2f} times as long" if before > 0 else "longer"
    if worse and not judged:
        note += ", not judged: another machine or power mode"
    figure = f"ms per face, batch {new['batch']}"
    return Change(name, "latency", figure, before, after, worse and judged, note)


def _energies(
    old: Mapping[str, Any], new: Mapping[str, Any], more: float, judged: bool
) -> Iterator[Change]:
    """Energy of a face, gross and net of what the idle machine draws."""
    name, before, after = new["name"], old["energy"], new["energy"]
    if not (_measured(before) or _measured(after)):
        return
    if not (_measured(before) and _measured(after)):
        lacking, when = (before, "before") if _measured(after) else (after, "now")
        why = f"unavailable {when}: {lacking['unavailable']}" if lacking else f"not measured {when}"
        values = _gross(before), _gross(after)
        yield Change(name, "energy", "J per face, gross", *values, False, f"not judged: {why}")
        return
    other = [
        f"{what} was {before[key]}, is {after[key]}"
        for key, what in (("batch", "batch"), ("source", "what measured it"))
        if before[key] != after[key]
    ]
    if not judged:
        other.append("another machine or power mode")
    for kind, key in _ENERGIES.items():
        figure = f"J per face, {kind}, batch {after['batch']}"
        yield _energy(name, figure, before[key], after[key], more, other)


def _energy(
    name: str,
    figure: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    more: float,
    unlike: list[str],
) -> Change:
    """A mean over windows; worse where it grew by more than `more` and the intervals are apart."""
    before, after = old["mean"], new["mean"]
    # Net energy is a difference, and near 0 on a noisy machine: no ratio can be formed then.
    worse = _apart(old, new) and after - before > more * abs(before)
    note = ""
    if worse:
        note = f"{after / before:.2f} times as much" if before > 0 else "more"
    if unlike and worse:
        note += f", not judged: {'; '.join(unlike)}"
    return Change(name, "energy", figure, before, after, worse and not unlike, note)


def _apart(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """The new interval lies above the old one; a single window has none, and tells nothing."""
    return None not in (old["high"], new["low"]) and bool(new["low"] > old["high"])


def _measured(energy: Mapping[str, Any] | None) -> bool:
    return energy is not None and "unavailable" not in energy


def _gross(energy: Mapping[str, Any] | None) -> float | None:
    return energy["gross_j_per_face"]["mean"] if energy and _measured(energy) else None


def _low(row: Mapping[str, Any]) -> float:
    return _end(row, 0, -math.inf)


def _high(row: Mapping[str, Any]) -> float:
    return _end(row, 1, math.inf)


def _end(row: Mapping[str, Any], which: int, unknown: float) -> float:
    """An end of the median's interval; so few calls that they do not bound it tell nothing."""
    end = row["intervals_ms"]["p50"][which]
    return unknown if end is None else float(end)


def _check_same_faces(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    old, new = (
        (r["dataset"]["name"], r["dataset"]["split"], r["dataset"]["digest"], r["faces"])
        for r in (before, after)
    )
    # The folder may have another name on another machine; names and sizes of files tell.
    if old[1:] != new[1:]:
        raise LpxError(
            f"the reports are of different faces: {old[3]:,} of {old[0]} (split {old[1]}) and "
            f"{new[3]:,} of {new[0]} (split {new[1]})",
            "AUCs of different faces differ for that reason alone",
            "bench both on the same set, with the same --limit and --method",
        )


def _environment(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[list[tuple[str, str, str]], bool]:
    old, new = (_flat(report["environment"]) for report in (before, after))
    found = []
    for key in dict.fromkeys((*old, *new)):
        pair = old.get(key, "–"), new.get(key, "–")
        if pair[0] != pair[1]:
            found.append((key.replace("_", " "), *pair))
    weights = [r["model"]["weights_sha256"][:12] for r in (before, after)]
    if weights[0] != weights[1]:
        found.append(("model weights", *weights))
    found.sort(key=lambda row: not row[0].startswith("machine"))
    hardware = ("machine cpu", "machine cores", "machine gpus", "machine jetson", "machine arch")
    return found, not any(row[0].startswith(hardware) for row in found)


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Nested values by the words on the way to them."""
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list):
        parts = ((str(index), part) for index, part in enumerate(value))  # type: ignore[assignment]
    else:
        return {path: str(value)}
    found: dict[str, str] = {}
    for key, part in parts:
        found |= _flat(part, f"{path} {key}".strip())
    return found


def render_comparison(found: Comparison) -> str:
    """Render a comparison in Markdown, for a pull request."""
    from lpx.bench.report.markdown import table

    count = len(found.regressions)
    sign = "❌" if count else "❔" if found.unjudged else "✅"
    blocks = [f"## {sign} {summary(found)}"]
    if found.environment:
        warned = (
            ""
            if found.same_machine
            else "**The machine differs: latencies and energies are not judged.** "
        )
        blocks += [f"{warned}Environment:", table(("what", "before", "after"), found.environment)]
    rows = [
        [
            c.engine,
            c.figure,
            shown(c.before),
            shown(c.after),
            "❌" * c.regression + "❔" * c.unjudged,
            c.note,
        ]
        for c in found.changes
    ]
    blocks.append(table(("engine", "figure", "before", "after", "", "note"), rows, names=6))
    return "\n\n".join(blocks) + "\n"


def summary(found: Comparison) -> str:
    """How many regressions there are, and what cannot be judged."""
    count, unknown = len(found.regressions), len(found.unjudged)
    said = f"{count} regression{'s' * (count > 1)}" if count else "no regression"
    if not unknown:
        return said
    return (
        f"{said if count else 'no regression found'}, and {unknown} AUC{'s' * (unknown > 1)} "
        "cannot be judged"
    )


def shown(value: float | str | None) -> str:
    """A figure as a reader sees it."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.4g}"
