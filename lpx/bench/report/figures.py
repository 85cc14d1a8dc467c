"""The report's figures: differences, ROC, latency, AUC against it, scores of each engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from lpx.bench.parity.run import BenchResult
from lpx.bench.performance.candidate import REFERENCE
from lpx.bench.report.sentences import entries, signed, significant
from lpx.bench.report.svg import COLOURS, STYLE, canvas, dots, line, to_svg
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
    """Draw the figures: differences, ROC, latency, AUC against it, per method, scores."""
    import matplotlib.style

    # The default style first: what a user has set for their own plots does not reach the report.
    with matplotlib.style.context(["default", STYLE]):
        drawings = [_forest(report)] if report["candidates"] else []
        drawings.append(_roc(report, result))
        if result.costs.times_ms:
            drawings += [_latency(result), _pareto(report, _LATENCY)]
        if sum(_ENERGY.of(entry) is not None for entry in entries(report)) > 1:
            drawings.append(_pareto(report, _ENERGY))
        drawings += filter(None, (_per_method(report, c) for c in report["candidates"]))
        drawings += [_scatter(report, result, c) for c in report["candidates"]]
    return drawings


@dataclass(frozen=True)
class _Row:
    """A line of a forest plot."""

    name: str
    difference: Mapping[str, Any]
    verdict: str


def _forest(report: Mapping[str, Any]) -> Drawing:
    rows = [_Row(c["name"], c["auc_difference"], c["verdict"]) for c in report["candidates"]]
    return _intervals("forest", "AUC difference", rows, report["margin"])


def _per_method(report: Mapping[str, Any], candidate: Mapping[str, Any]) -> Drawing | None:
    """The differences of a candidate per method, over faces and over videos; None without any."""
    parts = [part for part in candidate["parts"] if part["auc_difference"]]
    if not parts:
        return None
    rows = [_Row("all, faces", candidate["auc_difference"], candidate["verdict"])]
    rows += [
        _Row(f"{p['method']}, {p['level']}s", p["auc_difference"], p["verdict"]) for p in parts
    ]
    key = f"methods-{_slug(candidate['name'])}"
    return _intervals(key, f"AUC difference of {candidate['name']}", rows, report["margin"])


def _intervals(key: str, title: str, rows: list[_Row], margin: float) -> Drawing:
    """A forest plot: a line per row, its interval against the margin."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = canvas(78 + 42 * len(rows))
    left = min([-margin, *(row.difference["low"] for row in rows)])
    right = max([0.0, margin / 5, *(row.difference["high"] for row in rows)])
    pad = 0.07 * (right - left) or 0.001
    axes.set(xlim=(left - pad, right + pad), ylim=(len(rows) - 0.4, -0.75), yticks=[])
    axes.axvspan(left - pad, -margin, color=COLOURS["fails"], alpha=0.1, linewidth=0)
    parts = []
    for y, row in enumerate(rows):
        # Beside the interval alone: drawn from top to bottom, these lines would cross the labels.
        beside = (y - 0.12, y + 0.4)
        axes.plot([-margin] * 2, beside, color=COLOURS["fails"], dashes=(5, 3), linewidth=1.2)
        axes.plot([0, 0], beside, color=COLOURS["muted"], linewidth=0.8)
        colour = COLOURS[row.verdict]
        low, high, estimate = (row.difference[key] for key in ("low", "high", "estimate"))
        axes.plot([low, high], [y, y], color=colour, linewidth=2, marker="|", markersize=9)
        axes.plot([estimate], [y], color=colour, marker="o", markersize=6)
        text = f"{signed(estimate)} [{signed(low, margin)}, {signed(high, margin)}]"
        parts.append(f"{row.name} {text}, {row.verdict}")
        for x, side, said in ((0, "left", row.name), (1, "right", text)):
            axes.text(x, y - 0.33, said, ha=side, transform=axes.get_yaxis_transform())
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(
        lambda value, _: f"{value:+.5g}".replace("-", "−") if value else "0"
    )
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("AUC gained (+) or lost (−) against the reference")
    return Drawing(
        key,
        title,
        f"AUC difference with its 95 % interval: {'; '.join(parts)}. Margin {margin:g}.",
        f"Difference to the reference with its 95 % interval. Parity holds where the whole "
        f"interval lies right of the dashed line, the margin of −{margin:g}.",
        to_svg(figure, key),
    )


@dataclass(frozen=True)
class _Cost:
    """A cost to draw AUC against.

    Attributes:
        key: Of the figure.
        title: Of the figure.
        axis: What the figure's axis says.
        unit: Of a value.
        of: The cost of an engine; None where it was not measured.
    """

    key: str
    title: str
    axis: str
    unit: str
    of: Callable[[Mapping[str, Any]], float | None]


def _latency_of(entry: Mapping[str, Any]) -> float | None:
    return float(entry["latency"]["per_face_p50_ms"]) if entry["latency"] else None


def _energy_of(entry: Mapping[str, Any]) -> float | None:
    found = entry["energy"]
    measured = found is not None and "unavailable" not in found
    return float(found["gross_j_per_face"]["mean"]) if measured else None


_LATENCY = _Cost("pareto", "AUC against latency", "ms per face, median", "ms", _latency_of)
_ENERGY = _Cost(
    "pareto-energy", "AUC against energy", "J per face, idle power included", "J", _energy_of
)


def _pareto(report: Mapping[str, Any], cost: _Cost) -> Drawing:
    """AUC against a cost of a face: what is left of and above another engine beats it."""
    from matplotlib.ticker import MaxNLocator

    measured = [(i, e, c) for i, e in enumerate(entries(report)) if (c := cost.of(e)) is not None]
    costs = np.array([c for _, _, c in measured])
    aucs = np.array([entry["auc"] for _, entry, _ in measured])
    figure, axes = canvas(290)
    best = [i for i in np.argsort(costs) if not _beaten(i, costs[:, None], aucs)]
    axes.plot(costs[best], aucs[best], color=COLOURS["muted"], linewidth=1, dashes=(4, 3))
    parts = []
    for (index, entry, x), y in zip(measured, aucs, strict=True):
        colour = line(index)["color"]
        low, high = (entry["auc_interval"][end] for end in ("low", "high"))
        axes.plot([x, x], [low, high], color=colour, linewidth=1.2, alpha=0.5)
        axes.plot([x], [y], color=colour, marker="o", markersize=7, linestyle="")
        parts.append(f"{entry['name']} {significant(x)} {cost.unit}, AUC {y:.4f}")
    axes.set_xlim(0, 1.12 * float(costs.max()))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set(xlabel=cost.axis, ylabel="AUC")
    return Drawing(
        cost.key,
        cost.title,
        f"{cost.title}, {cost.axis}: {'; '.join(parts)}.",
        "Up and to the left is better; the dashed line joins the engines that no other beats in "
        f"both.{_best_in_all(report)} Bars are each AUC's own 95 % interval: engines see the same "
        "faces, so overlapping bars do not mean parity.",
        to_svg(figure, cost.key),
        tuple(entry["name"] for _, entry, _ in measured),
    )


def _best_in_all(report: Mapping[str, Any]) -> str:
    """Who is beaten by none in AUC, latency and energy together; "" where one is not known."""
    known = [
        (e["name"], e["auc"], c)
        for e in entries(report)
        if None not in (c := (_LATENCY.of(e), _ENERGY.of(e)))
    ]
    if len(known) < 2:
        return ""
    costs = np.array([c for _, _, c in known], np.float64)
    aucs = np.array([auc for _, auc, _ in known])
    best = [name for i, (name, _, _) in enumerate(known) if not _beaten(i, costs, aucs)]
    return f" In AUC, latency and energy together none beats {', '.join(best)}."


def _beaten(index: int, costs: NDArray[np.float64], aucs: NDArray[np.float64]) -> bool:
    """Whether another is as good in AUC float64 [N] and all costs [N, K], and better in one."""
    good = (costs <= costs[index]).all(axis=1) & (aucs >= aucs[index])
    better = (costs < costs[index]).any(axis=1) | (aucs > aucs[index])
    return bool((good & better).any())


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

    batch = min(size for _, size in result.costs.times_ms)
    times = {n: np.sort(t) for (n, size), t in result.costs.times_ms.items() if size == batch}
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
        f" {beyond} call{'s' * (beyond > 1)} longer than {significant(edge)} ms not shown."
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
