"""`lpx compare`: regressions from one report to another."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lpx.cli.options import json_option

if TYPE_CHECKING:
    from lpx.bench.report.compare import ReportComparison


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option(
    "--slower",
    default=0.05,
    show_default=True,
    metavar="SHARE",
    help="Tolerated growth of a median latency, as a share.",
)
@click.option(
    "--more-energy",
    default=0.05,
    show_default=True,
    metavar="SHARE",
    help="Tolerated growth of the energy of a face, as a share.",
)
@click.option("--markdown", is_flag=True, help="Print Markdown, for a pull request.")
@json_option
def compare(
    before: Path, after: Path, slower: float, more_energy: float, markdown: bool, as_json: bool
) -> None:
    """Compare the reports BEFORE and AFTER of two benches on the same faces.

    Each is a report.json, or the workspace that contains it. A regression is an AUC that fell by
    more than the margin, a verdict that became worse (also on the pixels of a pipeline), an engine
    that no longer runs, and, on the same machine, a median latency that grew by more than --slower,
    or energy of a face (gross or net) that grew by more than --more-energy, if the intervals do not
    overlap.

    Exit codes: 0 without a regression; 1 with one; 4 if there is none, but an AUC cannot be judged
    because a report does not contain it.
    """
    import lpx
    from lpx.bench.report.compare import render_comparison

    comparison = lpx.compare(before, after, slower=slower, more_energy=more_energy)
    if as_json:
        click.echo(json.dumps(comparison.to_dict(), indent=2))
    elif markdown:
        click.echo(render_comparison(comparison), nl=False)
    else:
        _show(comparison)
    if comparison.regressions:
        sys.exit(1)
    sys.exit(4 if comparison.unjudged else 0)


def _show(comparison: ReportComparison) -> None:
    from lpx.bench.report.compare import shown, summary
    from lpx.cli.console import Output

    console = Output()
    if not comparison.same_machine:
        console.say(
            "warning: the machine or its power mode differs: latencies and energies are not judged",
            "yellow",
        )
    for what, old, new in comparison.environment:
        console.say(f"  {what}: {old} -> {new}")
    for change in comparison.changes:
        mark, style = "", None
        if change.regression:
            mark, style = "REGRESSION", "red"
        elif change.unjudged:
            mark, style = "NOT JUDGED", "yellow"
        note = f"  ({change.note})" if change.note else ""
        values = f"{shown(change.before)} -> {shown(change.after)}"
        console.say(f"{mark:12}{change.engine}  {change.figure}: {values}{note}", style)
    console.say(summary(comparison), "bold")
