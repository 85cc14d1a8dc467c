"""`lpx package`: what other programs need to run an engine."""

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
    help="cpp: a CMake project for TensorRT 8.6 to 11. deepstream: graphs, configurations, probes.",
)
@click.option(
    "--engine",
    metavar="NAME",
    help="Engine to package.  [default: a TensorRT plan, else the lowest precision that was built]",
)
@click.option(
    "--own-crop",
    is_flag=True,
    help="For deepstream: something else in the pipeline sets the boxes as the model's crop recipe "
    "says.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to write, new or empty.  [default: named after --for, in the workspace]",
)
@workspace_option
@json_option
def package(
    kind: PackageKind,
    engine: str | None,
    own_crop: bool,
    out: Path | None,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Write what another program needs to run an engine without lpx.

    cpp: a project that scores faces with TensorRT in C++. The program reads raw RGB faces and
    prints a line of JSON for each. If the workspace has no TensorRT plan, the project has a script
    that builds it on the other machine with trtexec.

    deepstream: configurations for the faces that a face detector finds in DeepStream, a script that
    builds engines in the form that nvinfer takes, and a probe that enlarges boxes by the model's
    crop recipe.

    Each includes one face and its expected score as a self-test.
    """
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as reporter:
        result = workspace.package(kind, out, engine=engine, own_crop=own_crop, reporter=reporter)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    click.echo(f"written: {result.folder}")
    click.echo(f"  self-test: one face, score {result.expected_score:.4f} +/- {result.tolerance:g}")
    click.echo("next: copy the folder to the machine, and follow its README.md")
