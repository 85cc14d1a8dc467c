"""`lpx explain-graph`: what would be quantised, and why."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpx.cli.options import json_option, min_channels_option, workspace_option
from lpx.engines.manifest import TARGETS, percent
from lpx.errors import LpxError
from lpx.plain import plain
from lpx.workspace import WorkspaceFolder, read_regular

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace
    from lpx.graph.qdq.equalise import Pair
    from lpx.graph.qdq.placement import Placement

_DIALECTS = ("onnxruntime", "strongly-typed", "weakly-typed", "calibration-cache", "dla-explicit")


@click.command("explain-graph")
@click.argument(
    "source", metavar="[MODEL.onnx|DIR]", required=False, type=click.Path(path_type=Path)
)
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default="tensorrt",
    show_default=True,
    metavar="TARGET",
    help=f"{', '.join(TARGETS[:-1])} or {TARGETS[-1]}; it need not be installed.",
)
@click.option(
    "--dialect",
    type=click.Choice(_DIALECTS),
    metavar="DIALECT",
    help="Form of the graph: strongly-typed (default), weakly-typed, calibration-cache or "
    "dla-explicit; for onnxruntime its own.",
)
@click.option("--equalise", is_flag=True, help="Equalise channels first, and show what it did.")
@click.option("--requantise", is_flag=True, help="Take out Q/DQ pairs that the model has.")
@min_channels_option
@workspace_option
@json_option
def explain_graph(
    source: Path | None,
    target: str,
    dialect: str | None,
    equalise: bool,
    requantise: bool,
    min_channels: int,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Show which nodes of a model INT8 would quantise, and why.

    The model is an ONNX file, or the one exported into a workspace. Nothing is calibrated or
    built; an engine's manifest.json says the same of the engine, under "placement".
    """
    from lpx.engines.build import expected_work, placement_of
    from lpx.engines.onnxruntime.gpu import check_int8
    from lpx.graph.model_io import name_nodes, parse
    from lpx.graph.qdq.prepare import prepare

    check_int8(target)  # type: ignore[arg-type]
    path = _model(source, workspace)
    data = read_regular(path)
    chosen = _dialect(target, dialect)
    prepared, pairs = prepare(data, str(path), equalised=equalise, requantise=requantise)
    graph = parse(prepared, str(path))
    name_nodes(graph)
    placement = placement_of(graph, target, chosen, min_channels)  # type: ignore[arg-type]
    work = expected_work(graph, placement, chosen)
    if as_json:
        values = {
            "model": str(path),
            "model_sha256": hashlib.sha256(data).hexdigest(),
            "target": target,
            "dialect": chosen,
            **to_values(placement, pairs),
            "multiply_accumulates": work,
        }
        click.echo(json.dumps(values, indent=2))
        return
    click.echo(f"{path} for {target}, {chosen}")
    _show(placement, pairs)
    _show_work(work, chosen)


def _model(source: Path | None, workspace: Workspace) -> Path:
    path = workspace.model if source is None else source
    if path.is_dir():
        path = WorkspaceFolder(path).model
    if not path.is_file():
        raise LpxError(
            f"{path} does not exist",
            "",
            "name an ONNX file, or run `lpx export ckpt.pt` first",
        )
    return path


def _dialect(target: str, dialect: str | None) -> str:
    own = "onnxruntime" if target == "onnxruntime" else "strongly-typed"
    if dialect is None:
        return own
    if dialect == own or (target == "tensorrt" and dialect != "onnxruntime"):
        return dialect
    raise LpxError(
        f"target {target} takes no {dialect} graph",
        "TensorRT takes any dialect but onnxruntime's, every other target takes one",
        f"leave --dialect out for {own}, or name another --target",
    )


def to_values(placement: Placement, pairs: tuple[Pair, ...]) -> dict[str, Any]:
    """What `--json` prints of a placement and of equalisation."""
    return {
        "nodes": [asdict(decision) for decision in placement.decisions],
        "tensors": list(placement.tensors),
        "shared_scales": [list(group) for group in placement.shared],
        "equalisation": [asdict(pair) for pair in pairs],
    }


def _show_work(work: dict[str, int], dialect: str) -> None:
    total = sum(work.values())
    if not total:
        return
    share = (
        f"{percent(work.get('int8', 0) / total)} of {total / 1e6:.4g} million multiply-accumulates"
    )
    if dialect == "onnxruntime":
        click.echo(f"{share} run in integers in ONNX Runtime, as its optimiser leaves the graph")
    else:
        click.echo(
            f"{share} are offered to TensorRT in INT8; an engine's manifest.json says what it takes"
        )


def _show(placement: Placement, pairs: tuple[Pair, ...]) -> None:
    width = max(len(decision.node) for decision in placement.decisions)
    for decision in placement.decisions:
        mark = "int8 " if decision.quantised else "float"
        click.echo(plain(f"{mark}  {decision.node:<{width}}  {decision.reason}"))
    convolutions = sum(decision.op_type == "Conv" for decision in placement.decisions)
    click.echo(
        f"{len(placement.convolutions)} of {convolutions} convolutions in INT8, "
        f"{len(placement.tensors)} activations with a scale"
    )
    for pair in pairs:
        done = f"{pair.scaled} of {pair.channels} channels scaled" if pair.second else "left alone"
        to = f" -> {pair.second}" if pair.second else ""
        click.echo(
            plain(f"equalised  {pair.first}{to}: {done}" + f" ({pair.reason})" * bool(pair.reason))
        )
