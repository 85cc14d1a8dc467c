"""`lpx package`: what other programs need to run an engine without lpx."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from lpx.api.package import KINDS, PackageKind
from lpx.cli.options import json_option, workspace_option

if TYPE_CHECKING:
    from lpx.api.package.cpp import CppResult
    from lpx.api.package.deepstream import DeepStreamResult
    from lpx.api.package.triton import TritonResult
    from lpx.api.workspace import Workspace
    from lpx.deploy.triton.batching import Batching


def _names(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    if value is None:
        return None
    return tuple(filter(None, (name.strip() for name in value.split(","))))


@click.command()
@click.option(
    "--for",
    "kind",
    type=click.Choice(KINDS),
    required=True,
    help="cpp: a CMake project for TensorRT 8.6 to 11. triton: a model repository for Triton "
    "Inference Server. deepstream: graphs, configurations and probes for DeepStream.",
)
@click.option(
    "--engine",
    metavar="NAME",
    help="cpp, deepstream: engine to package.  [default: a TensorRT plan, else the lowest "
    "precision that was built]",
)
@click.option(
    "--engines",
    callback=_names,
    metavar="NAMES",
    help="triton: comma-separated engines to serve.  [default: all that Triton can serve]",
)
@click.option(
    "--also",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="WORKSPACE",
    help="triton: another workspace or bundle with TensorRT plans of the same model, for other "
    "GPUs; repeatable.",
)
@click.option(
    "--name", metavar="TEXT", help="triton: first part of the models' names.  [default: detector]"
)
@click.option(
    "--vnni",
    is_flag=True,
    help="triton: keep int8 weights in INT8 graphs for ONNX Runtime. Faster on x86 processors with "
    "VNNI; wrong scores on those without.",
)
@click.option(
    "--own-crop",
    is_flag=True,
    help="deepstream: something else in the pipeline sets the boxes as the model's crop recipe "
    "says.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to write, new or empty.  [default: a folder of the kind's name in the workspace]",
)
@workspace_option
@json_option
def package(
    kind: PackageKind,
    engine: str | None,
    engines: tuple[str, ...] | None,
    also: tuple[Path, ...],
    name: str | None,
    vnni: bool,
    own_crop: bool,
    out: Path | None,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Write what another program needs to run an engine without lpx.

    cpp: a program that reads raw RGB faces and prints a line of JSON for each. If the workspace has
    no TensorRT plan, the project has a script that builds it on the other machine with trtexec.

    triton: a model repository, a script that starts the server, and a client. Engines of one
    runtime and precision become one model, which has a plan for each GPU's compute capability.

    deepstream: configurations for the faces that a face detector finds in DeepStream, a script that
    builds engines in the form that nvinfer takes, and a probe that enlarges boxes by the model's
    crop recipe.

    Each includes one face and its expected score as a self-test.
    """
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as reporter:
        result = workspace.package(
            kind,
            out,
            engine=engine,
            engines=engines,
            also=also,
            name=name,
            vnni=vnni,
            own_crop=own_crop,
            reporter=reporter,
        )
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    elif kind == "triton":
        show_triton(cast("TritonResult", result))
    else:
        _show_project(cast("CppResult | DeepStreamResult", result))


def _show_project(result: CppResult | DeepStreamResult) -> None:
    click.echo(f"written: {result.folder}")
    click.echo(f"  self-test: one face, score {result.expected_score:.4f} +/- {result.tolerance:g}")
    click.echo("next: copy the folder to the machine, and follow its README.md")


def show_triton(result: TritonResult) -> None:
    """Print which models were packaged for Triton."""
    click.echo(f"written: {result.folder}")
    for model in result.models:
        click.echo(f"  {model.name}: {_batches(model.batching)}")
        if model.compute_capabilities:
            click.echo(f"    GPUs: compute capability {', '.join(model.compute_capabilities)}")
        click.echo(
            f"    self-test: one face, score {model.expected_score:.4f} +/- {model.tolerance:g}"
        )
        for note in model.notes:
            click.echo(f"    note: {note}")
    click.echo("next: copy the folder to the server, and follow its README.md")


def _batches(batching: Batching) -> str:
    """Return how many faces are scored at a time, and how long one waits for others."""
    if batching.largest == 1:
        return "one face at a time"
    text = f"batches of up to {batching.largest} faces"
    if batching.preferred:
        sizes = " or ".join(map(str, batching.preferred))
        return f"{text}, waiting up to {batching.delay_us} µs to fill one of {sizes} (measured)"
    why = "its latency was not measured"
    if batching.measured:
        why = "in the last bench no larger batch took less time per face"
    return f"{text}, without waiting for more ({why})"
