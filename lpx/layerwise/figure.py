"""The error of each layer of an engine, as a picture."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np

from lpx.layerwise.compare import Comparison, LayerError, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"int8": "#c2571a", "fp16": "#2f6db3", "fp32": "#767676"}
_RED = "#b00020"
_ROW_INCHES = 0.19
_LEAST = 1e-7
"""Relative errors below are float32 rounding."""


def draw_layers(
    found: Comparison, verdict: Verdict, tolerance: float, title: str, runtime: str = ""
) -> bytes:
    """Draw the errors of all layers, first to last from top to bottom; PNG.

    A bar is a layer's own error; a line goes through the errors as the engine runs; the colour is
    what the layer computes in. Where it is known, a white diamond is what the engine's runtime adds
    to its graph. The first layer beyond the tolerance and the culprit are red.

    Args:
        found: What to draw.
        verdict: Of `found`.
        tolerance: Largest relative error allowed.
        title: Stands on top.
        runtime: Name of what ran the engine, as "TensorRT".
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    layers = found.layers
    low, high = _limits(layers, tolerance)
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(9, 1.7 + _ROW_INCHES * len(layers)), layout="constrained")
        axes = figure.add_subplot()
        if verdict.first is not None:
            at = layers.index(verdict.first)
            axes.axhspan(at - 0.5, at + 0.5, color=_RED, alpha=0.15, linewidth=0)
        total = [float(np.clip(e.total.relative, low, high)) for e in layers]
        axes.plot(total, range(len(layers)), color="black", linewidth=1)
        for row, error in enumerate(layers):
            colour = _COLOURS[error.computes_in]
            axes.plot(total[row], row, "o", color=colour, markersize=5, markeredgecolor="black")
            if error.own is not None and error.own.relative > low:
                axes.barh(row, min(error.own.relative, high), height=0.7, color=colour, alpha=0.7)
            if error.runtime is not None and error.runtime.relative > low:
                apart = min(error.runtime.relative, high)
                axes.plot(apart, row, "D", color="white", markersize=4, markeredgecolor="black")
            if error.total.not_finite:
                axes.annotate("not finite ", (high, row), ha="right", va="center", fontsize=7)
        axes.axvline(tolerance, color=_RED, linestyle="--", linewidth=1)
        axes.set(
            xscale="log",
            xlim=(low, high),
            ylim=(len(layers) - 0.5, -0.5),
            xlabel="relative error  ||d|| / ||x||",
        )
        # Matplotlib would read a name with two dollar signs as a formula. The numbers of the axis
        # need its parser.
        axes.set_title(title, parse_math=False)
        axes.grid(axis="x", alpha=0.3)
        _name_rows(axes, layers, verdict)
        _explain(axes, layers, tolerance, runtime)
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=120)
    return data.getvalue()


def _limits(layers: tuple[LayerError, ...], tolerance: float) -> tuple[float, float]:
    """Ends of the axis of errors: all that are finite and no mere float32 rounding lie between."""
    known = [error for e in layers for error in (e.total, e.own, e.runtime) if error]
    errors = [error.relative for error in known]
    shown = [e for e in errors if math.isfinite(e) and e > _LEAST] + [tolerance]
    return min(shown) / 3, max(shown) * 3


def _name_rows(axes: Axes, layers: tuple[LayerError, ...], verdict: Verdict) -> None:
    axes.set_yticks(range(len(layers)), [e.layer.name for e in layers], fontsize=7)
    for label, error in zip(axes.get_yticklabels(), layers, strict=True):
        label.set_parse_math(False)
        if error in (verdict.first, verdict.culprit):
            label.set_color(_RED)
            label.set_fontweight("bold")


def _explain(axes: Axes, layers: tuple[LayerError, ...], tolerance: float, runtime: str) -> None:
    from matplotlib.artist import Artist
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Artist] = [
        Line2D(
            [], [], color="black", marker="o", markersize=5, linewidth=1, label="as the engine runs"
        ),
        Line2D([], [], color=_RED, linestyle="--", linewidth=1, label=f"tolerance {tolerance:g}"),
    ]
    if any(e.own is not None for e in layers):
        handles.append(Patch(facecolor="white", edgecolor="black", label="layer alone"))
    if any(e.runtime is not None for e in layers):
        handles.append(
            Line2D(
                [],
                [],
                color="white",
                marker="D",
                markersize=4,
                markeredgecolor="black",
                linestyle="",
                label=f"what {runtime} adds to the graph",
            )
        )
    used = {e.computes_in for e in layers}
    handles += [Patch(color=c, label=f"computes in {p}") for p, c in _COLOURS.items() if p in used]
    axes.figure.legend(
        handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False
    )
