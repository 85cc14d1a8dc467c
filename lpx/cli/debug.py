"""`lpx debug`: the layer where an engine diverges from the float32 graph."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lpx.cli.options import factory_option, host_code_option, json_option, workspace_option

if TYPE_CHECKING:
    from rich.table import Table

    from lpx.api.debug import DebugResult
    from lpx.api.workspace import Workspace
    from lpx.layerwise.compare import LayerError

_WORST = 10


@click.command()
@click.argument("engine")
@click.option(
    "--faces",
    envvar="LPX_FACES",
    metavar="DIR|DATASET",
    help="Faces to compare on.  [default: the demo faces]",
)
@click.option(
    "--limit",
    default=16,
    show_default=True,
    help="Maximum number of faces to compare.",
)
@click.option(
    "--tolerance",
    type=float,
    metavar="REL",
    help="Largest relative error ||d|| / ||x|| of a layer.  [default: 0.001 for fp32 (0.02 in "
    "TensorRT), 0.02 for fp16, 0.25 for int8]",
)
@click.option(
    "--against",
    type=click.Choice(("onnx", "torch")),
    default="onnx",
    show_default=True,
    help="Reference: the exported graph, or the checkpoint's modules.",
)
@click.option(
    "--sensitivity", is_flag=True, help="Show the effect of each layer alone on the score."
)
@click.option(
    "--runtime",
    type=click.Choice(("onnxruntime", "tensorrt")),
    help="Runtime that computes the engine's tensors.  [default: TensorRT for TensorRT engines "
    "that run on this machine, else ONNX Runtime]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for layers.json and layers.png.  [default: debug/ENGINE in the workspace]",
)
@host_code_option
@factory_option
@workspace_option
@json_option
def debug(
    engine: str,
    faces: str | None,
    limit: int,
    tolerance: float | None,
    against: str,
    sensitivity: bool,
    runtime: str | None,
    out: Path | None,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Compare every layer of ENGINE, such as onnxruntime-int8, with the float32 graph.

    Reports the first layer beyond the tolerance, and the layer that causes its error: each layer is
    also run alone, on the float32 graph's tensors, to separate its own error from inherited ones.

    TensorRT engines are rebuilt with intermediate tensors exposed, which takes as long as the
    build; the engine itself is not changed. Errors introduced by TensorRT are reported separately
    from errors already in the graph. If TensorRT cannot run the engine on this machine, its graph
    is run in ONNX Runtime.

    Exit codes: 0 within tolerance, 1 beyond it.
    """
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as reporter:
        result = workspace.debug(
            engine,
            faces=faces,
            limit=limit,
            tolerance=tolerance,
            against=against,  # type: ignore[arg-type]
            sensitivity=sensitivity,
            runtime=runtime,  # type: ignore[arg-type]
            out=out,
            reporter=reporter,
        )
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    else:
        show(result)
    sys.exit(0 if result.verdict.first is None else 1)


def show(result: DebugResult) -> None:
    """Print the worst layers, the notes and the verdict."""
    from lpx.cli.console import Output

    console = Output()
    found = result.comparison
    console.say(
        f"{result.engine}{_by(result)} against {result.against}: {len(found.layers)} layers on "
        f"{result.count} faces of {result.faces}; score differs by {found.score_mean:.2g} on "
        f"average, {found.score_max:.2g} at most"
    )
    console.print(_table(result))
    console.say(_caption(result))
    for note in result.notes:
        console.say(f"note: {note}")
    console.say(headline(result), "bold red" if result.verdict.first else "bold green")
    console.say(f"written: {result.picture} and {result.table.name}")


def headline(result: DebugResult) -> str:
    """Return the verdict in one sentence."""
    first, culprit = result.verdict.first, result.verdict.culprit
    if first is None:
        worst = max(result.comparison.layers, key=lambda e: e.total.relative)
        return (
            f"within tolerance: no layer's error exceeds {result.tolerance:g}; the largest is "
            f"{worst.total.relative:.2g} in {worst.layer.name}"
        )
    text = f"first layer beyond {result.tolerance:g}: {first.layer.name}, off by {_off(first)}"
    if result.verdict.by_runtime:
        assert culprit is not None
        return f"{text}; TensorRT deviates from the engine's graph from {culprit.layer.name} on"
    if first.runtime is not None:
        text += f" (TensorRT deviates from the engine's graph by only {first.runtime.relative:.2g})"
    if culprit is None or culprit.own is None:
        return text
    if not culprit.own.relative <= result.tolerance:
        cause = "caused by the layer itself"
        if culprit is not first:
            cause = f"caused by {culprit.layer.name}"
        return f"{text}, {cause}"
    return (
        f"{text}; no layer alone is beyond it, the largest error of a layer alone is "
        f"{culprit.own.relative:.2g}, in {culprit.layer.name}"
    )


def _by(result: DebugResult) -> str:
    return " in TensorRT" if result.runtime == "tensorrt" else ""


def _off(error: LayerError) -> str:
    if error.total.not_finite:
        return f"{error.total.not_finite} values that are NaN or infinite"
    return f"{error.total.relative:.2g}"


def _caption(result: DebugResult) -> str:
    by = "'alone'" if _alone(result) else "'total'"
    if _apart(result):
        by += " or 'TensorRT'"
    if _effects(result):
        by = "'score'"
    shown = len(_rows(result))
    text = f"the {shown} worst of {len(result.comparison.layers)} layers by {by}; errors are "
    text += "||d|| / ||x||; 'total': as the engine runs"
    if _alone(result):
        text += "; 'alone': the layer on the float32 graph's tensors"
    if _apart(result):
        text += "; 'TensorRT': the engine compared with its graph in ONNX Runtime"
    if _effects(result):
        text += "; 'score': mean and largest |score difference| if only this layer is lowered"
    return text


def _alone(result: DebugResult) -> bool:
    return all(e.own is not None for e in result.comparison.layers)


def _apart(result: DebugResult) -> bool:
    return all(e.runtime is not None for e in result.comparison.layers)


def _effects(result: DebugResult) -> bool:
    return all(e.effect is not None for e in result.comparison.layers)


def _rows(result: DebugResult) -> list[LayerError]:
    """Return the worst layers and those that the verdict names, in graph order."""

    def badness(error: LayerError) -> tuple[float, ...]:
        effect = 0.0
        if error.effect is not None:
            effect = error.effect.score_mean
        parts = []
        for part in (error.own, error.runtime):
            if part is not None:
                parts.append(part.relative)
        return effect, max(parts, default=0.0), error.total.relative

    layers = result.comparison.layers
    chosen = sorted(layers, key=badness, reverse=True)[:_WORST]
    named = (result.verdict.first, result.verdict.culprit)
    return [e for e in layers if e in chosen or e in named]


def _table(result: DebugResult) -> Table:
    from rich import box
    from rich.table import Table

    alone, apart, effects = _alone(result), _apart(result), _effects(result)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layer", overflow="fold")
    table.add_column("in", no_wrap=True)
    columns = ["total", *["alone"] * alone, *["TensorRT"] * apart]
    if effects:
        columns += ["score", "max"]
    else:
        columns += [*["SQNR dB"] * alone, "max |d|"]
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for error in _rows(result):
        style = None
        if error in (result.verdict.first, result.verdict.culprit):
            style = "red"
        table.add_row(error.layer.name, error.computes_in, *_cells(error), style=style)
    return table


def _cells(error: LayerError) -> list[str]:
    """Return the numbers of a layer, for the columns that it has numbers for."""
    total, own, effect = error.total, error.own, error.effect
    # In the order of the columns in `_table`.
    cells = [f"{total.relative:.2g}"]
    for part in (own, error.runtime):
        if part is not None:
            cells.append(f"{part.relative:.2g}")
    if effect is not None:
        return [*cells, f"{effect.score_mean:.2g}", f"{effect.score_max:.2g}"]
    if own is not None:
        cells.append(f"{own.sqnr_db:.1f}")
    return [*cells, f"{total.max_abs:.2g}"]
