"""Tables and the figure of an ablation."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from lpx.data.pseudo_fakes.blend import KINDS
from lpx.training.ablation.grid import CellResult, GridCell, Variant

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OTHERS = ("localisation", "over real", "similarity")
# Fill of a marker, by weight of local diversity, 0 first.
_FILLS: tuple[Literal["none", "bottom", "full"], ...] = ("none", "bottom", "full")
LABELS: dict[Variant, str] = {
    "whole": "whole + GAP",
    "direct": "LP, direct",
    "indirect": "LP, indirect",
}
_MARKERS: dict[Variant, str] = {"whole": "o", "direct": "s", "indirect": "D"}


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its 95 % confidence interval.

    Attributes:
        mean: The mean.
        half_width: Half the width of the interval by Student's t; None for a single value.
    """

    mean: float
    half_width: float | None

    def text(self, style: str) -> str:
        """Return "0.850 ± 0.013".

        Args:
            style: Format of the mean, such as ".3f".
        """
        if self.half_width is None:
            return f"{self.mean:{style}}"
        return f"{self.mean:{style}} ± {self.half_width:.3f}"


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Return the mean of values and its 95 % interval by Student's t."""
    # SciPy takes half a second to import.
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return MeanInterval(mean, None)
    # The standard deviation of a sample (n - 1), as the t distribution assumes.
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return MeanInterval(mean, float(t.ppf(0.975, len(values) - 1)) * error)


@dataclass(frozen=True)
class SettingSummary:
    """All seeds of one setting.

    Attributes:
        cell: The setting, with its first seed.
        receptive_field: Side of what a unit sees, pixels; None if the model is not local.
        gmac: Multiply-accumulates of one face, 1e9.
        seeds: Number of trainings.
        measures: Mean over seeds of each measure.
    """

    cell: GridCell
    receptive_field: int | None
    gmac: float
    seeds: int
    measures: dict[str, MeanInterval]


def summarise(results: Iterable[CellResult]) -> tuple[SettingSummary, ...]:
    """Group results by setting, over seeds, in their order."""
    groups: dict[tuple[object, ...], list[CellResult]] = {}
    for result in results:
        cell = result.cell
        groups.setdefault((cell.backbone, cell.variant, cell.cut, cell.ld), []).append(result)
    return tuple(map(_summary, groups.values()))


def _summary(members: list[CellResult]) -> SettingSummary:
    values: dict[str, list[float]] = {}
    for member in members:
        for measure, value in _measures(member).items():
            values.setdefault(measure, []).append(value)
    # Architecture and cost are the same for all seeds.
    first = members[0]
    return SettingSummary(
        first.cell, first.receptive_field, first.gmac, len(members), _mean_intervals(values)
    )


def _mean_intervals(values: dict[str, list[float]]) -> dict[str, MeanInterval]:
    return {measure: mean_interval(numbers) for measure, numbers in values.items()}


@dataclass(frozen=True)
class Contrast:
    """The effect of one change, all else equal.

    Attributes:
        name: The change.
        pairs: Pairs of trainings that differ in it alone (same seed, faces and pseudo-fakes).
        measures: Mean difference over pairs of each measure.
    """

    name: str
    pairs: int
    measures: dict[str, MeanInterval]


# Returns the cell to compare a cell with, None if the change does not concern it.
_Counterpart = Callable[[GridCell], GridCell | None]


def contrasts(results: Iterable[CellResult]) -> tuple[Contrast, ...]:
    """Return local diversity on minus off, indirect minus direct, local minus whole.

    Trainings with one seed see the same faces, so pairs show a change that means over seeds hide.
    """
    by_cell = {result.cell: result for result in results}
    changes: list[tuple[str, _Counterpart]] = []
    weights = sorted({cell.ld for cell in by_cell} - {0.0})
    changes += [(f"LD {weight:g} - LD off", _without_ld(weight)) for weight in weights]
    changes.append(("LP, indirect - LP, direct", _other_variant("indirect", "direct")))
    changes.append(("LP, indirect - whole + GAP", _other_variant("indirect", "whole")))
    contrasts = []
    for name, counterpart in changes:
        contrast = _contrast(name, by_cell, counterpart)
        # A grid need not have both sides of every change.
        if contrast.pairs:
            contrasts.append(contrast)
    return tuple(contrasts)


def _without_ld(weight: float) -> _Counterpart:
    def counterpart(cell: GridCell) -> GridCell | None:
        if cell.ld != weight:
            return None
        return replace(cell, ld=0.0)

    return counterpart


def _other_variant(variant: Variant, other: Variant) -> _Counterpart:
    def counterpart(cell: GridCell) -> GridCell | None:
        if cell.variant != variant:
            return None
        if other == "whole":
            return replace(cell, variant=other, cut="whole")
        return replace(cell, variant=other)

    return counterpart


def _contrast(
    name: str, by_cell: dict[GridCell, CellResult], counterpart: _Counterpart
) -> Contrast:
    differences: dict[str, list[float]] = {}
    pairs = 0
    for cell, result in by_cell.items():
        other_cell = counterpart(cell)
        if other_cell is None or other_cell not in by_cell:
            continue
        pairs += 1
        other = _measures(by_cell[other_cell])
        for measure, value in _measures(result).items():
            differences.setdefault(measure, []).append(value - other[measure])
    return Contrast(name, pairs, _mean_intervals(differences))


def _measures(result: CellResult) -> dict[str, float]:
    return {
        **result.auc,
        "localisation": result.localisation,
        "over real": result.localisation_over_real,
        "similarity": result.similarity,
    }


def to_markdown(
    settings: Sequence[SettingSummary], changes: Sequence[Contrast], seen: Sequence[str]
) -> str:
    """Return Markdown tables of settings and of contrasts.

    Args:
        settings: Rows of the first table.
        changes: Rows of the second table.
        seen: Kinds of pseudo-fakes that training saw; the others are marked.
    """
    measures = []
    for kind in KINDS:
        # Kinds that were not trained on show how far a detector generalises.
        if kind not in seen:
            kind = f"{kind} (unseen)"
        measures.append(kind)
    measures += _OTHERS
    names = ["backbone", "model", "cut", "RF px", "GMAC", "LD", "seeds", *measures]
    lines = [_row(names), "|" + "---|" * len(names)]
    for setting in settings:
        cell = setting.cell
        field = "-"
        if setting.receptive_field is not None:
            field = str(setting.receptive_field)
        shape = [cell.backbone, LABELS[cell.variant], cell.cut, field, f"{setting.gmac:.3f}"]
        numbers = _numbers(setting.measures, ".3f")
        lines.append(_row([*shape, f"{cell.ld:g}", str(setting.seeds), *numbers]))
    if changes:
        lines += ["", _row(["difference", "pairs", *measures])]
        lines += ["|" + "---|" * (2 + len(measures))]
    for change in changes:
        lines.append(_row([change.name, str(change.pairs), *_numbers(change.measures, "+.3f")]))
    return "\n".join(lines) + "\n"


def _numbers(measures: dict[str, MeanInterval], style: str) -> list[str]:
    return [measures[name].text(style) for name in (*KINDS, *_OTHERS)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def draw(settings: Sequence[SettingSummary]) -> bytes:
    """Plot AUC against receptive field and against cost; returns a PNG."""
    # Matplotlib takes most of a second to import.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    # "off" has the first fill even if the grid has no training without local diversity.
    weights = sorted({0.0, *(setting.cell.ld for setting in settings)})
    for variant in LABELS:
        for weight in weights:
            chosen = (variant, weight)
            series = [one for one in settings if (one.cell.variant, one.cell.ld) == chosen]
            fill = _FILLS[min(weights.index(weight), len(_FILLS) - 1)]
            _plot(left, [one.receptive_field for one in series], series, fill)
            _plot(right, [one.gmac for one in series], series, fill)
    left.set(xlabel="receptive field, px", ylabel="mean AUC over kinds, unseen identities")
    right.set(xlabel="GMAC per face")
    _add_legend(figure, left, right)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130)
    return data.getvalue()


def _plot(
    axes: Axes,
    positions: Sequence[float | None],
    series: list[SettingSummary],
    fill: Literal["none", "bottom", "full"],
) -> None:
    """Plot the mean AUC of one variant with one weight; settings without an x are left out."""
    shown, means = [], []
    for x, setting in zip(positions, series, strict=True):
        # The whole backbone has no receptive field.
        if x is not None:
            shown.append(x)
            means.append(float(np.mean([setting.measures[kind].mean for kind in KINDS])))
    # An empty series would still have an entry in the legend.
    if not shown:
        return
    cell = series[0].cell
    diversity = f"{cell.ld:g}" if cell.ld else "off"
    axes.plot(
        shown,
        means,
        _MARKERS[cell.variant],
        color=f"C{list(_MARKERS).index(cell.variant)}",
        fillstyle=fill,
        label=f"{LABELS[cell.variant]}, LD {diversity}",
    )


def _add_legend(figure: Figure, *axes: Axes) -> None:
    """Add every series once: models without a receptive field are in one of the plots only."""
    by_label: dict[str, Artist] = {}
    for one in axes:
        handles, labels = one.get_legend_handles_labels()
        by_label.update(zip(labels, handles, strict=True))
    figure.legend(list(by_label.values()), list(by_label), fontsize=8, loc="outside right upper")
