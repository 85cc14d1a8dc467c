"""`lpx explain`: the regions of a face that determine a detector's score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpx.cli.options import json_option, workspace_option
from lpx.workspace import Workspace

if TYPE_CHECKING:
    from lpx.api.explaining import Explained
    from lpx.explain.examiner import Explanation, Patch


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
    checkpoint: Path, source: str, out: Path | None, limit: int, workspace: Workspace, as_json: bool
) -> None:
    """Show what an lpx checkpoint looks at, on a face, a folder of faces or a data set.

    For every face: the patch map, the receptive field of its strongest patch, and the similarity of
    its regions to the classifier (local diversity). For labelled faces, also the mean maps of real
    and fake faces, with the worst mistakes first. For a single image, also writes a picture.

    Works with lpx checkpoints only, not with models of a --factory.
    """
    from lpx.api import explaining
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as report:
        done = explaining.explain(
            checkpoint,
            source,
            out or workspace.root / "explain",
            limit=limit,
            skip=(workspace.root,),
            progress=report.progress(f"looking at {source}"),
        )
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
        click.echo(f"no receptive fields are drawn: {found.field.reason}")
    if done.picture is not None:
        click.echo(f"picture: {done.picture}")
    click.echo(f"page: {done.page} (and {done.maps.name})")


def to_values(done: Explained) -> dict[str, Any]:
    """Return the object that `--json` prints."""
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
