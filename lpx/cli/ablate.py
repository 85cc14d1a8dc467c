"""`lpx ablate`: what each part of the method contributes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpx.cli.console import ConsoleReporter
from lpx.cli.options import json_option
from lpx.cli.ray import ray_options
from lpx.cli.train import command_line, names
from lpx.extras import optional_packages

if TYPE_CHECKING:
    from lpx.cluster.options import RayOptions


@click.command()
@click.option(
    "--data",
    "faces",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder of real faces with landmarks: faces.csv and landmarks.npz.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder for the results.",
)
@click.option(
    "--pseudo-fakes",
    default="sbi,alpha",
    show_default=True,
    metavar="KIND,...",
    help="Comma-separated kinds of fakes to train on: sbi, alpha, poisson. The others measure "
    "unseen fakes.",
)
@click.option(
    "--weights",
    metavar="FILE|imagenet",
    help="Weights that the backbone starts from. Random by default.",
)
@click.option(
    "--backbones",
    default="tf_efficientnet_lite0",
    show_default=True,
    metavar="NAME,...",
    help="Comma-separated backbones.",
)
@click.option(
    "--cuts",
    default="stage3",
    show_default=True,
    metavar="STAGE,...",
    help="Comma-separated stages to cut the local variants after.",
)
@click.option(
    "--variants",
    default="whole,direct,indirect",
    show_default=True,
    metavar="VARIANT,...",
    help="Comma-separated variants.",
)
@click.option(
    "--ld",
    "diversity_weights",
    default="0,0.1",
    show_default=True,
    metavar="WEIGHT,...",
    help="Comma-separated weights of the local-diversity loss, 0 for off.",
)
@click.option("--seeds", default=2, show_default=True, help="Number of seeds.")
@click.option("--input-size", default=128, show_default=True, help="Side of the face crop, pixels.")
@click.option("--steps", default=400, show_default=True, help="Optimiser steps per training.")
@click.option("--pairs", default=12, show_default=True, help="Pairs of real and fake per step.")
@click.option(
    "--lr",
    "learning_rate",
    default=1e-3,
    show_default=True,
    help="Learning rate of the backbone; three times as much for the head.",
)
@click.option("--workers", default=1, show_default=True, help="Processes that make images.")
@click.option("--devices", default="auto", show_default=True, help="Devices, as Lightning's.")
@click.option("--strategy", default="auto", show_default=True, help="Strategy, as Lightning's.")
@ray_options
@json_option
def ablate(
    faces: Path,
    out: Path,
    pseudo_fakes: str,
    weights: str | None,
    backbones: str,
    cuts: str,
    variants: Any,
    diversity_weights: str,
    seeds: int,
    steps: int,
    workers: int,
    devices: str,
    strategy: str,
    ray: RayOptions | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train the grid {whole + GAP, local direct, local indirect} x {LD off, on} over seeds.

    Every seed splits the identities differently; AUC is measured on those that training did not
    see. An interrupted ablation is resumed by the same command.
    """
    with optional_packages("training"):
        from lpx.training.ablation.ablating import ablate as run_ablation
        from lpx.training.ablation.grid import AblationGrid
        from lpx.training.recipe import Recipe
        from lpx.training.run import RunOptions
    recipe = Recipe(
        pseudo_fakes=names(pseudo_fakes),
        steps=steps,
        steps_per_epoch=max(1, steps // 4),
        **settings,
    )
    grid = AblationGrid(
        backbones=tuple(backbones.split(",")),
        cuts=tuple(cuts.split(",")),
        variants=tuple(variants.split(",")),
        diversity_weights=_numbers(diversity_weights),
        seeds=seeds,
    )
    result = run_ablation(
        recipe,
        faces,
        out,
        grid=grid,
        weights=weights,
        options=RunOptions(workers, devices, strategy),
        ray=ray,
        command=partial(command_line, starts_from_weights=weights is not None),
        reporter=ConsoleReporter(),
    )
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    click.echo(result.markdown)
    click.echo(f"{out}: ablation.json, ablation.md, ablation.png")


def _numbers(listed: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in listed.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{listed!r} is not a comma-separated list of numbers", param_hint="--ld"
        ) from None
