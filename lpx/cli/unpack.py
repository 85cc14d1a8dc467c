"""`lpx unpack`: a workspace out of one file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from lpx.cli.options import folder_option, following, json_option
from lpx.data.roots import expanded
from lpx.data.wording import counted
from lpx.workspace import WorkspaceFolder


def _folder_option(command: Callable[..., None]) -> Callable[..., None]:
    return folder_option(command, "Folder to unpack into, new or empty.")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--no-check",
    is_flag=True,
    help="Unpack also if the model gives the probe faces other scores on this machine.",
)
@_folder_option
@json_option
def unpack(bundle: Path, no_check: bool, workspace: str, as_json: bool) -> None:
    """Unpack BUNDLE, which `lpx pack` wrote, into a new workspace.

    Every file is checked against its SHA-256, and the exported model must give the probe faces the
    scores that they got where the bundle was packed. A bundle that is damaged, was altered or comes
    from a newer lpx is refused, and nothing is left behind. The checks find damage, not a forger:
    unpack bundles from a source you trust, or treat their contents like any other workspace.

    A bundle can also be used as a workspace, without this command: `-w detector.lpx` unpacks it
    into detector.lpx.d, once.
    """
    from lpx.bundle.unpack import unpack as unpack_bundle
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as reporter:
        result = unpack_bundle(bundle, expanded(workspace), check=not no_check, reporter=reporter)
    manifest = result.manifest
    if as_json:
        values = {
            "workspace": str(result.folder),
            "faces_folder": None,
            "checked": result.checked,
            **asdict(manifest),
        }
        if result.faces is not None:
            values["faces_folder"] = str(result.faces)
        click.echo(json.dumps(values, indent=2))
        return
    click.echo(f"{result.folder}: {counted(len(manifest.members), 'file')}, all as packed")
    if result.checked:
        click.echo("probe faces: scored here as where they were packed")
    elif not no_check:
        click.echo("probe faces: none, so that scores could not be checked")
    click.echo(f"engines: {', '.join(manifest.engines) or 'none'}")
    following_command = "lpx build --int8"
    if manifest.engines:
        following_command = "lpx predict photo.png"
    if result.faces is not None and manifest.faces is not None:
        click.echo(f"faces: {manifest.faces.count} in {result.faces}")
        if manifest.engines:
            following_command = f"lpx predict --crops {shlex.quote(str(result.faces))}"
    click.echo(following(following_command, WorkspaceFolder(result.folder)))
