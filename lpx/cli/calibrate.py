"""`lpx calibrate`: activation ranges from faces, and the best method for the model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpx.cli.options import (
    data_options,
    following,
    json_option,
    weight_flags,
    weight_options,
    workspace_option,
)
from lpx.data.roots import DataPlaces
from lpx.workspace import Workspace

if TYPE_CHECKING:
    from lpx.api.calibrating import Calibrated
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
    weights: WeightOptions,
    requantise: bool,
    places: DataPlaces,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Calibrate the exported model (or MODEL), and evaluate every method on held-out faces.

    Writes scales.json and calibration-faces.json to the workspace, for `lpx build --int8`.
    """
    from lpx.api import calibrating
    from lpx.artefacts import calibration_cache
    from lpx.cli.console import ConsoleReporter

    if import_cache is not None:
        _import(workspace, import_cache, model, as_json)
        return
    with ConsoleReporter() as report:
        done = calibrating.calibrate(
            workspace,
            faces,
            model_path=model,
            limit=limit,
            select=select,
            method=method,
            seed=seed,
            curve=curve,
            weights=weights,
            requantise=requantise,
            places=places,
            report=report,
        )
    written = [workspace.scales, workspace.root / "calibration-faces.json"]
    if curve:
        written.append(workspace.root / "calibration-curve.png")
        calibrating.draw_curve(done.curve, done.scales.method, written[-1])
    if export_cache is not None:
        data, _ = calibrating.read_model(workspace, model)
        calibration_cache.export_cache(data, done.scales, export_cache, weights, requantise)
        written.append(export_cache)
    if as_json:
        click.echo(json.dumps(to_json(done), indent=2))
        return
    show(done)
    for path in written:
        click.echo(f"written: {path}")
    flags = weight_flags(weights, requantise)
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
    with ConsoleReporter() as report:
        scales = calibration_cache.import_cache(workspace, cache, report)
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


def to_json(done: Calibrated) -> dict[str, Any]:
    """Return the object that `--json` prints."""
    scales = done.scales
    return {
        "faces": scales.faces.count,
        "held_out_faces": done.held_out,
        "set": scales.faces.name,
        "forward_seconds": done.forward_seconds,
        "calibration_seconds": scales.pass_seconds,
        "wall_seconds": scales.seconds,
        "peak_rss_mib": round(done.peak_rss_mib, 1),
        "method": scales.method,
        "methods": {c.method: asdict(c) for c in done.candidates},
        "curve": [{"faces": p.faces, **asdict(p.evidence)} for p in done.curve],
        "warning": scales.warning,
        "notes": list(done.notes),
    }


def show(done: Calibrated) -> None:
    """Print the table of methods, best first, with warnings and notes."""
    from rich import box
    from rich.table import Table

    from lpx.cli.console import Output

    console = Output()
    scales = done.scales
    console.say(
        f"{scales.faces.count} faces of {scales.faces.name} in {scales.pass_seconds:.1f} s "
        f"(float32 alone: {done.forward_seconds:.1f} s), peak memory {done.peak_rss_mib:.0f} MiB"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for name in ("mean |ds|", "max |ds|", "mean |dmap|", "AUC", "loss"):
        table.add_column(name, justify="right", no_wrap=True)
    for c in done.candidates:
        table.add_row(
            c.method + (" *" if c.method == scales.method else ""),
            f"{c.score_error_mean:.5f}",
            f"{c.score_error_max:.5f}",
            f"{c.map_error_mean:.5f}",
            "" if c.auc is None else f"{c.auc:.4f}",
            "" if c.auc_loss is None else f"{round(c.auc_loss, 4) + 0.0:+.4f}",
        )
    console.print(table)
    console.say(f"* selected; measured on {done.held_out} held-out faces in ONNX Runtime")
    if any(c.auc_loss is not None for c in done.candidates):
        console.say(
            "sorted by mean score error; methods with a significant AUC loss (95 %) are listed "
            "last, and gains in AUC (negative losses) are ignored"
        )
    for text in (scales.warning, *done.notes):
        if text:
            console.say(f"note: {text}")
