"""`lpx merge`: join the parts of all shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lpx.cli.options import (
    data_options,
    following,
    json_option,
    weight_flags,
    workspace_option,
)
from lpx.data.wording import counted

if TYPE_CHECKING:
    from lpx.api.sharding.bench import MergedScores
    from lpx.api.workspace import Workspace


@click.command()
@click.argument(
    "parts", metavar="PART...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--faces",
    metavar="DIR|DATASET",
    help="The face set of the parts, if it has another place here than it had there.",
)
@data_options
@workspace_option
@json_option
def merge(parts: tuple[Path, ...], faces: str | None, workspace: Workspace, as_json: bool) -> None:
    """Join the parts that commands with --shard left.

    PART is the folder of a part, or a folder that holds the folders of all parts. The result is
    that of one machine, byte for byte: a prepared set, scales.json, or the scores from which
    `lpx bench` makes its report. The parts are kept.
    """
    from lpx.api.calibrate import CalibrationResult
    from lpx.cli import calibrate, data
    from lpx.cli.console import ConsoleReporter
    from lpx.data.prepare import PrepareResult
    from lpx.graph.qdq.weights import WeightOptions

    with ConsoleReporter() as reporter:
        merged = workspace.merge(parts, faces=faces, reporter=reporter)
    if as_json:
        values = data.prepared(merged) if isinstance(merged, PrepareResult) else merged.to_dict()
        click.echo(json.dumps(values, indent=2))
    elif isinstance(merged, PrepareResult):
        data.show_prepared(merged)
    elif isinstance(merged, CalibrationResult):
        calibrate.show(merged)
        click.echo(f"written: {workspace.scales}")
        click.echo(f"written: {workspace.root / 'calibration-faces.json'}")
        weights = WeightOptions(**merged.scales.weights)
        click.echo(following(f"lpx build --int8{weight_flags(weights)}", workspace))
    else:
        _show_scores(merged, workspace)


def _show_scores(merged: MergedScores, workspace: Workspace) -> None:
    click.echo(
        f"{counted(merged.faces, 'face')} scored by {', '.join(merged.engines)}, in "
        f"{counted(merged.parts, 'part')}"
    )
    click.echo(f"written: {merged.folder}")
    for note in merged.notes:
        click.echo(f"note: {note}")
    click.echo(following(merged.command, workspace))
