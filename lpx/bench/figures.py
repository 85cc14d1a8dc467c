"""The report's figures: AUC differences, ROC, scores against the reference's, latency."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from lpx.bench.run import REFERENCE, BenchResult
from lpx.bench.svg import COLOURS, STYLE, canvas, dots, line, to_svg
from lpx.bench.wording import signed, significant
from lpx.metrics import roc_curve
from lpx.metrics.roc import called_fake

MAX_POINTS = 5_000
"""Faces drawn in one scatter plot; the faces that flip come on top."""
MAX_VERTICES = 400
"""Points of one drawn curve: more than a screen shows."""


@dataclass(frozen=True)
class Drawing:
    """A figure of the report.

    Attributes:
        key: Its id.
        title: Its heading.
        alt: What it shows, in words, for those who do not see it.
        caption: How to read it.
        svg: The picture; its colours are the page's CSS variables.
        engines: Whose lines need a legend.
    """

    key: str
    title: str
    alt: str
    caption: str
    svg: Markup
    engines: tuple[str, ...] = ()


def draw(report: Mapping[str, Any], result: BenchResult) -> list[Drawing]:
    """Draw the figures: AUC differences, ROC, scores of each candidate, latency."""
    import matplotlib.style

    # The default style first: what a user has set for their own plots does not reach the report.
    with matplotlib.style.context(["default", STYLE]):
        drawings = [_forest(report), _roc(report, result)]
        drawings += [_scatter(report, result, c) for c in report["candidates"]]
        if result.times_ms:
            drawings.append(_latency(result))
    return drawings


def _forest(report: Mapping[str, Any]) -> Drawing:
    from matplotlib.ticker import MaxNLocator

    candidates, margin = report["candidates"], report["margin"]
    figure, axes = canvas(78 + 42 * len(candidates))
    found = [c["auc_difference"] for c in candidates]
    left = min(-margin, *(f["low"] for f in found))
    right = max(0.0, *(f["high"] for f in found), margin / 5)
    pad = 0.07 * (right - left) or 0.001
    axes.set(xlim=(left - pad, right + pad), ylim=(len(candidates) - 0.4, -0.75), yticks=[])
    axes.axvspan(left - pad, -margin, color=COLOURS["fails"], alpha=0.1, linewidth=0)
    axes.axvline(-margin, color=COLOURS["fails"], dashes=(5, 3), linewidth=1.2)
    axes.axvline(0, color=COLOURS["muted"], linewidth=0.8)
    parts = []
    for y, (candidate, difference) in enumerate(zip(candidates, found, strict=True)):
        colour = COLOURS[candidate["verdict"]]
        low, high, estimate = (difference[key] for key in ("low", "high", "estimate"))
        axes.plot([low, high], [y, y], color=colour, linewidth=2, marker="|", markersize=9)
        axes.plot([estimate], [y], color=colour, marker="o", markersize=6)
        text = f"{signed(estimate)} [{signed(low, margin)}, {signed(high, margin)}]"
        parts.append(f"{candidate['name']} {text}, {candidate['verdict']}")
        for x, side, said in ((0, "left", candidate["name"]), (1, "right", text)):
            axes.text(x, y - 0.33, said, ha=side, transform=axes.get_yaxis_transform())
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(
        lambda value, _: f"{value:+.5g}".replace("-", "−") if value else "0"
    )
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("AUC(engine) − AUC(reference)")
    return Drawing(
        "forest",
        "AUC difference",
        f"AUC difference with its 95 % interval: {'; '.join(parts)}. Margin {margin:g}.",
        f"Difference to the reference with its 95 % interval. Parity holds where the whole "
        f"interval lies right of the dashed line, the margin of −{margin:g}.",
        to_svg(figure, "forest"),
    )


def _roc(report: Mapping[str, Any], result: BenchResult) -> Drawing:
    labels, threshold = result.scored.labels, report["threshold"]
    figure, axes = canvas(325)
    axes.plot([0, 1], [0, 1], color=COLOURS["line"], linewidth=1)
    parts = []
    for index, (name, prediction) in enumerate(result.scored.predictions.items()):
        curve = roc_curve(labels, prediction.score)
        kept = _spread(len(curve.fpr), MAX_VERTICES)
        style = line(index) | ({"linewidth": 4.5, "alpha": 0.4} if name == REFERENCE else {})
        axes.plot(curve.fpr[kept], curve.tpr[kept], **style)
        called = called_fake(prediction.score, threshold)
        point = float(called[labels == 0].mean()), float(called[labels == 1].mean())
        axes.plot(*point, marker="o", markersize=5, color=style["color"])
        parts.append(f"{name} calls {point[0]:.1%} of real and {point[1]:.1%} of fake faces fake")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(xlabel="real faces called fake (FPR)", ylabel="fake faces called fake (TPR)")
    return Drawing(
        "roc",
        "ROC",
        f"ROC curves. At the threshold {threshold:.3g} {'; '.join(parts)}.",
        f"One curve per engine, the reference broad beneath them; the dots are the operating point "
        f"at the threshold {threshold:.3g}.",
        to_svg(figure, "roc"),
        tuple(result.scored.predictions),
    )


def _scatter(
    report: Mapping[str, Any], result: BenchResult, candidate: Mapping[str, Any]
) -> Drawing:
    name, threshold = candidate["name"], report["threshold"]
    x, y = (result.scored.predictions[engine].score for engine in (REFERENCE, name))
    labels = result.scored.labels
    figure, axes = canvas(325)
    for at in (axes.axhline, axes.axvline):
        at(threshold, color=COLOURS["muted"], dashes=(3, 3), linewidth=0.8)
    axes.plot([0, 1], [0, 1], color=COLOURS["line"], linewidth=1)
    kept = _spread(len(labels), MAX_POINTS)
    for label, colour in ((1, "fake"), (0, "real")):
        shown = kept[labels[kept] == label]
        dots(axes, x[shown], y[shown], COLOURS[colour])
    flipped = np.flatnonzero(called_fake(x, threshold) != called_fake(y, threshold))
    flipped = flipped[_spread(len(flipped), MAX_VERTICES)]
    ring: dict[str, Any] = {
        "linestyle": "",
        "marker": "o",
        "markersize": 8,
        "markerfacecolor": "none",
    }
    axes.plot(x[flipped], y[flipped], color=COLOURS["fails"], **ring)
    for at_x, at_y, side, said in ((0.03, 0.95, "left", "fake"), (0.97, 0.03, "right", "real")):
        said = f"flips to {said}"
        place: dict[str, Any] = {"ha": side, "transform": axes.transAxes}
        axes.text(at_x, at_y, said, color=COLOURS["muted"], fontsize=9, **place)
    low, high = min(x.min(), y.min(), threshold), max(x.max(), y.max(), threshold)
    pad = 0.04 * (high - low) or 0.05
    axes.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad), aspect="equal")
    axes.set(xlabel="reference score", ylabel="engine score")
    drawn = f"{len(kept):,} of {len(labels):,}" if len(kept) < len(labels) else f"{len(labels):,}"
    return Drawing(
        f"scatter-{_slug(name)}",
        name,
        f"Scores of {name} against the reference's, {drawn} faces. Largest difference "
        f"{significant(candidate['score_difference']['max'])}, {candidate['flips']} flips.",
        f"{drawn} faces; {candidate['flips']} on the other side of the threshold, ringed.",
        to_svg(figure, f"scatter-{_slug(name)}"),
    )


def _latency(result: BenchResult) -> Drawing:
    from matplotlib.ticker import MaxNLocator, NullFormatter

    batch = min(size for _, size in result.times_ms)
    times = {n: np.sort(t) for (n, size), t in result.times_ms.items() if size == batch}
    edge = 1.1 * max(float(np.quantile(t, 0.99)) for t in times.values())
    beyond = sum(int((t > edge).sum()) for t in times.values())
    figure, axes = canvas(290)
    parts = []
    for index, name in enumerate(result.scored.predictions):
        if name not in times:
            continue
        ordered = times[name]
        kept = _spread(len(ordered), MAX_VERTICES)
        share = (kept + 1) / len(ordered)
        axes.plot(np.r_[ordered[0], ordered[kept]], np.r_[0, share], **line(index))
        parts.append(f"{name} {significant(float(np.median(ordered)))} ms")
    start = min(float(t[0]) for t in times.values())
    if edge > 6 * start:
        axes.set_xscale("log")
        ticks = [n * 10.0**e for e in range(-4, 6) for n in (1, 2, 5)]
        axes.set_xticks([t for t in ticks if 0.85 * start <= t <= edge])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(0.85 * start, edge)
    else:
        axes.set_xlim(0, edge)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set(ylim=(0, 1.01), xlabel="ms per call", ylabel="share of calls within")
    cut = (
        f" {beyond} calls took longer than {significant(edge)} ms and are not shown."
        if beyond
        else ""
    )
    return Drawing(
        "latency",
        f"Latency, batch {batch}",
        f"Distribution of the time per call at batch {batch}. Medians: {', '.join(parts)}.",
        f"Share of calls that took at most so long; steep and far left is good.{cut}",
        to_svg(figure, "latency"),
        tuple(times),
    )


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Indices of at most `most` of `count` things, evenly spread, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name)
