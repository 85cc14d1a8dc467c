"""The report in Markdown, short enough for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lpx.bench.report.cost_tables import CostTable, cost_tables, line
from lpx.bench.report.sentences import (
    STAGES,
    ability,
    auc,
    entries,
    failure,
    headline,
    signed,
    significant,
    speed_notes,
    warnings,
)
from lpx.plain import plain

_SIGNS = {"holds": "✅", "undecided": "❔", "uninformative": "⚠️", "fails": "❌"}


def render_markdown(report: Mapping[str, Any]) -> str:
    """Render a report for a pull request: verdict, engines, stages where parity breaks, warnings.

    Args:
        report: What `lpx.bench.report.document.to_report` made.
    """
    data = report["dataset"]
    blocks = [
        f"## {_SIGNS[report['verdict']]} AUC parity {report['verdict']}",
        escaped(headline(report)),
        escaped(ability(report)),
        f"{report['faces']:,} faces of {escaped(data['name'])} (split {escaped(data['split'])}; "
        f"{report['real']:,} real, {report['fake']:,} fake); margin {report['margin']:g}; model "
        f"{escaped(report['model']['architecture'])}, cut {escaped(report['model']['cut'])}.",
        _engines(report),
        *(_stages(c, report["margin"]) for c in report["candidates"] if c["breaks_at"]),
        _parts(report),
        *map(_costs, cost_tables(report)),
        _bullets("Speed", speed_notes(report)),
        _bullets("Failed", (failure(row) for row in report["failed"])),
        _bullets("Not run", (f"{row['name']}: {row['reason']}" for row in report["not_run"])),
        _bullets("Warnings", [*filter(None, [data["note"]]), *warnings(report)]),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> str:
    """A Markdown table; the first `names` columns to the left, the others to the right."""
    rule = [":--" if index < names else "--:" for index in range(len(heads))]
    lines = [heads, rule, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    text = plain(text, keep="\n\t")
    # An ampersand would begin an entity, as in a file that is called "&lt;.png".
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, entity)
    # "~" strikes through and "$" sets formulas where GitHub shows a report.
    for sign in ("\\", "|", "*", "_", "`", "[", "#", "~", "$"):
        text = text.replace(sign, f"\\{sign}")
    text = _LINKS.sub(r"\g<0><!-- -->", text)
    return " ".join(text.split())


# GitHub makes links of addresses, and of @names and #numbers, which it also tells the people
# about. A comment in between shows nothing, and ends them.
_LINKS = re.compile(r"@(?=\w)|:(?=//)|(?<=www)\.|\\#(?=\w)|(?<=GH)-(?=\d)", re.I)


def difference(found: Mapping[str, Any], margin: float) -> str:
    """A difference with its interval."""
    low, high = (signed(found[end], margin) for end in ("low", "high"))
    return f"{signed(found['estimate'], margin)} [{low}, {high}]"


def _engines(report: Mapping[str, Any]) -> str:
    timed = bool(report["reference"]["latency"])
    heads = ["engine", "parity", "AUC", "difference [95 %]", "max score diff.", "flips"]
    rows = []
    for entry in entries(report):
        row = [entry["name"], "reference", auc(entry["auc"]), "", "", ""]
        if "verdict" in entry:
            row[1] = f"{_SIGNS[entry['verdict']]} {entry['verdict']}"
            row[3] = difference(entry["auc_difference"], report["margin"])
            row[4] = significant(entry["score_difference"]["max"])
            row[5] = str(entry["flips"])
        if timed:
            row.append(
                " / ".join(significant(r["per_face_p50_ms"]) for r in entry["latency_by_batch"])
            )
        rows.append(row)
    if timed:
        sizes = " / ".join(str(r["batch"]) for r in report["reference"]["latency_by_batch"])
        heads.append(f"ms per face, batch {sizes}")
    return table(heads, rows, names=2)


def _stages(candidate: Mapping[str, Any], margin: float) -> str:
    rows = []
    for stage in candidate["stages"]:
        found = stage["against_torch"]
        mark = " ← first" if stage["kind"] == candidate["breaks_at"] else ""
        if found is None:
            rows.append([STAGES[stage["kind"]], f"not run: {stage['reason']}", "", "", ""])
            continue
        before = stage["against_previous"]
        rows.append(
            [
                STAGES[stage["kind"]],
                found["verdict"] + mark,
                difference(found["auc_difference"], margin),
                difference(before["auc_difference"], margin),
                significant(found["score_difference"]["max"]),
            ]
        )
    heads = ("stage", "parity", "against torch", "against the stage before", "max score diff.")
    title = f"**{escaped(candidate['name'])}, stage by stage**"
    return f"{title}\n\n{table(heads, rows, names=2)}"


def _parts(report: Mapping[str, Any]) -> str:
    rows = [
        [
            c["name"],
            part["level"],
            part["method"],
            f"{part['fakes']:,}",
            difference(part["auc_difference"], report["margin"])
            if part["auc_difference"]
            else part["reason"],
            part["verdict"] or "–",
        ]
        for c in report["candidates"]
        for part in c["parts"]
    ]
    if not rows:
        return ""
    heads = ("engine", "level", "method", "fakes", "difference [95 %]", "parity")
    inner = table(heads, rows, names=3)
    return f"<details><summary>Per method and video</summary>\n\n{inner}\n\n</details>"


def _costs(found: CostTable) -> str:
    blocks = [found.lead]
    if found.rows:
        rows = [[line(cell) for cell in row] for row in found.rows]
        blocks.append(table(found.heads, rows, names=found.names))
    blocks += [f"- {escaped(note)}" for note in found.notes]
    inner = "\n\n".join(blocks)
    return f"<details><summary>{found.title}</summary>\n\n{inner}\n\n</details>"


def _bullets(title: str, texts: Iterable[str]) -> str:
    lines = [f"- {escaped(text)}" for text in texts]
    return "\n".join([f"**{title}**", "", *lines]) if lines else ""
