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
        raise click.BadParameter("must be three numbers, such as 0.5,0.5,0.5") from error
    if len(numbers) != 3:
        raise click.BadParameter("must be three numbers, such as 0.5,0.5,0.5")
    if not all(0 <= number <= 1 for number in numbers):
        raise click.BadParameter("must be numbers from 0 to 1: divide values for 0..255 by 255")
    if parameter.name == "std" and not all(numbers):
        raise click.BadParameter("must not be 0: pixels are divided by it")
    return numbers


# Options that describe a factory's model: the preprocessing that it needs.
_OF_A_FACTORY = ("input_size", "mean", "std", "channel_order", "fake_class", "outputs")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@click.option("--opset", default=20, show_default=True, help="ONNX opset, 17 (TensorRT 8.6) to 20.")
@click.option("--backbone", help="Backbone of a state dict without a model card.")
@click.option("--cut", help="Stage after which the backbone is cut.  [default: whole]")
@click.option("--bottleneck", type=int, help="Channels of the head's bottleneck.  [default: 0]")
@click.option("--aggregate", help="mean_prob, lse, topk or mean_logit.  [default: mean_prob]")
@click.option("--aggregate-parameter", type=float, help="r of lse, fraction of topk.")
@click.option(
    "--input-size",
    type=click.IntRange(1),
    help="Side of the model's face crops, pixels.  [default: 256]",
)
@click.option("--mean", callback=_triple, metavar="R,G,B", help="Channel means of [0, 1] pixels.")
@click.option(
    "--std",
    callback=_triple,
    metavar="R,G,B",
    help="Channel standard deviations.  [default: those of the backbone's public weights]",
)
@click.option(
    "--channel-order",
    type=click.Choice(["RGB", "BGR"]),
    help="Channel order of the model's input.  [default: RGB]",
)
@click.option(
    "--fake-class",
    type=click.IntRange(0, 1),
    help="Class that means fake; for a model with one output, 0 if high scores mean real.  "
    "[default: 1]",
)
@click.option(
    "--outputs",
    type=click.Choice(["probabilities", "logits"]),
    help="Outputs of the model of --factory.  [default: probabilities if they are in [0, 1]]",
)
@click.option(
    "--weights-key",
    metavar="NAME",
    help="Key of the weights in a file with several sets, such as ema or model.state_dict.",
)
@click.option(
    "--tolerance",
    type=float,
    help="Largest difference of a score or map value between export and checkpoint.  "
    "[default: 1e-4, or the model's own float32 noise]",
)
@click.option(
    "--verify-faces",
    default=8,
    show_default=True,
    help="Number of faces to verify the export on.",
)
@click.option(
    "--factory",
    metavar="PKG.MOD:FUNC",
    help="Callable that returns an nn.Module: faces [B,3,H,W] -> score, or (score, map).",
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
    """Export CHECKPOINT to ONNX, with preprocessing included, and verify it on faces.

    CHECKPOINT is an lpx checkpoint, a plain state dict (with --backbone and further options of its
    training), or the weights of a --factory's model.
    """
    from lpx.cli.console import ConsoleReporter
    from lpx.errors import LpxError
    from lpx.models.checkpoint import ForeignModel

    given = {name: value for name, value in foreign.items() if value is not None}
    if given and backbone is None and factory is None:
        raise LpxError(
            f"{_flag(next(iter(given)))} without --backbone or --factory",
            "these options describe a model without a model card",
            "add --backbone NAME, or omit them for an lpx checkpoint",
        )
    described = [name for name in given if name not in _OF_A_FACTORY]
    if factory is not None and (backbone is not None or described):
        raise LpxError(
            f"{'--backbone' if backbone is not None else _flag(described[0])} with --factory",
            "the factory defines the architecture of its model",
            f"omit it; --factory can be combined with {', '.join(map(_flag, _OF_A_FACTORY))}",
        )
    if "outputs" in given and factory is None:
        raise LpxError(
            "--outputs without --factory",
            "it describes the outputs of a factory's model; a backbone's head returns logits",
            "omit it",
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
            f"this is within float32 noise: PyTorch itself differs from float64 by "
            f"{check.noise.score:.1e} (score) and {check.noise.map:.1e} (map) on these faces"
        )
    if check.exact is not None:
        click.echo(
            f"ONNX Runtime's float32 noise is larger; with both in float64, the graph differs from "
            f"PyTorch by {check.exact.score:.1e} (score) and {check.exact.map:.1e} (map)"
        )
    click.echo(following("lpx build --int8", workspace))
