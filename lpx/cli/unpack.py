"""`lpx unpack`: a workspace out of one file."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lpx.cli.options import following, json_option, workspace_option
from lpx.data.wording import counted

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@workspace_option
@json_option
def unpack(bundle: Path, workspace: Workspace, as_json: bool) -> None:
    """Unpack BUNDLE, which `lpx pack` wrote, into a new workspace.

    Every file is checked against its SHA-256. A bundle that is damaged, was altered or comes from a
    newer lpx is refused, and nothing is left behind. The checks find damage, not a forger: unpack
    bundles from a source you trust, or treat their contents like any other workspace.
    """
    from lpx.bundle.unpack import unpack as unpack_bundle
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as reporter:
        result = unpack_bundle(bundle, workspace.root, reporter=reporter)
    manifest = result.manifest
    if as_json:
        values = {"workspace": str(result.folder), "faces_folder": None, **asdict(manifest)}
        if result.faces is not None:
            values["faces_folder"] = str(result.faces)
        click.echo(json.dumps(values, indent=2))
        return
    click.echo(f"{result.folder}: {counted(len(manifest.members), 'file')}, all as packed")
    click.echo(f"engines: {', '.join(manifest.engines) or 'none'}")
    following_command = "lpx build --int8"
    if manifest.engines:
        following_command = "lpx predict photo.png"
    if result.faces is not None and manifest.faces is not None:
        click.echo(f"faces: {manifest.faces.count} in {result.faces}")
        if manifest.engines:
            following_command = f"lpx predict --crops {shlex.quote(str(result.faces))}"
    click.echo(following(following_command, workspace))
