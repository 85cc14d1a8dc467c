"""`lpx ablate`: what each part of the method adds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from lpx.cli.options import json_option
from lpx.cli.train import needs_training, weights_file


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Real faces with landmarks: faces.csv and landmarks.npz.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for results.")
@click.option(
    "--pseudo-fakes",
    default="sbi,alpha",
    show_default=True,
    help="Kinds to train on; the others measure what was not seen.",
)
@click.option("--weights", metavar="FILE|imagenet", help="Backbone to start from.")
@click.option("--backbones", default="tf_efficientnet_lite0", show_default=True, help="By commas.")
@click.option(
    "--cuts", default="stage3", show_default=True, help="Of the local variants, by commas."
)
@click.option("--variants", default="whole,direct,indirect", show_default=True)
@click.option("--ld", default="0,0.1", show_default=True, help="Weights of local diversity.")
@click.option("--seeds", default=2, show_default=True, help="Number of seeds.")
@click.option("--input-size", default=128, show_default=True, help="Side of the crop, pixels.")
@click.option("--steps", default=400, show_default=True, help="Optimiser steps per training.")
@click.option("--pairs", default=12, show_default=True, help="Pairs of real and fake per step.")
@click.option("--lr", default=1e-3, show_default=True)
@click.option("--workers", default=1, show_default=True)
@json_option
def ablate(
    data: Path,
    out: Path,
    pseudo_fakes: str,
    weights: str | None,
    backbones: str,
    cuts: str,
    variants: str,
    ld: str,
    seeds: int,
    input_size: int,
    steps: int,
    pairs: int,
    lr: float,
    workers: int,
    as_json: bool,
) -> None:
    """Train the grid {whole + GAP, local direct, local indirect} x {LD off, on} over seeds.

    Every seed splits the identities differently; AUC is measured on those that training did not
    see. A grid that was stopped goes on when the command is given again.
    """
    with needs_training():
        from lpx.training.ablation import VARIANTS, grid, run_grid
        from lpx.training.ablation_report import contrasts, draw, summarise, to_markdown
        from lpx.training.recipe import Recipe
    from lpx.errors import LpxError
    from lpx.workspace import check_writable, write_bytes, write_json

    chosen = tuple(v for v in VARIANTS if v in variants.split(","))
    if set(variants.split(",")) - set(VARIANTS):
        raise LpxError(f"unknown variants in {variants!r}", f"known: {', '.join(VARIANTS)}")
    kinds = tuple(pseudo_fakes.split(","))
    base = Recipe(
        input_size=input_size,
        pseudo_fakes=kinds,
        steps=steps,
        pairs=pairs,
        learning_rate=lr,
        steps_per_epoch=max(1, steps // 4),
    )
    cells = grid(
        tuple(backbones.split(",")),
        tuple(cuts.split(",")),
        chosen,
        _numbers(ld),
        seeds,
    )
    check_writable(out, "ablation.json", "ablation.md", "ablation.png")
    results = run_grid(
        cells,
        base,
        data,
        weights_file(weights),
        out,
        workers,
        lambda text: click.echo(text, err=True),
    )
    rows = summarise(results)
    table = to_markdown(rows, contrasts(results), kinds)
    values = {"base": base.to_dict(), "results": [asdict(r) for r in results]}
    write_json(out / "ablation.json", values)
    write_bytes(out / "ablation.md", table.encode())
    write_bytes(out / "ablation.png", draw(rows))
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    click.echo(table)
    click.echo(f"{out}: ablation.json, ablation.md, ablation.png")


def _numbers(listed: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in listed.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{listed!r} is not a list of numbers", param_hint="--ld"
        ) from None
