"""The ablation grid: what local prediction and local diversity each add, over several seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lpx.arguments import check_fields
from lpx.data.pseudo_fakes.training_pairs import open_training_data
from lpx.errors import LpxError
from lpx.models.checkpoint import load_checkpoint
from lpx.models.detector import LocalPredictionDetector, analyse_detector
from lpx.schema import SchemaError, read_record
from lpx.training.fit import Run, train, with_weights
from lpx.training.localisation import localise, region_similarity
from lpx.training.recipe import Recipe
from lpx.workspace import read_json, write_json

Variant = Literal["whole", "direct", "indirect"]
VARIANTS: tuple[Variant, ...] = ("whole", "direct", "indirect")
"""Whole backbone with average pooling; label on every unit; label on the aggregated score."""
HELD_OUT_FAKES = 100
"""Pseudo-fakes for localisation, and pairs for similarity."""


@dataclass(frozen=True)
class Cell:
    """One training of the grid."""

    variant: Variant
    backbone: str
    cut: str
    ld: float
    seed: int

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.backbone}-{self.cut}-{self.variant}-ld{self.ld:g}-seed{self.seed}"

    def recipe(self, base: Recipe) -> Recipe:
        """The base recipe with this cell's settings."""
        return replace(
            base,
            backbone=self.backbone,
            cut=self.cut,
            aggregate="mean_logit" if self.variant == "whole" else base.aggregate,
            supervision="direct" if self.variant == "direct" else "indirect",
            diversity=replace(base.diversity, weight=self.ld),
            seed=self.seed,
        )


@dataclass(frozen=True)
class Result:
    """What one cell showed.

    Attributes:
        cell: Its settings.
        receptive_field: Side in pixels; None where it is not local.
        gmac: Multiply-accumulates of one face, 1e9.
        auc: Per kind of pseudo-fake, on identities that training never saw.
        localisation: Pixel AUC of the map against the masks of alpha-blended swaps.
        localisation_over_real: The same of what the map shows beyond its mean over real faces; see
            `lpx.training.localisation.Localisation`.
        similarity: Mean cosine between a face's regions, as the local-diversity loss compares them.
        minutes: Wall time.
    """

    cell: Cell
    receptive_field: int | None
    gmac: float
    auc: dict[str, float]
    localisation: float
    localisation_over_real: float
    similarity: float
    minutes: float


def grid(
    backbones: tuple[str, ...],
    cuts: tuple[str, ...],
    variants: tuple[Variant, ...],
    lds: tuple[float, ...],
    seeds: int,
) -> tuple[Cell, ...]:
    """All cells, seeds outermost, so that an interrupted grid has whole rounds.

    Args:
        backbones: Names; every cut is tried with every backbone.
        cuts: Stages for the local variants; "whole" has the one cut of that name.
        variants: Of `VARIANTS`.
        lds: Weights of local diversity, 0 for off.
        seeds: Number of seeds, from 0 on.
    """
    return tuple(
        Cell(variant, backbone, cut, ld, seed)
        for seed in range(seeds)
        for backbone in backbones
        for variant in variants
        for cut in (("whole",) if variant == "whole" else cuts)
        for ld in lds
    )


def run_grid(
    cells: tuple[Cell, ...],
    base: Recipe,
    folder: Path,
    weights: Path | None,
    out: Path,
    workers: int,
    tell: Callable[[str], None],
) -> tuple[Result, ...]:
    """Train every cell that has no result yet.

    Args:
        cells: The grid.
        base: What all cells share.
        folder: Landmarked faces.
        weights: Initial weights of the whole backbone, or None.
        out: Receives a folder per cell; cells with `result.json` are not trained again.
        workers: Processes that make images.
        tell: Told of each cell.

    Raises:
        LpxError: As `lpx.training.fit.train`.
    """
    results = []
    for index, cell in enumerate(cells):
        recipe = with_weights(cell.recipe(base), weights)
        place = out / cell.name / "result.json"
        if not place.is_file():
            tell(f"{index + 1}/{len(cells)} {cell.name}")
            result = _run(cell, recipe, folder, weights, place.parent, workers)
            write_json(place, {"recipe": recipe.to_dict(), **asdict(result)})
        results.append(_read(place, recipe))
    return tuple(results)


def _run(
    cell: Cell, recipe: Recipe, folder: Path, weights: Path | None, out: Path, workers: int
) -> Result:
    run = Run(out / "ckpt.pt", workers=workers, quiet=True)
    trained = train(recipe, folder, weights, run)
    detector = load_checkpoint(run.out)
    assert isinstance(detector.module, LocalPredictionDetector)
    field = analyse_detector(detector.module, detector.card.input_size)
    held_out = open_training_data(folder, recipe.pseudo_fakes, recipe.seed).held_out
    located = localise(detector.module, detector.card, held_out, "alpha", HELD_OUT_FAKES)
    alike = region_similarity(
        detector.module, detector.card, held_out, recipe.diversity, HELD_OUT_FAKES
    )
    return Result(
        cell,
        field.size,
        round(field.gmac, 4),
        trained.held_out_auc,
        round(located.raw, 4),
        round(located.over_real, 4),
        round(alike, 4),
        round(trained.minutes, 2),
    )


def _read(path: Path, recipe: Recipe) -> Result:
    """A stored result, which must be of this recipe: a grid of mixed settings compares nothing."""
    values: dict[str, Any] = read_json(path, "lpx ablate")
    if different := recipe.differences(values.pop("recipe", {})):
        raise LpxError(
            f"{path} is of a training with other settings",
            "; ".join(different[:4]),
            "give the grid's own settings, or another --out",
        )
    try:
        return read_record(Result, values)
    except SchemaError as error:
        raise LpxError(
            f"{path} is damaged", str(error), "remove it, and run the same command again"
        ) from error
