"""`lpx explain`: what a detector looks at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpx.cli.options import json_option, workspace_option

if TYPE_CHECKING:
    from lpx.api.explain import Explained
    from lpx.api.workspace import Workspace
    from lpx.explain.examiner import Explanation, Patch


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
        done = workspace.explain(checkpoint, source, out=out, limit=limit, reporter=reporter)
    for face in done.findings.skipped:
        click.echo(f"skipped {face.name}: {face.reason}", err=True)
    if as_json:
        click.echo(json.dumps(to_values(done), indent=2))
        return
    _show(done)


def _show(done: Explained) -> None:
    from lpx.explain.page import headline

    found = done.findings
    click.echo(headline(found))
    if found.faces.note and found.faces.name != "demo":
        click.echo(f"note: {found.faces.note}")
    for skipped in found.skipped:
        click.echo(f"skipped {skipped.name}: {skipped.reason}", err=True)
    for mean in found.means:
        click.echo(f"{mean.word}: {mean.faces} faces, mean score {mean.score:.3f}")
    if found.field.size is None:
        click.echo(f"no receptive field is drawn: {found.field.reason}")
    if done.picture is not None:
        click.echo(f"picture: {done.picture}")
    click.echo(f"page: {done.page} (and {done.maps.name})")


def to_values(done: Explained) -> dict[str, Any]:
    """What `--json` prints."""
    found = done.findings
    return {
        "checkpoint": found.checkpoint,
        "dataset": found.faces.name,
        "faces_in_set": found.total,
        "threshold": found.card.threshold,
        "mistakes": found.mistakes,
        "grid": list(found.field.grid),
        "receptive_field": found.field.size,
        "receptive_field_unknown_because": found.field.reason or None,
        "regions_per_side": found.regions,
        "classes": [
            {"label": m.word, "faces": m.faces, "mean_score": m.score} for m in found.means
        ],
        "faces": [_face(face) for face in found.explanations],
        "note": found.faces.note,
        "skipped": [{"file": s.name, "reason": s.reason} for s in found.skipped],
        "page": str(done.page),
        "maps": str(done.maps),
        "picture": None if done.picture is None else str(done.picture),
    }


def _face(face: Explanation) -> dict[str, Any]:
    return {
        "file": face.name,
        "label": face.label,
        "score": face.score,
        "fake": face.fake,
        "similarity": face.mean_similarity,
        "strongest": _patch(face.strongest),
        "weakest": _patch(face.weakest),
    }


def _patch(patch: Patch) -> dict[str, Any]:
    box = None if patch.box is None else list(patch.box)
    return {"row": patch.row, "column": patch.column, "probability": patch.probability, "box": box}
