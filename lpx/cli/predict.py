"""`lpx predict`: score face crops."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lpx.cli.options import json_option, workspace_option
from lpx.workspace import Workspace


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--engine",
    metavar="NAME",
    help="Engine of the workspace, or torch; the fastest that runs here by default.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for heat maps and scores.csv.")
@workspace_option
@json_option
def predict(
    path: Path, engine: str | None, out: Path | None, workspace: Workspace, as_json: bool
) -> None:
    """Score the face crop PATH, or all crops of folder PATH, and draw a heat map of each.

    PATH holds cropped faces, framed as in the model's training.
    """
    from lpx import pipeline
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as report:
        found = pipeline.predict(workspace, path, engine=engine, out=out, report=report)
    if as_json:
        values = {
            "engine": found.engine,
            "threshold": found.threshold,
            "faces": [
                {"file": f.name, "score": f.score, "fake": f.fake, "picture": str(f.picture)}
                for f in found.faces
            ],
            "skipped": [{"file": s.name, "reason": s.reason} for s in found.skipped],
            "scores": str(found.scores),
        }
        click.echo(json.dumps(values, indent=2))
        return
    for face in found.faces:
        click.echo(
            f"{face.score:.3f}  {'FAKE' if face.fake else 'real'}  {face.name}  -> {face.picture}"
        )
    for skipped in found.skipped:
        click.echo(f"skipped {skipped.name}: {skipped.reason}", err=True)
    click.echo(f"scores: {found.scores}")
