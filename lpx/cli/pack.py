"""`lpx pack`: a workspace as one file."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lpx.cli.options import data_options, json_option, workspace_option
from lpx.data.wording import counted

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace
    from lpx.bundle.pack import PackResult


def _names(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    if value is None:
        return None
    return tuple(filter(None, (name.strip() for name in value.split(","))))


@click.command()
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    required=True,
    help="File to write, such as detector.lpx.",
)
@click.option(
    "--faces",
    metavar="SET",
    help="Face set to bench on elsewhere: a data set's name or a folder.  [default: none]",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Maximum number of faces, sampled evenly.",
)
@click.option(
    "--engines",
    metavar="NAMES",
    callback=_names,
    help="Comma-separated engines to include.  [default: all of the exported model]",
)
@click.option(
    "--checkpoint",
    is_flag=True,
    help="Include the PyTorch checkpoint, which `lpx bench` compares engines with.",
)
@data_options
@workspace_option
@json_option
def pack(
    out: Path,
    faces: str | None,
    limit: int,
    engines: tuple[str, ...] | None,
    checkpoint: bool,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Pack the workspace into one file for another machine.

    The bundle has the exported model, calibrated ranges, engines, probe faces with their scores
    and, with --faces, a face set. Every file in it has a SHA-256. `lpx unpack` checks all of them.
    """
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as reporter:
        result = workspace.pack(
            out,
            faces=faces,
            limit=limit,
            engines=engines,
            checkpoint=checkpoint,
            reporter=reporter,
        )
    if as_json:
        click.echo(json.dumps(_values(result), indent=2))
        return
    manifest = result.manifest
    size = result.size_bytes / 2**20
    click.echo(f"{result.path}: {counted(len(manifest.members), 'file')}, {size:.1f} MiB")
    click.echo(f"engines: {', '.join(manifest.engines) or 'none'}")
    if manifest.faces is not None:
        click.echo(f"faces: {manifest.faces.count} of {manifest.faces.name}")
    click.echo(f"next, on the other machine: lpx unpack {shlex.quote(result.path.name)}")


def _values(result: PackResult) -> dict[str, object]:
    manifest = asdict(result.manifest)
    return {
        "bundle": str(result.path),
        "size_bytes": result.size_bytes,
        **manifest,
        "left_out_engines": result.left_out,
        "unreadable_faces": result.unreadable,
    }
