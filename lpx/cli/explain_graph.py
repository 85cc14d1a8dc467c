"""`lpx explain-graph`: the nodes that would be quantised, and the reasons."""

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
    help=f"{', '.join(TARGETS[:-1])} or {TARGETS[-1]}; it does not have to be installed.",
)
@click.option(
    "--dialect",
    type=click.Choice(_DIALECTS),
    metavar="DIALECT",
    help="Dialect of the graph for TensorRT: strongly-typed, weakly-typed, calibration-cache or "
    "dla-explicit.  [default: strongly-typed; onnxruntime for target onnxruntime]",
)
@click.option("--equalise", is_flag=True, help="Equalise channels first, and list the changes.")
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Follow a precision plan, as `lpx build --plan` does.",
)
@click.option("--requantise", is_flag=True, help="Remove Q/DQ pairs that the model has.")
@min_channels_option
@workspace_option
@json_option
def explain_graph(
    source: Path | None,
    target: str,
    dialect: str | None,
    equalise: bool,
    plan: Path | None,
    requantise: bool,
    min_channels: int,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Show which nodes of a model would be quantised to INT8, and why.

    The model is an ONNX file, or the exported model of a workspace. Nothing is calibrated or built;
    for an engine, its manifest.json has the same information under "placement".
    """
    from lpx.artefacts.plan_file import read_plan
    from lpx.engines.build import expected_work, placement_of
    from lpx.engines.onnxruntime.gpu import check_int8
    from lpx.graph.model_io import name_nodes, parse
    from lpx.graph.qdq.apply_plan import check_plan, tensor_methods
    from lpx.graph.qdq.plan import NO_PLAN
    from lpx.graph.qdq.prepare import prepare_model

    check_int8(target)  # type: ignore[arg-type]
    followed = NO_PLAN if plan is None else read_plan(plan)
    path = _model(source, workspace)
    data = read_regular(path)
    chosen = _dialect(target, dialect)
    prepared, pairs = prepare_model(data, str(path), equalised=equalise, requantise=requantise)
    graph = parse(prepared, str(path))
    name_nodes(graph)
    digest = hashlib.sha256(data).hexdigest()
    check_plan(followed, graph, digest)
    placement = placement_of(graph, target, chosen, min_channels, followed)  # type: ignore[arg-type]
    # Refuses methods that contradict each other, as a build does.
    tensor_methods(placement, followed)
    work = expected_work(graph, placement, chosen)
    if as_json:
        values = {
            "model": str(path),
            "model_sha256": digest,
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
            "pass an ONNX file, or run `lpx export ckpt.pt` first",
            code="not-found",
        )
    return path


def _dialect(target: str, dialect: str | None) -> str:
    own = "onnxruntime" if target == "onnxruntime" else "strongly-typed"
    if dialect is None:
        return own
    if dialect == own or (target == "tensorrt" and dialect != "onnxruntime"):
        return dialect
    raise LpxError(
        f"target {target} does not support {dialect} graphs",
        "tensorrt supports all dialects but onnxruntime, every other target only one",
        f"omit --dialect to use {own}, or use another --target",
    )


def to_values(placement: Placement, pairs: tuple[Pair, ...]) -> dict[str, Any]:
    """Return a placement and its equalisation as plain values, for `--json`."""
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
        click.echo(f"{share} run in integers in ONNX Runtime, after its graph optimisations")
    else:
        click.echo(
            f"{share} are offered to TensorRT in INT8; an engine's manifest.json lists what it uses"
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
