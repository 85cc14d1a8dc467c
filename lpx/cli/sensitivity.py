"""`lpx sensitivity`: what each layer costs in INT8."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from lpx.cli.options import data_options, following, json_option, weight_options, workspace_option

if TYPE_CHECKING:
    from lpx.api.search.sensitivity import SensitivityResult
    from lpx.api.workspace import Workspace
    from lpx.cli.console import Output
    from lpx.graph.qdq.weights import WeightOptions

_SHOWN = 20


@click.command()
@click.option(
    "--search-faces",
    metavar="DIR|DATASET",
    help="Labelled faces to measure on, apart from those of the calibration and of the bench. By "
    "default the demo faces; of a public data set, its validation split.",
)
@click.option(
    "--search-limit",
    default=1024,
    show_default=True,
    help="Maximum number of these faces, sampled evenly.",
)
@click.option(
    "--target",
    default="auto",
    show_default=True,
    metavar="TARGET",
    help="Target whose rules and rounding apply; it need not be installed.",
)
@click.option(
    "--faces",
    envvar="LPX_FACES",
    metavar="DIR|DATASET",
    help="Faces to calibrate on, as for `lpx build`.",
)
@click.option(
    "--limit",
    default=512,
    show_default=True,
    help="Maximum number of calibration faces, sampled evenly.",
)
@click.option("--method", metavar="METHOD", help="Calibration method, as for `lpx build`.")
@click.option("--blocks", is_flag=True, help="Take a residual block as one group.")
@click.option(
    "--complete",
    is_flag=True,
    help="Measure every group on every face. By default, groups with small effects are measured on "
    "a fifth of them.",
)
@data_options
@weight_options
@workspace_option
@json_option
def sensitivity(
    search_faces: str | None,
    search_limit: int,
    target: str,
    faces: str | None,
    limit: int,
    method: str | None,
    blocks: bool,
    complete: bool,
    weights: WeightOptions,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Show what each group of layers costs when it alone is in INT8.

    A group is a convolution with what is fused into it. Groups are listed by their loss of AUC,
    with DeLong's paired 95 % interval, and by how much they move scores and maps.
    """
    from lpx.cli.console import ConsoleReporter, Output

    with ConsoleReporter() as reporter:
        result = workspace.sensitivity(
            search_faces,
            search_limit=search_limit,
            target=target,
            faces=faces,
            limit=limit,
            method=method,
            weights=weights,
            blocks=blocks,
            complete=complete,
            reporter=reporter,
        )
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    _show(result, Output())
    click.echo(following("lpx build --int8 --search", workspace))


def _show(result: SensitivityResult, console: Output) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("group", overflow="fold")
    for title in ("MMAC", "AUC difference [95 %]", "spread"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in result.groups[:_SHOWN]:
        group, found = one.group, one.auc_difference
        table.add_row(
            group.name,
            f"{group.multiply_accumulates / 1e6:.1f}",
            f"{found.estimate:+.4f} [{found.low:+.4f}, {found.high:+.4f}]",
            f"{one.logit_shift_spread:.3f}",
        )
    console.print(table)
    console.say(
        f"each group alone in INT8, on {result.count} faces of {result.faces}; spread: standard "
        "deviation of the shifts of logits"
    )
    if len(result.groups) > _SHOWN:
        console.say(f"{len(result.groups) - _SHOWN} more groups are in {result.table}")
    if result.measured < result.count:
        console.say(
            f"groups with small effects were measured on {result.measured} of the faces, and "
            "matched on the others (--complete measures all)"
        )
    console.say(f"{result.table}\n{result.picture}")
