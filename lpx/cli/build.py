"""`lpx build`: build engines from the exported model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lpx.cli.options import data_options, following, json_option, weight_options, workspace_option
from lpx.cli.search import SearchFlags, run_search, search_options
from lpx.cli.tensorrt_options import tensorrt_options
from lpx.plain import plain
from lpx.workspace import read_sealed

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace
    from lpx.engines.manifest import EngineManifest
    from lpx.engines.tensorrt_options import TensorRTOptions
    from lpx.graph.qdq.weights import WeightOptions


@click.command()
@click.option("--fp32", is_flag=True, help="Build a float32 engine.")
@click.option("--fp16", is_flag=True, help="Build a float16 engine.")
@click.option("--int8", is_flag=True, help="Build an INT8 engine, calibrated on --faces.")
@click.option(
    "--target",
    default="auto",
    show_default=True,
    metavar="TARGET",
    help="auto, onnxruntime (CPU), onnxruntime-cuda, onnxruntime-tensorrt, "
    "onnxruntime-tensorrt-rtx, tensorrt or tensorrt-rtx.",
)
@click.option(
    "--faces",
    envvar="LPX_FACES",
    metavar="DIR|DATASET",
    help="Faces to calibrate on. By default the ranges in the workspace are kept; if it has none, "
    "the demo faces are used, with a warning.",
)
@click.option(
    "--limit",
    default=512,
    show_default=True,
    help="Maximum number of calibration faces, sampled evenly.",
)
@click.option(
    "--method",
    metavar="METHOD",
    help="Calibration method: max, percentile-99.999, percentile-99.99, percentile-99.9, mse or "
    "entropy. By default the one that `lpx calibrate` chose, else percentile-99.99.",
)
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Precision plan for INT8: which layers stay in float, and how others are quantised. In "
    "FP16 engines, only its layers in float32 count.",
)
@search_options
@data_options
@tensorrt_options
@click.option(
    "--emit",
    type=click.Choice(("trtexec",)),
    help="Build nothing; write graphs, and scripts that build and time engines with trtexec, for "
    "machines without Python.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Output folder of --emit. By default trtexec in the workspace.",
)
@weight_options
@workspace_option
@json_option
def build(
    fp32: bool,
    fp16: bool,
    int8: bool,
    target: str,
    faces: str | None,
    limit: int,
    method: str | None,
    plan: Path | None,
    searching: SearchFlags,
    tensorrt: TensorRTOptions,
    emit: str | None,
    out: Path | None,
    weights: WeightOptions,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Build engines of the exported model.

    Name one or several precisions; by default FP32 and INT8 are built, or FP16 and INT8 with --dla.
    If one of several cannot be built, the others are, and the exit code is 1.

    With --int8 --search, exit code 1 means that no engine holds AUC, and 5 that none that holds is
    shown to be faster than the float engine.
    """
    from lpx.api.build import DeadEngineError, NotAllBuiltError
    from lpx.cli.console import ConsoleReporter
    from lpx.engines.manifest import PRECISIONS, Precision

    asked = dict(zip(PRECISIONS, (fp32, fp16, int8), strict=True))
    unnamed: tuple[Precision, ...] = ("fp32", "int8")
    if tensorrt.dla_core is not None:
        # A DLA core has no float32.
        unnamed = ("fp16", "int8")
    precisions = tuple(p for p in PRECISIONS if asked[p]) or unnamed
    searching.check(int8=int8, others=fp32 or fp16, plan=plan is not None, emit=bool(emit))
    if searching.search:
        run_search(
            workspace,
            searching,
            target,
            faces,
            limit,
            method,
            weights,
            tensorrt,
            as_json=as_json,
        )
        return
    if emit:
        if target not in ("auto", "tensorrt"):
            raise click.UsageError("--target cannot be combined with --emit trtexec")
        with ConsoleReporter() as reporter:
            folder = workspace.emit(
                precisions,
                out=out,
                faces=faces,
                limit=limit,
                method=method,
                weights=weights,
                tensorrt=tensorrt,
                plan=plan,
                reporter=reporter,
            )
        _show_emitted(folder, as_json)
        return
    if out is not None:
        raise click.UsageError("--out needs --emit: engines are written to the workspace (-w DIR)")
    failure: NotAllBuiltError | DeadEngineError | None = None
    with ConsoleReporter() as reporter:
        try:
            manifests = workspace.build(
                precisions,
                target=target,
                faces=faces,
                limit=limit,
                method=method,
                weights=weights,
                tensorrt=tensorrt,
                plan=plan,
                reporter=reporter,
            )
        except (NotAllBuiltError, DeadEngineError) as error:
            manifests, failure = error.built, error
    if as_json:
        click.echo(json.dumps({"engines": [asdict(m) for m in manifests]}, indent=2))
    else:
        _show(workspace, manifests)
    if failure is not None:
        raise failure


def _show(workspace: Workspace, manifests: Sequence[EngineManifest]) -> None:
    from lpx.engines.manifest import UNKNOWN, percent

    for manifest in manifests:
        file = workspace.engines / manifest.name / manifest.file
        counts = {p: n for p, n in manifest.convolutions.items() if n}
        runs = ", ".join(f"{n} {p.replace(UNKNOWN, 'not recognised')}" for p, n in counts.items())
        click.echo(f"{file}: {file.stat().st_size / 2**20:.1f} MiB, convolutions: {runs}")
        if manifest.int8_share is not None:
            share = percent(manifest.int8_share)
            click.echo(f"  {share} of the multiply-accumulates run in integers")
        if manifest.calibration:
            c = manifest.calibration
            if c["face_count"]:
                click.echo(
                    f"  calibrated on {c['face_count']} faces of {c['faces']}, {c['method']}"
                )
            else:
                click.echo(plain(f"  ranges imported from {c['faces']}"))
        if manifest.plan is not None:
            click.echo(f"  {manifest.precision_plan.summary()}")
        if manifest.precision == "fp32" and manifest.options.get("tf32") is False:
            click.echo("  TF32 is off: float32 is multiplied with all its bits")
        _show_options(manifest)
        for warning in manifest.warnings:
            click.echo(plain(f"  note: {warning}"))
    measured_on = _to_measure(manifests)
    click.echo(following(f"lpx bench --dataset {measured_on or 'OTHER-FACES'}", workspace))
    if not measured_on:
        click.echo("  (labelled faces that were not calibrated on)")


def _to_measure(manifests: Sequence[EngineManifest]) -> str:
    """Return the set to bench on: the calibration set if it has another split for that; else ""."""
    for manifest in manifests:
        found = manifest.calibration or {}
        name = str(found.get("faces", "demo"))
        if found.get("face_count") and name != "demo":
            # Without splits, bench would refuse the faces that ranges come from.
            return "" if found.get("split") in ("all", "") else shlex.quote(name)
    return "demo"


def _show_emitted(folder: Path, as_json: bool) -> None:
    manifest = read_sealed(folder / "manifest.json", "lpx build --emit trtexec")
    if as_json:
        click.echo(json.dumps({"folder": str(folder), **manifest}, indent=2))
        return
    click.echo(f"written: {folder}")
    for name in ("README.txt", *manifest["files"], *(g["file"] for g in manifest["graphs"])):
        click.echo(f"  {name}")
    click.echo("next: copy the folder to the target machine, and run the script of its TensorRT")


def _show_options(manifest: EngineManifest) -> None:
    spread = manifest.options.get("builds")
    if spread and len(spread["seconds"]) > 1:
        found = {
            "s": spread["seconds"],
            "MiB": [size / 2**20 for size in spread["sizes"]],
            "layers": spread["layers"],
            "ms": spread["latency_ms"],
        }
        ranges = ", ".join(_between(values, unit) for unit, values in found.items() if values)
        click.echo(
            f"  {len(spread['seconds'])} builds gave {spread['distinct']} different plans: "
            f"{ranges}; kept number {spread['kept'] + 1}"
        )
    core = manifest.tensorrt.dla_core
    if core is not None:
        fallback: list[str] = manifest.options["gpu_fallback"]
        text = f"  {len(fallback)} layers beside DLA core {core}, on the GPU"
        if fallback:
            text += f": {', '.join(fallback[:5])}"
        if len(fallback) > 5:
            text += ", ..."
        click.echo(text)


def _between(values: Sequence[float], unit: str) -> str:
    low, high = (f"{value:.4g}" for value in (min(values), max(values)))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
