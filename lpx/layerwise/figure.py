"""Figure of the errors of an engine's layers."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lpx.layerwise.compare import LayerComparison, LayerError, LayerVerdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"int8": "#c2571a", "fp16": "#2f6db3", "fp32": "#767676"}
_RED = "#b00020"
_ROW_INCHES = 0.19
# Relative errors below this are float32 rounding, and would stretch the axis.
_LEAST = 1e-7


def draw_layers(
    comparison: LayerComparison,
    verdict: LayerVerdict,
    tolerance: float,
    title: str,
    runtime: str = "",
) -> bytes:
    """Draw the errors of all layers, from the first at the top to the last; PNG.

    Bars are the layers' own errors, the line connects their errors as the engine runs, and colours
    show the type a layer computes in. White diamonds, if known, are errors added by the engine's
    runtime. The first layer beyond the tolerance and the culprit are red.

    Args:
        comparison: Errors to draw.
        verdict: Verdict on `comparison`.
        tolerance: Largest relative error allowed.
        title: Title of the figure.
        runtime: Name of the engine's runtime, such as "TensorRT".
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    layers = comparison.layers
    low, high = _limits(layers, tolerance)
    # The default style: a user's own must not change the figure.
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
        # Matplotlib would read a name with two dollar signs as a formula. Its parser cannot be
        # turned off altogether, as the numbers of the axis need it.
        axes.set_title(title, parse_math=False)
        axes.grid(axis="x", alpha=0.3)
        _name_rows(axes, layers, verdict)
        _explain(axes, layers, tolerance, runtime)
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=120)
    return data.getvalue()


class _Limits(NamedTuple):
    """Ends of the axis of errors."""

    low: float
    high: float


def _limits(layers: tuple[LayerError, ...], tolerance: float) -> _Limits:
    shown = [tolerance]
    for layer in layers:
        for error in (layer.total, layer.own, layer.runtime):
            if error is not None and _LEAST < error.relative < math.inf:
                shown.append(error.relative)
    return _Limits(min(shown) / 3, max(shown) * 3)


def _name_rows(axes: Axes, layers: tuple[LayerError, ...], verdict: LayerVerdict) -> None:
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
                label=f"added by {runtime}",
            )
        )
    used = {e.computes_in for e in layers}
    for precision, colour in _COLOURS.items():
        if precision in used:
            handles.append(Patch(color=colour, label=f"computes in {precision}"))
    axes.figure.legend(
        handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False
    )
