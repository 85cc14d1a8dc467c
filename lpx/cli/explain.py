"""`lpx explain`: what a detector looks at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lpx.cli.options import json_option, workspace_option

if TYPE_CHECKING:
    from lpx.api.explain import ExplainResult
    from lpx.api.workspace import Workspace


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("source", metavar="PATH|DATASET")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for index.html and maps.npz; `explain` in the workspace by default.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Most faces, spread evenly over the set.",
)
@workspace_option
@json_option
def explain(
    checkpoint: Path,
    source: str,
    out: Path | None,
    limit: int,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Show where lpx checkpoint CHECKPOINT looks on a face, a folder of faces, or a data set.

    For every face: the patch map, what its strongest patch sees of it, and how alike its regions
    are to the classifier (local diversity). Where labels are known, also the mean maps of real and
    fake faces, and the worst mistakes first. A single image gets a picture of its own too.

    It takes lpx checkpoints only, not models of a --factory.
    """
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as reporter:
        result = workspace.explain(checkpoint, source, out=out, limit=limit, reporter=reporter)
    for face in result.findings.skipped:
        click.echo(f"skipped {face.name}: {face.reason}", err=True)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    _show(result)


def _show(result: ExplainResult) -> None:
    from lpx.explain.page import headline

    found = result.findings
    click.echo(headline(found))
    if found.faces.note and found.faces.name != "demo":
        click.echo(f"note: {found.faces.note}")
    for skipped in found.skipped:
        click.echo(f"skipped {skipped.name}: {skipped.reason}", err=True)
    for mean in found.means:
        click.echo(f"{mean.word}: {mean.faces} faces, mean score {mean.score:.3f}")
    if found.field.size is None:
        click.echo(f"no receptive field is drawn: {found.field.reason}")
    if result.picture is not None:
        click.echo(f"picture: {result.picture}")
    click.echo(f"page: {result.page} (and {result.maps.name})")
