"""Regressions from one report to another of the same faces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lpx.arguments import check_number
from lpx.bench.parity.parity import VERDICTS
from lpx.bench.performance.energy import EnergyResult
from lpx.bench.performance.latency import LatencyResult
from lpx.bench.report.document.entries import Candidate, EngineCosts, Entry
from lpx.bench.report.document.report import Report, read_report
from lpx.data.wording import counted
from lpx.errors import LpxError
from lpx.metrics import Interval

# Two runs on one machine differ by as much.
SLOWER = 0.05
MORE_ENERGY = 0.05

Kind = Literal["verdict", "auc", "latency", "energy", "engine", "pixels"]


@dataclass(frozen=True)
class Change:
    """One figure of one engine, before and after.

    Attributes:
        engine: Name of the engine.
        kind: Kind of figure.
        figure: Name of the figure for a reader, with its unit.
        before: Value before; None if the engine or the figure did not exist.
        after: Value after; None if it no longer exists.
        regression: True if it became worse by more than is tolerated.
        note: Reason why it is (not) a regression, or "".
        unjudged: True if it cannot be judged because a value is not known.
    """

    engine: str
    kind: Kind
    figure: str
    before: float | str | None
    after: float | str | None
    regression: bool
    note: str = ""
    unjudged: bool = False


class EnvironmentChange(NamedTuple):
    """A difference in machine, power mode or versions."""

    what: str
    before: str
    after: str


@dataclass(frozen=True)
class ReportComparison:
    """Two reports side by side.

    Attributes:
        environment: Differences in machine, power mode and versions.
        same_machine: True if latencies and energies can be compared.
        changes: Figures of each engine.
    """

    environment: tuple[EnvironmentChange, ...]
    same_machine: bool
    changes: tuple[Change, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The changes for the worse."""
        return tuple(change for change in self.changes if change.regression)

    @property
    def unjudged(self) -> tuple[Change, ...]:
        """The changes that cannot be judged."""
        return tuple(change for change in self.changes if change.unjudged)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return {
            "regressions": len(self.regressions),
            "unjudged": len(self.unjudged),
            "environment": [list(change) for change in self.environment],
            "same_machine": self.same_machine,
            "changes": [asdict(change) for change in self.changes],
        }


@dataclass(frozen=True)
class _Tolerance:
    """What is tolerated.

    Attributes:
        slower: Share by which a median latency may grow.
        more_energy: Share by which the energy of a face may grow, gross or net.
        margin: AUC that may be lost.
        reversed: True if the reference scores real faces higher: a higher AUC is a loss then.
        same_machine: True if latencies and energies can be compared.
    """

    slower: float
    more_energy: float
    margin: float
    reversed: bool
    same_machine: bool


def compare(
    before: str | Path | Report,
    after: str | Path | Report,
    *,
    slower: float = SLOWER,
    more_energy: float = MORE_ENERGY,
) -> ReportComparison:
    """Compare two reports of the same faces.

    Args:
        before: Report to compare with: a report.json, a workspace, or a `Report`.
        after: New report, likewise.
        slower: Share by which a median latency may grow before it is a regression, >= 0.
        more_energy: Share by which the energy of a face, gross or net, may grow, >= 0.

    Raises:
        InvalidArgumentError: `slower` or `more_energy` is below 0.
        LpxError: A report cannot be read, or they are of different faces.
    """
    check_number("slower", slower, least=0)
    check_number("more_energy", more_energy, least=0)
    old = before if isinstance(before, Report) else read_report(before)
    new = after if isinstance(after, Report) else read_report(after)
    _check_same_faces(old, new)
    environment = _environment(old, new)
    tolerance = _Tolerance(
        slower=slower,
        more_energy=more_energy,
        margin=new.margin,
        reversed=old.reference.discrimination.direction == "real higher",
        same_machine=not any(_is_hardware(change) for change in environment),
    )
    return ReportComparison(
        environment, tolerance.same_machine, tuple(_changes(old, new, tolerance))
    )


def _changes(before: Report, after: Report, tolerance: _Tolerance) -> Iterator[Change]:
    broken = {row.name: f"failed: {row.reason}" for row in after.failed}
    broken |= {row.name: f"not run: {row.reason}" for row in after.not_run}
    old = {entry.name: entry for entry in before.entries}
    new = {entry.name: entry for entry in after.entries}
    for name in dict.fromkeys((*old, *new)):
        if name in broken and name in old:
            # One that failed while it was timed has figures too, which follow below.
            yield Change(name, "engine", "engine", "ran", None, True, broken[name])
        elif name not in new:
            note = "it is not measured any more"
            yield Change(name, "engine", "engine", "ran", None, True, note)
        elif name not in old:
            yield Change(name, "engine", "engine", None, "ran", False, "it is new")
        if name in old and name in new:
            yield from _figures(old[name], new[name], tolerance)


def _figures(old: Entry, new: Entry, tolerance: _Tolerance) -> Iterator[Change]:
    """Compare verdict, AUC, latency and energy of an engine."""
    if isinstance(old, Candidate) and isinstance(new, Candidate):
        worse = VERDICTS.index(new.verdict) > VERDICTS.index(old.verdict)
        yield Change(new.name, "verdict", "AUC parity", old.verdict, new.verdict, worse)
    yield _auc(new.name, old.auc, new.auc, tolerance)
    if isinstance(old, Candidate) and isinstance(new, Candidate):
        yield from _on_pixels(old, new)
    # The costs of PyTorch are not those of an engine.
    if isinstance(new, Candidate):
        yield from _latencies(new.name, old.costs, new.costs, tolerance)
        yield from _energies(new.name, old.costs, new.costs, tolerance)


def _on_pixels(old: Candidate, new: Candidate) -> Iterator[Change]:
    """Compare the verdicts on the pixels of other pipelines."""
    before = {row.pipeline: row.verdict for row in old.pixels}
    after = {row.pipeline: row.verdict for row in new.pixels}
    for pipeline in dict.fromkeys((*before, *after)):
        was, is_now = before.get(pipeline), after.get(pipeline)
        figure = f"AUC parity, pixels of {pipeline}"
        if was is None or is_now is None:
            # A loss there would not be noticed any more, but was not shown either.
            note = "not scored before" if was is None else "not judged: not scored now"
            unjudged = is_now is None
            yield Change(new.name, "pixels", figure, was, is_now, False, note, unjudged)
            continue
        worse = VERDICTS.index(is_now) > VERDICTS.index(was)
        yield Change(new.name, "pixels", figure, was, is_now, worse)


def _auc(name: str, old: float | None, new: float | None, tolerance: _Tolerance) -> Change:
    if old is None or new is None:
        when = "now" if new is None else "before"
        note = f"not judged: it is not known {when}"
        return Change(name, "auc", "AUC", old, new, False, note, unjudged=True)
    lost = old - new
    if tolerance.reversed:
        # If the classes look reversed, an AUC further above 0.5 is a loss.
        lost = new - old
    if lost > tolerance.margin:
        note = f"lost more than the margin of {tolerance.margin:g}"
        return Change(name, "auc", "AUC", old, new, True, note)
    return Change(name, "auc", "AUC", old, new, False)


def _latencies(
    name: str, old: EngineCosts, new: EngineCosts, tolerance: _Tolerance
) -> Iterator[Change]:
    # Batch sizes that only one of the reports has cannot be compared.
    rows = {row.batch: row for row in old.latency_by_batch}
    for row in new.latency_by_batch:
        if row.batch in rows:
            yield _latency(name, rows[row.batch], row, tolerance)


def _latency(name: str, old: LatencyResult, new: LatencyResult, tolerance: _Tolerance) -> Change:
    """Compare medians: worse if it grew by more than tolerated and its interval moved too."""
    before, after = old.per_face_ms.p50, new.per_face_ms.p50
    # Both: a tiny growth may be certain, and a large one an accident.
    worse = _is_above(after, before)
    worse = worse and after.estimate > before.estimate * (1 + tolerance.slower)
    note = ""
    if worse:
        note = "longer"
        if before.estimate > 0:
            note = f"{after.estimate / before.estimate:.2f} times as long"
        if not tolerance.same_machine:
            note += ", not judged: another machine or power mode"
    figure = f"ms per face, batch {new.batch}"
    regression = worse and tolerance.same_machine
    return Change(name, "latency", figure, before.estimate, after.estimate, regression, note)


def _energies(
    name: str, old: EngineCosts, new: EngineCosts, tolerance: _Tolerance
) -> Iterator[Change]:
    """Compare the energy of a face, gross and net of what the idle machine draws."""
    before, after = old.energy, new.energy
    if before is None and after is None:
        return
    if before is None or after is None:
        costs, when = new, "now"
        if before is None:
            costs, when = old, "before"
        note = f"not judged: not measured {when}"
        if reason := costs.unavailable.get("energy"):
            note = f"not judged: unavailable {when}: {reason}"
        figures = _gross(before), _gross(after)
        yield Change(name, "energy", "J per face, gross", *figures, False, note)
        return
    unlike = _unlike(before, after)
    if not tolerance.same_machine:
        unlike.append("another machine or power mode")
    for kind, was, is_now in (
        ("gross", before.gross_j_per_face, after.gross_j_per_face),
        ("net", before.net_j_per_face, after.net_j_per_face),
    ):
        figure = f"J per face, {kind}, batch {after.batch}"
        yield _energy(name, figure, was, is_now, tolerance.more_energy, unlike)


def _gross(result: EnergyResult | None) -> float | None:
    if result is None:
        return None
    return result.gross_j_per_face.estimate


def _unlike(before: EnergyResult, after: EnergyResult) -> list[str]:
    """Return the differences between two measurements that make them incomparable."""
    texts = []
    if before.batch != after.batch:
        texts.append(f"batch was {before.batch}, is {after.batch}")
    if before.source != after.source:
        texts.append(f"what measured it was {before.source}, is {after.source}")
    return texts


def _energy(
    name: str, figure: str, before: Interval, after: Interval, more: float, unlike: list[str]
) -> Change:
    """Compare means: worse if it grew by more than `more` and the intervals do not overlap."""
    # Net energy is a difference, and near 0 on a noisy machine: no ratio can be formed then.
    grew = after.estimate - before.estimate > more * abs(before.estimate)
    worse = _is_above(after, before) and grew
    note = ""
    if worse:
        note = "more"
        if before.estimate > 0:
            note = f"{after.estimate / before.estimate:.2f} times as much"
        if unlike:
            note += f", not judged: {'; '.join(unlike)}"
    regression = worse and not unlike
    return Change(name, "energy", figure, before.estimate, after.estimate, regression, note)


def _is_above(new: Interval, old: Interval) -> bool:
    """Return True if an interval is above another; one that is not bounded is above none."""
    return new.low > old.high


def _check_same_faces(before: Report, after: Report) -> None:
    old, new = before.dataset, after.dataset
    # The folder may have another name on another machine: the digest identifies the files.
    if (old.split, old.digest, old.faces) != (new.split, new.digest, new.faces):
        raise LpxError(
            f"the reports are of different faces: {old.faces:,} of {old.name} (split {old.split}) "
            f"and {new.faces:,} of {new.name} (split {new.split})",
            "AUCs of different faces differ for that reason alone",
            "bench both on the same set, with the same `limit` and manipulation methods",
        )


def _environment(before: Report, after: Report) -> tuple[EnvironmentChange, ...]:
    old, new = _environment_values(before), _environment_values(after)
    changes = []
    for key in dict.fromkeys((*old, *new)):
        was, is_now = old.get(key, "–"), new.get(key, "–")
        if was != is_now:
            changes.append(EnvironmentChange(key.replace("_", " "), was, is_now))
    weights = [report.model.weights_sha256[:12] for report in (before, after)]
    if weights[0] != weights[1]:
        changes.append(EnvironmentChange("model weights", *weights))
    # Stable: the machine first, the rest in the reports' order.
    changes.sort(key=lambda change: not change.what.startswith("machine"))
    return tuple(changes)


def _environment_values(report: Report) -> dict[str, str]:
    environment = report.environment
    return _flat({"machine": environment.machine, "versions": environment.versions})


def _is_hardware(change: EnvironmentChange) -> bool:
    hardware = ("machine cpu", "machine cores", "machine gpus", "machine jetson", "machine arch")
    return change.what.startswith(hardware)


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Return nested values by the words on the way to them."""
    if isinstance(value, Mapping):
        parts = dict(value)
    elif isinstance(value, (list, tuple)):
        parts = {str(index): part for index, part in enumerate(value)}
    else:
        return {path: str(value)}
    flat: dict[str, str] = {}
    for key, part in parts.items():
        flat |= _flat(part, f"{path} {key}".strip())
    return flat


def render_comparison(comparison: ReportComparison) -> str:
    """Render a comparison in Markdown, for a pull request."""
    from lpx.bench.report.markdown import table

    sign = "✅"
    if comparison.regressions:
        sign = "❌"
    elif comparison.unjudged:
        sign = "❔"
    blocks = [f"## {sign} {summary(comparison)}"]
    if comparison.environment:
        lead = "Environment:"
        if not comparison.same_machine:
            lead = f"**The machine differs: latencies and energies are not judged.** {lead}"
        blocks += [lead, table(("what", "before", "after"), comparison.environment)]
    rows = []
    for change in comparison.changes:
        mark = "❌" * change.regression + "❔" * change.unjudged
        values = shown(change.before), shown(change.after)
        rows.append([change.engine, change.figure, *values, mark, change.note])
    blocks.append(table(("engine", "figure", "before", "after", "", "note"), rows, names=6))
    return "\n\n".join(blocks) + "\n"


def summary(comparison: ReportComparison) -> str:
    """Say how many regressions there are, and what cannot be judged."""
    count, unknown = len(comparison.regressions), len(comparison.unjudged)
    text = counted(count, "regression") if count else "no regression"
    if not unknown:
        return text
    if not count:
        text = "no regression found"
    return f"{text}, and {counted(unknown, 'AUC')} cannot be judged"


def shown(value: float | str | None) -> str:
    """Write a figure for a reader."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.4g}"
