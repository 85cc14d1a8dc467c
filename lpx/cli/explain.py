"""`lpx explain`: the regions of a face that determine a detector's score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lpx.cli.options import json_option, workspace_option
from lpx.data.wording import counted

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
    help="Folder for index.html and maps.npz.  [default: explain in the workspace]",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Maximum number of faces, sampled evenly.",
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
    """Show what an lpx checkpoint looks at, on a face, a folder of faces or a data set.

    For every face: the patch map, the receptive field of its strongest patch, and the similarity of
    its regions to the classifier (local diversity). For labelled faces, also the mean maps of real
    and fake faces, with the worst mistakes first. For a single image, also writes a picture.

    Works with lpx checkpoints only, not with models of a --factory.
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

    findings = result.findings
    click.echo(headline(findings))
    if findings.faces.note and findings.faces.name != "demo":
        click.echo(f"note: {findings.faces.note}")
    for mean in findings.means:
        click.echo(f"{mean.word}: {counted(mean.faces, 'face')}, mean score {mean.score:.3f}")
    if findings.field.size is None:
        click.echo(f"no receptive fields are drawn: {findings.field.reason}")
    if result.picture is not None:
        click.echo(f"picture: {result.picture}")
    click.echo(f"page: {result.page} (and {result.maps.name})")
