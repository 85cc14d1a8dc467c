"""`lpx compare`: what became worse from one report to another."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lpx.cli.options import json_option

if TYPE_CHECKING:
    from lpx.bench.report.compare import Comparison


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option(
    "--slower",
    default=0.05,
    show_default=True,
    metavar="SHARE",
    help="By how much a median latency may grow.",
)
@click.option(
    "--more-energy",
    default=0.05,
    show_default=True,
    metavar="SHARE",
    help="By how much the energy of a face may grow.",
)
@click.option("--markdown", is_flag=True, help="Print Markdown, for a pull request.")
@json_option
def compare(
    before: Path, after: Path, slower: float, more_energy: float, markdown: bool, as_json: bool
) -> None:
    """Compare the reports BEFORE and AFTER of two benches on the same faces.

    Each is a report.json, or the workspace that holds it. A regression is an AUC that fell by more
    than the margin, a verdict that became worse, an engine that no longer runs, and, on the same
    machine, a median latency that grew by more than --slower, or energy of a face (gross or net)
    that grew by more than --more-energy, where the intervals do not overlap.

    Exits with 1 where there is a regression, and with 4 where there is none, but an AUC cannot be
    judged because a report does not know it.
    """
    from lpx.bench.report.compare import compare_reports, read_report, render_comparison
    from lpx.errors import LpxError

    for option, share in (("--slower", slower), ("--more-energy", more_energy)):
        if not share >= 0:
            raise LpxError(
                f"{option} {share:g} is not a share", "", f"give 0 or more, as {option} 0.05"
            )
    found = compare_reports(read_report(before), read_report(after), slower, more_energy)
    if as_json:
        values = {
            "regressions": len(found.regressions),
            "unjudged": len(found.unjudged),
            **asdict(found),
        }
        click.echo(json.dumps(values, indent=2))
    elif markdown:
        click.echo(render_comparison(found), nl=False)
    else:
        _show(found)
    sys.exit(1 if found.regressions else 4 if found.unjudged else 0)


def _show(found: Comparison) -> None:
    from lpx.bench.report.compare import shown, summary
    from lpx.cli.console import Output

    console = Output()
    if not found.same_machine:
        console.say(
            "warning: the machine or its power mode differs: latencies and energies are not judged",
            "yellow",
        )
    for what, old, new in found.environment:
        console.say(f"  {what}: {old} -> {new}")
    for change in found.changes:
        mark = (
            "REGRESSION  " if change.regression else "NOT JUDGED  " if change.unjudged else " " * 12
        )
        note = f"  ({change.note})" if change.note else ""
        console.say(
            f"{mark}{change.engine}  {change.figure}: {shown(change.before)} -> "
            f"{shown(change.after)}{note}",
            "red" if change.regression else "yellow" if change.unjudged else None,
        )
    console.say(summary(found), "bold")
