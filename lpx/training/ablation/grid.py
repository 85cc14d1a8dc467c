"""The grid of an ablation: its settings, its trainings, and their results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from lpx.arguments import check_at_least, check_choice, check_fields, check_number, several
from lpx.models.backbones import BACKBONES
from lpx.training.recipe import Recipe

# Whole backbone with average pooling; label on every unit; label on the aggregated score.
Variant = Literal["whole", "direct", "indirect"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)


# The names of these fields, and of those of `CellResult`, are keys of result.json.
@dataclass(frozen=True)
class GridCell:
    """Settings of one training of the grid.

    Attributes:
        variant: What is local, and where the label goes.
        backbone: A key of `lpx.models.backbones.BACKBONES`.
        cut: Stage to cut after, "whole" for the variant of that name.
        ld: Weight of local diversity; 0 for off.
        seed: Random seed.
    """

    variant: Variant
    backbone: str
    cut: str
    ld: float
    seed: int

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """Name of the training's folder."""
        return f"{self.backbone}-{self.cut}-{self.variant}-ld{self.ld:g}-seed{self.seed}"

    def recipe(self, base: Recipe) -> Recipe:
        """Return the base recipe with this cell's settings."""
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
class CellResult:
    """Measurements of one training of the grid.

    Attributes:
        cell: Its settings.
        receptive_field: Side of what a unit sees, pixels; None if the model is not local.
        gmac: Multiply-accumulates of one face, 1e9.
        auc: AUC per kind of pseudo-fake, on identities that training never saw.
        localisation: Pixel AUC of the map against the masks of alpha-blended swaps.
        localisation_over_real: Pixel AUC of the map's difference from its mean over real faces; see
            `lpx.training.localisation.Localisation`.
        similarity: Mean cosine between a face's regions, as the local-diversity loss compares them.
        minutes: Wall time.
    """

    cell: GridCell
    receptive_field: int | None
    gmac: float
    auc: dict[str, float]
    localisation: float
    localisation_over_real: float
    similarity: float
    minutes: float


@dataclass(frozen=True)
class AblationGrid:
    """Settings to combine: every variant with every backbone, cut and weight, for every seed.

    Attributes:
        backbones: One backbone or several; every cut is tried with every backbone.
        cuts: Stages to cut after, one or several, for the local variants.
        variants: One or several of `VARIANTS`.
        diversity_weights: Weights of local diversity; 0 for off.
        seeds: Number of seeds, counted from 0.

    Raises:
        InvalidArgumentError: A field has a value that it cannot have.
    """

    backbones: tuple[str, ...] = ("tf_efficientnet_lite0",)
    cuts: tuple[str, ...] = ("stage3",)
    variants: tuple[Variant, ...] = VARIANTS
    diversity_weights: tuple[float, ...] = (0.0, 0.1)
    seeds: int = 2

    def __post_init__(self) -> None:
        for name in ("backbones", "cuts", "variants"):
            # A single name may come as text.
            object.__setattr__(self, name, several(name, getattr(self, name)))
        check_fields(self)
        for backbone in self.backbones:
            check_choice("backbones", backbone, BACKBONES)
        for weight in self.diversity_weights:
            check_number("diversity_weights", weight, least=0)
        check_at_least("seeds", self.seeds, 1)

    def cells(self) -> tuple[GridCell, ...]:
        """Return all trainings, seed by seed: an interrupted grid then has complete rounds."""
        cells: list[GridCell] = []
        for seed in range(self.seeds):
            for backbone in self.backbones:
                # In the order of `VARIANTS`, which is also that of the report.
                for variant in VARIANTS:
                    if variant in self.variants:
                        cells += self._cells_of(variant, backbone, seed)
        return tuple(cells)

    def _cells_of(self, variant: Variant, backbone: str, seed: int) -> list[GridCell]:
        cuts = ("whole",) if variant == "whole" else self.cuts
        cells: list[GridCell] = []
        for cut in cuts:
            for weight in self.diversity_weights:
                cells.append(GridCell(variant, backbone, cut, weight, seed))
        return cells
