"""`lpx export`: checkpoint to ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lpx.cli.options import following, json_option, workspace_option

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace


def _triple(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter("three numbers, as 0.5,0.5,0.5") from error
    if len(numbers) != 3:
        raise click.BadParameter("three numbers, as 0.5,0.5,0.5")
    if not all(0 <= number <= 1 for number in numbers):
        raise click.BadParameter("numbers from 0 to 1: divide values for pixels of 0..255 by 255")
    if parameter.name == "std" and not all(numbers):
        raise click.BadParameter("pixels are divided by it: it must not be 0")
    return numbers


# What may be said of a model that a factory makes: how it wants its faces.
_OF_A_FACTORY = ("input_size", "mean", "std", "channel_order", "fake_class", "outputs")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@click.option("--opset", default=20, show_default=True, help="ONNX opset, 17 (TensorRT 8.6) to 20.")
@click.option("--backbone", help="Architecture of a state dict that brings no card.")
@click.option("--cut", help="Stage after which its backbone ends (whole).")
@click.option("--bottleneck", type=int, help="Channels of its head's bottleneck (0).")
@click.option("--aggregate", help="mean_prob, lse, topk or mean_logit (mean_prob).")
@click.option("--aggregate-parameter", type=float, help="r of lse, fraction of topk.")
@click.option(
    "--input-size", type=click.IntRange(1), help="Side of its face crops in pixels (256)."
)
@click.option("--mean", callback=_triple, metavar="R,G,B", help="Channel means of [0, 1] pixels.")
@click.option(
    "--std",
    callback=_triple,
    metavar="R,G,B",
    help="Channel deviations; those of the backbone's public weights by default.",
)
@click.option(
    "--channel-order", type=click.Choice(["RGB", "BGR"]), help="Order its network wants (RGB)."
)
@click.option(
    "--fake-class",
    type=click.IntRange(0, 1),
    help="Which class of its network is fake; of one output, 0 says that high means real (1).",
)
@click.option(
    "--outputs",
    type=click.Choice(["probabilities", "logits"]),
    help="What the model of --factory returns; probabilities where its values lie in [0, 1].",
)
@click.option(
    "--weights-key",
    metavar="NAME",
    help="Which weights to take from a file that holds several, such as ema or model.state_dict.",
)
@click.option(
    "--tolerance",
    type=float,
    help="Largest difference of a score or map cell between export and checkpoint (1e-4, or the "
    "model's own float32 noise).",
)
@click.option(
    "--verify-faces", default=8, show_default=True, help="Faces that the export is verified on."
)
@click.option(
    "--factory",
    metavar="PKG.MOD:FUNC",
    help="A callable that makes any nn.Module of faces [B,3,H,W] -> score, or (score, map).",
)
@workspace_option
@json_option
def export(
    checkpoint: Path | None,
    opset: int,
    backbone: str | None,
    factory: str | None,
    weights_key: str | None,
    tolerance: float | None,
    verify_faces: int,
    workspace: Workspace,
    as_json: bool,
    **foreign: object,
) -> None:
    """Export CHECKPOINT to ONNX, with preprocessing inside, and verify it on faces.

    CHECKPOINT is an lpx checkpoint, or a plain state dict with --backbone and what else its
    training chose, or weights of a model that --factory makes.
    """
    from lpx.cli.console import ConsoleReporter
    from lpx.errors import LpxError
    from lpx.models.checkpoint import ForeignModel

    given = {name: value for name, value in foreign.items() if value is not None}
    if given and backbone is None and factory is None:
        raise LpxError(
            f"{_flag(next(iter(given)))} without --backbone or --factory",
            "these options describe a model that brings no card",
            "add --backbone NAME, or leave them out for an lpx checkpoint",
        )
    described = [name for name in given if name not in _OF_A_FACTORY]
    if factory is not None and (backbone is not None or described):
        raise LpxError(
            f"{'--backbone' if backbone is not None else _flag(described[0])} with --factory",
            "the factory's model has an architecture of its own",
            f"leave it out; beside --factory go {', '.join(map(_flag, _OF_A_FACTORY))}",
        )
    if "outputs" in given and factory is None:
        raise LpxError(
            "--outputs without --factory",
            "it says what a factory's model returns; a backbone's head returns logits",
            "leave it out",
        )
    description = None
    if backbone is not None or factory is not None:
        description = ForeignModel(architecture=backbone or str(factory), **given)  # type: ignore[arg-type]
    with ConsoleReporter() as reporter:
        result = workspace.export(
            checkpoint,
            opset=opset,
            foreign=description,
            factory=factory,
            weights_key=weights_key,
            tolerance=tolerance,
            verify_faces=verify_faces,
            reporter=reporter,
        )
    check = result.verification
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    click.echo(
        f"{result.model}: opset {result.opset}, {result.model.stat().st_size / 2**20:.1f} MiB"
    )
    click.echo(
        f"verified on {check.faces} faces: max |score difference| "
        f"{check.max_score_difference:.1e}, max |map difference| {check.max_map_difference:.1e} "
        f"(worst face {check.worst_face})"
    )
    if check.noise is not None:
        click.echo(
            f"float32 is that coarse for this model: PyTorch itself differs from float64 by "
            f"{check.noise.score:.1e} (score) and {check.noise.map:.1e} (map) on these faces"
        )
    if check.exact is not None:
        click.echo(
            f"ONNX Runtime's float32 is coarser still; with both in float64 the graph differs from "
            f"PyTorch by {check.exact.score:.1e} (score) and {check.exact.map:.1e} (map)"
        )
    click.echo(following("lpx build --int8", workspace))
