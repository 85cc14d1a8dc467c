"""Table and figure of an ablation grid."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lpx.data.pseudo_fakes import KINDS
from lpx.training.ablation import Cell, Result

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
    measures = {kind: _interval([m.auc[kind] for m in members]) for kind in first.auc}
    measures["localisation"] = _interval([m.localisation for m in members])
    return Row(first.cell, first.receptive_field, first.gmac, len(members), measures)


def _interval(values: list[float]) -> tuple[float, float | None]:
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, float(t.ppf(0.975, len(values) - 1)) * error


def to_markdown(rows: tuple[Row, ...], seen: tuple[str, ...]) -> str:
    """A Markdown table; kinds of pseudo-fake that training did not see are marked."""
    kinds = [f"{k}" if k in seen else f"{k} (unseen)" for k in KINDS]
    names = ["backbone", "model", "cut", "RF px", "GMAC", "LD", "seeds", *kinds, "localisation"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cell = row.cell
        field = "-" if row.receptive_field is None else str(row.receptive_field)
        cells = [
            cell.backbone, LABELS[cell.variant], cell.cut, field, f"{row.gmac:.3f}",
            f"{cell.ld:g}", str(row.seeds),
            *(_cell(row.measures[k]) for k in (*KINDS, "localisation")),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(measure: tuple[float, float | None]) -> str:
    mean, half = measure
    return f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.3f}"


def draw(rows: tuple[Row, ...]) -> bytes:
    """AUC against receptive field and against cost, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for style, (variant, label) in zip("osD", LABELS.items(), strict=True):
        for ld, fill in ((False, "none"), (True, None)):
            chosen = [r for r in rows if r.cell.variant == variant and bool(r.cell.ld) == ld]
            for axes, key in ((left, "receptive_field"), (right, "gmac")):
                points = [r for r in chosen if getattr(r, key) is not None]
                if not points:
                    continue
                mean = [float(np.mean([r.measures[k][0] for k in KINDS])) for r in points]
                axes.plot(
                    [getattr(r, key) for r in points], mean, style, color=f"C{'osD'.index(style)}",
                    fillstyle="none" if fill == "none" else "full",
                    label=f"{label}, LD {'on' if ld else 'off'}",
                )  # fmt: skip
    left.set(xlabel="receptive field, px", ylabel="mean AUC over kinds, unseen identities")
    left.set_xscale("log")
    right.set(xlabel="GMAC per face")
    right.legend(fontsize=8, loc="best")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130)
    return data.getvalue()
