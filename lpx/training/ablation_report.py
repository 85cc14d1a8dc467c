"""Table and figure of an ablation grid."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from lpx.data.pseudo_fakes.blend import KINDS
from lpx.training.ablation import Cell, Result, Variant

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_OTHERS = ("localisation", "over real", "similarity")
_FILLS: tuple[Literal["none", "bottom", "full"], ...] = ("none", "bottom", "full")
"""Of markers, by weight of local diversity, 0 first."""
LABELS = {"whole": "whole + GAP", "direct": "LP, direct", "indirect": "LP, indirect"}


@dataclass(frozen=True)
class Row:
    """All seeds of one setting.

    Attributes:
        cell: The setting, of its first seed.
        receptive_field: Pixels; None where it is not local.
        gmac: Multiply-accumulates of one face, 1e9.
        seeds: Trainings.
        measures: Mean and half-width of the 95 % interval over seeds (Student's t; None for a
            single seed), per measure.
    """

    cell: Cell
    receptive_field: int | None
    gmac: float
    seeds: int
    measures: dict[str, tuple[float, float | None]]


def summarise(results: Iterable[Result]) -> tuple[Row, ...]:
    """Group results by setting, over seeds, in their order."""
    groups: dict[tuple[object, ...], list[Result]] = {}
    for result in results:
        cell = result.cell
        groups.setdefault((cell.backbone, cell.variant, cell.cut, cell.ld), []).append(result)
    return tuple(_row(members) for members in groups.values())


def _row(members: list[Result]) -> Row:
    first = members[0]
    each = [_measures(m) for m in members]
    measures = {name: _interval([m[name] for m in each]) for name in each[0]}
    return Row(first.cell, first.receptive_field, first.gmac, len(members), measures)


@dataclass(frozen=True)
class Contrast:
    """What one change adds, all else equal.

    Attributes:
        name: The change.
        pairs: Pairs of trainings that differ in it alone (same seed, faces and pseudo-fakes).
        measures: Mean difference and half-width of its 95 % interval over pairs, per measure.
    """

    name: str
    pairs: int
    measures: dict[str, tuple[float, float | None]]


def contrasts(results: Iterable[Result]) -> tuple[Contrast, ...]:
    """Local diversity on against off, indirect against direct, local against whole, pair by pair.

    Trainings of one seed see the same faces, so pairs show a change that means over seeds hide.
    """
    found = list(results)
    weights = sorted({r.cell.ld for r in found} - {0.0})
    asked: list[tuple[str, Callable[[Cell], Cell | None]]] = [
        (f"LD {ld:g} - LD off", _without_ld(ld)) for ld in weights
    ]
    asked += [
        ("LP, indirect - LP, direct", _other_variant("indirect", "direct")),
        ("LP, indirect - whole + GAP", _other_variant("indirect", "whole")),
    ]
    by_cell = {result.cell: result for result in found}
    made = (_contrast(name, by_cell, other) for name, other in asked)
    return tuple(contrast for contrast in made if contrast.pairs)


def _without_ld(ld: float) -> Callable[[Cell], Cell | None]:
    return lambda cell: replace(cell, ld=0.0) if cell.ld == ld else None


def _other_variant(variant: Variant, other: Variant) -> Callable[[Cell], Cell | None]:
    def counterpart(cell: Cell) -> Cell | None:
        if cell.variant != variant:
            return None
        return replace(cell, variant=other, cut="whole" if other == "whole" else cell.cut)

    return counterpart


def _contrast(
    name: str, by_cell: dict[Cell, Result], other: Callable[[Cell], Cell | None]
) -> Contrast:
    pairs = [(r, by_cell.get(other(cell))) for cell, r in by_cell.items()]  # type: ignore[arg-type]
    changes = [(_measures(a), _measures(b)) for a, b in pairs if b is not None]
    names = changes[0][0] if changes else {}
    measures = {k: _interval([a[k] - b[k] for a, b in changes]) for k in names}
    return Contrast(name, len(changes), measures)


def _measures(result: Result) -> dict[str, float]:
    extra = {
        "localisation": result.localisation,
        "over real": result.localisation_over_real,
        "similarity": result.similarity,
    }
    return {**result.auc, **extra}


def _interval(values: list[float]) -> tuple[float, float | None]:
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, float(t.ppf(0.975, len(values) - 1)) * error


def to_markdown(rows: tuple[Row, ...], changes: tuple[Contrast, ...], seen: tuple[str, ...]) -> str:
    """Markdown tables of settings and of contrasts; kinds that training did not see are marked."""
    measures = [k if k in seen else f"{k} (unseen)" for k in KINDS] + list(_OTHERS)
    names = ["backbone", "model", "cut", "RF px", "GMAC", "LD", "seeds", *measures]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cell = row.cell
        field = "-" if row.receptive_field is None else str(row.receptive_field)
        cells = [
            cell.backbone,
            LABELS[cell.variant],
            cell.cut,
            field,
            f"{row.gmac:.3f}",
            f"{cell.ld:g}",
            str(row.seeds),
            *(_cell(row.measures[k], ".3f") for k in (*KINDS, *_OTHERS)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if changes:
        lines += ["", "| difference | pairs | " + " | ".join(measures) + " |"]
        lines += ["|" + "---|" * (2 + len(measures))]
    for change in changes:
        cells = [_cell(change.measures[k], "+.3f") for k in (*KINDS, *_OTHERS)]
        lines.append(f"| {change.name} | {change.pairs} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(measure: tuple[float, float | None], style: str) -> str:
    mean, half = measure
    return f"{mean:{style}}" if half is None else f"{mean:{style}} ± {half:.3f}"


def draw(rows: tuple[Row, ...]) -> bytes:
    """AUC against receptive field and against cost, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    weights = sorted({0.0, *(row.cell.ld for row in rows)})
    for style, (variant, label) in zip("osD", LABELS.items(), strict=True):
        for ld in weights:
            chosen = [r for r in rows if r.cell.variant == variant and r.cell.ld == ld]
            for axes, key in ((left, "receptive_field"), (right, "gmac")):
                points = [r for r in chosen if getattr(r, key) is not None]
                if not points:
                    continue
                mean = [float(np.mean([r.measures[k][0] for k in KINDS])) for r in points]
                axes.plot(
                    [getattr(r, key) for r in points],
                    mean,
                    style,
                    color=f"C{'osD'.index(style)}",
                    fillstyle=_FILLS[min(weights.index(ld), len(_FILLS) - 1)],
                    label=f"{label}, LD {f'{ld:g}' if ld else 'off'}",
                )
    left.set(xlabel="receptive field, px", ylabel="mean AUC over kinds, unseen identities")
    right.set(xlabel="GMAC per face")
    figure.legend(*_all_labels(left, right), fontsize=8, loc="outside right upper")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130)
    return data.getvalue()


def _all_labels(*axes: Axes) -> tuple[list[Artist], list[str]]:
    """Of every series once: what has no receptive field stands in one of the two plots only."""
    found = {
        label: handle
        for one in axes
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True)
    }
    return list(found.values()), list(found)
