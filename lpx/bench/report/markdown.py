"""The report in Markdown, short enough for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lpx.bench.report.cost_tables import CostTable, cost_tables, line
from lpx.bench.report.document.entries import Candidate, PixelParity
from lpx.bench.report.document.report import Report
from lpx.bench.report.headline import headline, warnings
from lpx.bench.report.pixel_sentences import pixel_facts, pixel_verdicts
from lpx.bench.report.sentences import (
    STAGES,
    ability,
    auc,
    bracketed,
    failure,
    signed,
    significant,
    speed_notes,
)
from lpx.metrics import Interval
from lpx.plain import plain

_SIGNS = {"holds": "✅", "undecided": "❔", "uninformative": "⚠️", "fails": "❌"}


def render_markdown(report: Report) -> str:
    """Render a report for a pull request: verdict, engines, broken stages, costs, warnings."""
    data, model = report.dataset, report.model
    all_warnings = warnings(report)
    # First, as it concerns all numbers.
    if data.note:
        all_warnings.insert(0, data.note)
    broken = []
    for candidate in report.candidates:
        if candidate.breaks_at:
            broken.append(_stages(candidate, report.margin))
    blocks = [
        f"## {_SIGNS[report.verdict]} AUC parity {report.verdict}",
        escaped(headline(report)),
        escaped(ability(report)),
        f"{data.faces:,} faces of {escaped(data.name)} (split {escaped(data.split)}; "
        f"{data.real:,} real, {data.fake:,} fake); margin {report.margin:g}; model "
        f"{escaped(model.architecture)}, cut {escaped(model.cut)}.",
        _engines(report),
        *broken,
        _pixels(report),
        _parts(report),
        *map(_costs, cost_tables(report)),
        _bullets("Speed", speed_notes(report)),
        _bullets("Failed", (failure(row) for row in report.failed)),
        _bullets("Not run", (f"{row.name}: {row.reason}" for row in report.not_run)),
        _bullets("Warnings", all_warnings),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> str:
    """Return a Markdown table, the first `names` columns left-aligned, the rest right-aligned."""
    rule = [":--"] * names + ["--:"] * (len(heads) - names)
    lines = [heads, rule]
    for row in rows:
        lines.append([escaped(cell) for cell in row])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Escape text for Markdown and HTML."""
    text = plain(text, keep="\n\t")
    # Ampersands too, as a file may be called "&lt;.png"; first, as the other entities contain them.
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, entity)
    # "~" strikes through and "$" sets formulas where GitHub shows a report.
    for sign in ("\\", "|", "*", "_", "`", "[", "#", "~", "$"):
        text = text.replace(sign, f"\\{sign}")
    text = _LINKS.sub(r"\g<0><!-- -->", text)
    return " ".join(text.split())


# GitHub links addresses, @names and #numbers, and notifies the people. An HTML comment in between
# is invisible and prevents that.
_LINKS = re.compile(r"@(?=\w)|:(?=//)|(?<=www)\.|\\#(?=\w)|(?<=GH)-(?=\d)", re.I)


def difference(interval: Interval | None, margin: float) -> str:
    """Write a difference with its interval; "" if there is none."""
    if interval is None:
        return ""
    return f"{signed(interval.estimate, margin)} {bracketed(interval, margin)}"


def _engines(report: Report) -> str:
    heads = ["engine", "parity", "AUC", "difference [95 %]", "max score diff.", "flips"]
    if report.batches:
        heads.append(f"ms per face, batch {' / '.join(map(str, report.batches))}")
    rows = []
    for entry in report.entries:
        row = [entry.name, "reference", auc(entry.auc), "", "", ""]
        if isinstance(entry, Candidate):
            row[1] = f"{_SIGNS[entry.verdict]} {entry.verdict}"
            row[3] = difference(entry.auc_difference, report.margin)
            row[4] = significant(entry.parity.score_difference.max)
            row[5] = str(entry.parity.flips.total)
        if report.batches:
            medians = [timed.per_face_ms.p50.estimate for timed in entry.costs.latency_by_batch]
            row.append(" / ".join(map(significant, medians)))
        rows.append(row)
    return table(heads, rows, names=2)


def _stages(candidate: Candidate, margin: float) -> str:
    rows = []
    for stage in candidate.stages:
        parity, before = stage.against_torch, stage.against_previous
        if parity is None or before is None:
            rows.append([STAGES[stage.kind], f"not run: {stage.reason}", "", "", ""])
            continue
        mark = " ← first" if stage.kind == candidate.breaks_at else ""
        rows.append(
            [
                STAGES[stage.kind],
                parity.verdict + mark,
                difference(parity.auc_difference, margin),
                difference(before.auc_difference, margin),
                significant(parity.score_difference.max),
            ]
        )
    heads = ("stage", "parity", "against torch", "against the stage before", "max score diff.")
    title = f"**{escaped(candidate.name)}, stage by stage**"
    return f"{title}\n\n{table(heads, rows, names=2)}"


def _pixels(report: Report) -> str:
    """Return the engines on the pixels of other pipelines; "" if none was asked for."""
    if not report.pixels:
        return ""
    rows = []
    for summary in report.pixels:
        for candidate in report.candidates:
            for row in candidate.pixels:
                if row.pipeline == summary.pipeline:
                    rows.append([row.pipeline, candidate.name, *_on_pixels(row, report.margin)])
    heads = (
        *("pixels of", "engine", "parity", "against torch [95 %]", "by the pixels alone [95 %]"),
        *("max score diff.", "flips"),
    )
    verdicts = []
    for one in pixel_verdicts(report):
        verdicts.append(f"{_SIGNS[one.verdict]} {one.pipeline}: {one.verdict}. {one.text}")
    facts = [pixel_facts(summary, report) for summary in report.pixels]
    title = "Faces resized as other pipelines do"
    return f"{_bullets(title, [*verdicts, *facts])}\n\n{table(heads, rows, names=3)}"


def _on_pixels(row: PixelParity, margin: float) -> list[str]:
    whole, own = row.against_torch, row.against_engine
    if whole is None or own is None:
        return [f"not scored: {row.reason}", "", "", "", ""]
    return [
        f"{_SIGNS[whole.verdict]} {whole.verdict}",
        difference(whole.auc_difference, margin),
        difference(own.auc_difference, margin),
        significant(whole.score_difference.max),
        str(whole.flips.total),
    ]


def _parts(report: Report) -> str:
    rows = []
    for candidate in report.candidates:
        for part in candidate.parts:
            row = [candidate.name, part.level, part.method, f"{part.fakes:,}"]
            row.append(difference(part.auc_difference, report.margin) or part.reason)
            row.append(part.verdict or "–")
            rows.append(row)
    if not rows:
        return ""
    heads = ("engine", "level", "method", "fakes", "difference [95 %]", "parity")
    inner = table(heads, rows, names=3)
    return f"<details><summary>Per method and video</summary>\n\n{inner}\n\n</details>"


def _costs(costs: CostTable) -> str:
    blocks = [costs.lead]
    if costs.rows:
        rows = [list(map(line, row)) for row in costs.rows]
        blocks.append(table(costs.heads, rows, names=costs.names))
    blocks += [f"- {escaped(note)}" for note in costs.notes]
    inner = "\n\n".join(blocks)
    return f"<details><summary>{costs.title}</summary>\n\n{inner}\n\n</details>"


def _bullets(title: str, texts: Iterable[str]) -> str:
    lines = [f"- {escaped(text)}" for text in texts]
    return "\n".join([f"**{title}**", "", *lines]) if lines else ""
