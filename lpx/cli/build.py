"""`lpx build`: ONNX to engines."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from lpx.cli.options import following, json_option, weight_options, workspace_option
from lpx.workspace import Workspace

if TYPE_CHECKING:
    from lpx.graph.weights import WeightOptions


@click.command()
@click.option("--fp32", is_flag=True, help="Build a float32 engine.")
@click.option("--fp16", is_flag=True, help="Build a float16 engine.")
@click.option("--int8", is_flag=True, help="Build an INT8 engine, calibrated on --faces.")
@click.option("--target", default="auto", show_default=True, metavar="TARGET",
              help="auto, onnxruntime, tensorrt or tensorrt-rtx.")  # fmt: skip
@click.option(
    "--faces",
    envvar="LPX_FACES",
    metavar="DIR|DATASET",
    help="Faces to calibrate on. Where none are given: those of `lpx calibrate`, else the demo "
    "faces, with a warning.",
)
@click.option("--count", default=512, show_default=True, help="Most faces to calibrate on.")
@click.option("--method", metavar="METHOD",
              help="max, percentile-99.999, percentile-99.99, percentile-99.9, mse or entropy; by "
              "default what `lpx calibrate` chose, else percentile-99.99.")  # fmt: skip
@click.option("--compute-capability", default="", metavar="8.6,8.9,...",
              help="GPUs to build for without having them (tensorrt-rtx).")  # fmt: skip
@click.option("--workspace-mib", type=int, help="Cap on TensorRT's scratch memory, in MiB.")
@weight_options
@workspace_option
@json_option
def build(
    fp32: bool, fp16: bool, int8: bool, target: str, faces: str | None, count: int,
    method: str | None, compute_capability: str, workspace_mib: int | None,
    weights: WeightOptions, requantise: bool, workspace: Workspace, as_json: bool,
) -> None:  # fmt: skip
    """Build engines of the exported model.

    Several precisions at once are fine; with none named, FP32 and INT8 are built.
    """
    from lpx import pipeline
    from lpx.cli.console import ConsoleReporter
    from lpx.engines.manifest import PRECISIONS

    asked = dict(zip(PRECISIONS, (fp32, fp16, int8), strict=True))
    precisions = tuple(p for p in PRECISIONS if asked[p]) or ("fp32", "int8")
    with ConsoleReporter() as report:
        manifests = pipeline.build(
            workspace,
            precisions,
            target=target,
            faces=faces,
            count=count,
            method=method,
            compute_capabilities=tuple(compute_capability.replace(",", " ").split()),
            workspace_mib=workspace_mib,
            weights=weights,
            requantise=requantise,
            report=report,
        )
    if as_json:
        click.echo(json.dumps({"engines": [asdict(m) for m in manifests]}, indent=2))
        return
    for manifest in manifests:
        file = workspace.engines / manifest.name / manifest.file
        runs = ", ".join(f"{n} {p}" for p, n in manifest.convolutions.items() if n)
        click.echo(f"{file}: {file.stat().st_size / 2**20:.1f} MiB, convolutions: {runs}")
        if manifest.calibration:
            c = manifest.calibration
            click.echo(f"  calibrated on {c['face_count']} faces of {c['faces']}, {c['method']}, "
                       f"{c['seconds']:.1f} s")  # fmt: skip
        for warning in manifest.warnings:
            click.echo(f"  note: {warning}")
    click.echo(following("lpx bench --dataset demo", workspace))
