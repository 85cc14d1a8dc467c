"""`lpx calibrate`: activation ranges from faces, and the best method for the model."""

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
    weight_options,
    workspace_option,
)
from lpx.cli.ray import ray_options
from lpx.cli.shards import check_shard, shard_options, show_part

if TYPE_CHECKING:
    from lpx.api.calibrate import CalibrationResult
    from lpx.api.workspace import Workspace
    from lpx.graph.qdq.weights import WeightOptions


@click.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option(
    "--faces",
    envvar="LPX_FACES",
    metavar="DIR|DATASET",
    help="Faces to select from.  [default: the demo faces]",
)
@click.option(
    "--limit",
    default=512,
    show_default=True,
    help="Maximum number of calibration faces, sampled evenly.",
)
@click.option(
    "--select",
    default="stratified",
    show_default=True,
    help="Face selection: stratified (by label and method, with balanced identities), random, or "
    "coverage (faces that widen the ranges).",
)
@click.option(
    "--method",
    default="auto",
    show_default=True,
    help="Calibration method: auto (the best on held-out faces), max, percentile-99.999, "
    "percentile-99.99, percentile-99.9, mse or entropy.",
)
@click.option("--seed", default=0, show_default=True, help="Random seed for face selection.")
@click.option("--curve", is_flag=True, help="Plot the error against the number of faces.")
@click.option(
    "--export-cache",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the scales as a TensorRT calibration cache.",
)
@click.option(
    "--import-cache",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Import the scales from a TensorRT calibration cache instead of calibrating.",
)
@shard_options
@ray_options
@weight_options
@data_options
@workspace_option
@json_option
def calibrate(
    model: Path | None,
    faces: str | None,
    limit: int,
    select: str,
    method: str,
    seed: int,
    curve: bool,
    export_cache: Path | None,
    import_cache: Path | None,
    shard: str | None,
    out: Path | None,
    weights: WeightOptions,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Calibrate the exported model (or MODEL), and evaluate every method on held-out faces.

    Writes scales.json and calibration-faces.json to the workspace, for `lpx build --int8`.
    """
    from lpx.api import calibrate as calibrate_api
    from lpx.artefacts import calibration_cache
    from lpx.cli.console import ConsoleReporter

    check_shard(shard, out, ("model", "curve", "export_cache", "import_cache"))
    if import_cache is not None:
        _import(workspace, import_cache, model, as_json)
        return
    if shard is not None:
        with ConsoleReporter() as reporter:
            part = workspace.shard(shard, out=out).calibrate(
                faces,
                limit=limit,
                select=select,
                method=method,
                seed=seed,
                weights=weights,
                reporter=reporter,
            )
        show_part(part, workspace, as_json=as_json)
        return
    with ConsoleReporter() as reporter:
        result = workspace.calibrate(
            faces,
            model=model,
            limit=limit,
            select=select,
            method=method,
            seed=seed,
            curve=curve,
            weights=weights,
            reporter=reporter,
        )
    written = [workspace.scales, workspace.root / "calibration-faces.json"]
    if curve:
        written.append(workspace.root / "calibration-curve.png")
        calibrate_api.draw_curve(result.curve, result.scales.method, written[-1])
    if export_cache is not None:
        data, _ = calibrate_api.read_model(workspace, model)
        calibration_cache.export_cache(data, result.scales, export_cache, weights)
        written.append(export_cache)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    show(result)
    for path in written:
        click.echo(f"written: {path}")
    flags = weight_flags(weights)
    click.echo(following(f"lpx build --int8{flags}", workspace))


def _import(workspace: Workspace, cache: Path, model: Path | None, as_json: bool) -> None:
    from lpx.artefacts import calibration_cache
    from lpx.cli.console import ConsoleReporter

    source = click.get_current_context().get_parameter_source("faces")
    if source is click.core.ParameterSource.COMMANDLINE or model is not None:
        raise click.UsageError(
            "--import-cache cannot be combined with --faces or MODEL: the cache replaces "
            "calibration, and must belong to the workspace's model"
        )
    with ConsoleReporter() as reporter:
        scales = calibration_cache.import_cache(workspace, cache, reporter)
    if as_json:
        values = {
            "imported": str(cache),
            "tensors": len(scales.tensors),
            "method": scales.method,
            "warning": scales.warning,
        }
        click.echo(json.dumps(values, indent=2))
        return
    click.echo(f"{len(scales.tensors)} scales imported from {cache}")
    click.echo(f"written: {workspace.scales}")
    click.echo(following("lpx build --int8", workspace))


def show(result: CalibrationResult) -> None:
    """Print the table of methods, best first, with warnings and notes."""
    from rich import box
    from rich.table import Table

    from lpx.cli.console import Output

    console = Output()
    scales = result.scales
    console.say(
        f"{scales.faces.count} faces of {scales.faces.name} in {result.pass_seconds:.1f} s "
        f"(float32 alone: {result.forward_seconds:.1f} s), peak memory "
        f"{result.peak_rss_mib:.0f} MiB"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for name in ("mean |ds|", "max |ds|", "mean |dmap|", "AUC", "loss"):
        table.add_column(name, justify="right", no_wrap=True)
    for c in result.candidates:
        table.add_row(
            c.method + (" *" if c.method == scales.method else ""),
            f"{c.score_error_mean:.5f}",
            f"{c.score_error_max:.5f}",
            f"{c.map_error_mean:.5f}",
            "" if c.auc is None else f"{c.auc:.4f}",
            "" if c.auc_loss is None else f"{round(c.auc_loss, 4) + 0.0:+.4f}",
        )
    console.print(table)
    console.say(f"* selected; measured on {result.held_out} held-out faces in ONNX Runtime")
    if any(c.auc_loss is not None for c in result.candidates):
        console.say(
            "sorted by mean score error; methods with a significant AUC loss (95 %) are listed "
            "last, and gains in AUC (negative losses) are ignored"
        )
    for text in (scales.warning, *result.notes):
        if text:
            console.say(f"note: {text}")
