"""The tables that `lpx bench` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.table import Table
    from rich.text import Text

    from lpx.bench.report.cost_tables import CostTable
    from lpx.bench.report.document.entries import Parity
    from lpx.bench.report.document.report import Report
    from lpx.metrics import Interval, Verdict


def parity(report: Report) -> Table:
    """Return the AUC of every engine, and its difference to the checkpoint's."""
    from lpx.bench.report.sentences import auc

    table = plain_table("engine", "AUC", "difference [95 %]", "max |ds|", "flips", parity="left")
    table.add_row("torch fp32", auc(report.reference.auc), "the reference", "", "", "")
    for candidate in report.candidates:
        table.add_row(
            candidate.name,
            auc(candidate.auc),
            _difference(candidate.auc_difference),
            f"{candidate.parity.score_difference.max:.4f}",
            str(candidate.parity.flips.total),
            _coloured(candidate.verdict),
        )
    return table


def _difference(interval: Interval) -> str:
    return f"{interval.estimate:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def _coloured(verdict: Verdict, more: str = "") -> Text:
    from rich.text import Text

    style = {"holds": "green", "fails": "red"}.get(verdict, "yellow")
    return Text.assemble((verdict, style), more)


def stages(report: Report) -> Table:
    """Return the stages of the engines whose parity does not hold."""
    from rich.text import Text

    table = plain_table("stage of", "against torch [95 %]", "max |ds|", parity="left")
    for candidate in report.candidates:
        if candidate.breaks_at is None:
            continue
        table.add_row(Text(candidate.name, "bold"))
        for stage in candidate.stages:
            result = stage.against_torch
            if result is None:
                table.add_row(f"  {stage.kind}", "", "", "not run")
                continue
            first = stage.kind == candidate.breaks_at
            table.add_row(
                f"  {stage.kind}",
                _difference(result.auc_difference),
                f"{result.score_difference.max:.4f}",
                _coloured(result.verdict, " <- first" * first),
            )
    return table


def pixels(report: Report) -> Table:
    """Return each engine on the pixels of each pipeline: all that is lost, and by these alone."""
    from rich.text import Text

    table = plain_table("pixels of", "AUC difference [95 %]", "max |ds|", parity="left")
    for summary in report.pixels:
        table.add_row(Text(summary.pipeline, "bold"))
        for candidate in report.candidates:
            for row in candidate.pixels:
                if row.pipeline != summary.pipeline:
                    continue
                whole, own = row.against_torch, row.against_engine
                if whole is None or own is None:
                    table.add_row(f"  {candidate.name}", "", "", "not scored")
                    continue
                table.add_row(f"  {candidate.name}", *_changes(whole), _coloured(whole.verdict))
                table.add_row("    pixels alone", *_changes(own), "")
    return table


def _changes(result: Parity) -> tuple[str, str]:
    return _difference(result.auc_difference), f"{result.score_difference.max:.4f}"


def plain_table(first: str, *numbers: str, **texts: JustifyMethod) -> Table:
    """Return a plain table that fits 80 columns: names to the left, numbers to the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    # If a terminal is too narrow, names wrap: truncated, two engines would look the same.
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for name, side in texts.items():
        table.add_column(name, justify=side, no_wrap=True)
    return table


def latency(report: Report) -> Table:
    """Return the time per face of every engine at every batch size."""
    from lpx.bench.report.sentences import has_map

    headers = ["batch", "ms/face p50", "p90", "p99", "faces/s", "variation"]
    patches = has_map(report)
    if patches:
        headers.insert(4, "us/patch")
    table = plain_table("engine", *headers)
    for entry in report.entries:
        for row in entry.costs.latency_by_batch:
            cells = [
                entry.name,
                str(row.batch),
                f"{row.per_face_ms.p50.estimate:.2f}",
                f"{row.per_face_ms.p90.estimate:.2f}",
                f"{row.per_face_ms.p99.estimate:.2f}",
                f"{row.faces_per_second:.0f}",
                f"{100 * row.cov:.1f} %",
            ]
            if patches:
                cells.insert(5, f"{row.per_patch_p50_us:.2f}")
            table.add_row(*cells)
    return table


def costs(cost_table: CostTable) -> Table:
    """Return a table of costs."""
    from lpx.bench.report.cost_tables import line

    table = plain_table(cost_table.heads[0])
    for index, head in enumerate(cost_table.heads[1:], 1):
        if index < cost_table.names:
            table.add_column(head, overflow="fold")
        else:
            table.add_column(head, justify="right", no_wrap=True)
    for row in cost_table.rows:
        table.add_row(*map(line, row))
    return table
