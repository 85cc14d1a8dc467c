"""`lpx package`: a project that runs an engine without Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lpx.api.package import KINDS, PackageKind
from lpx.cli.options import json_option, workspace_option

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace


@click.command()
@click.option(
    "--for",
    "kind",
    type=click.Choice(KINDS),
    required=True,
    help="cpp: a CMake project for TensorRT 8.6 to 11.",
)
@click.option(
    "--engine",
    metavar="NAME",
    help="Engine to package.  [default: a TensorRT plan, else the lowest precision that was built]",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to write, new or empty.  [default: cpp in the workspace]",
)
@workspace_option
@json_option
def package(
    kind: PackageKind, engine: str | None, out: Path | None, workspace: Workspace, as_json: bool
) -> None:
    """Write a project that scores faces with TensorRT in C++, without Python.

    The program reads raw RGB faces and prints a line of JSON for each. It includes one face and its
    expected score as a self-test. If the workspace has no TensorRT plan, the project has a script
    that builds it on the other machine with trtexec.
    """
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as reporter:
        result = workspace.package(kind, out, engine=engine, reporter=reporter)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    click.echo(f"written: {result.folder}")
    click.echo(f"  self-test: one face, score {result.expected_score:.4f} +/- {result.tolerance:g}")
    click.echo("next: copy the folder to the machine, and follow its README.md")
