"""Figures of a report: differences, ROC, latency, AUC against costs, scores of each engine."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from lpx.bench.parity.run import BenchResult
from lpx.bench.performance.loaded_engine import REFERENCE
from lpx.bench.report.document.entries import Candidate, Entry
from lpx.bench.report.document.report import Report
from lpx.bench.report.sentences import signed, significant
from lpx.bench.report.svg import (
    FAKE,
    LINE,
    MUTED,
    REAL,
    STYLE,
    canvas,
    dots,
    line,
    series_colour,
    to_svg,
    verdict_colour,
)
from lpx.metrics import Interval, Verdict, roc_curve
from lpx.metrics.roc import called_fake

# Faces drawn in one scatter plot; the faces that flip come on top.
MAX_POINTS = 5_000
# Points of one drawn curve: more than a screen shows.
MAX_VERTICES = 400
# The margin, and what is beyond it, in the colour of the verdict that it leads to.
FAILS = verdict_colour("fails")


@dataclass(frozen=True)
class Drawing:
    """A figure of the report.

    Attributes:
        key: Id in the page.
        title: Heading.
        alt: Description in words, for readers who do not see it.
        caption: Explanation of how to read it.
        svg: The picture; its colours are the page's CSS variables.
        engines: Names of the engines whose lines need a legend.
    """

    key: str
    title: str
    alt: str
    caption: str
    svg: Markup
    engines: tuple[str, ...] = ()


def draw(report: Report, result: BenchResult) -> list[Drawing]:
    """Draw the figures: differences, ROC, latency, AUC against it, per method, scores."""
    import matplotlib.style

    # The default style first: what a user has set for their own plots does not reach the report.
    with matplotlib.style.context(["default", STYLE]):
        drawings = [_forest(report)] if report.candidates else []
        drawings.append(_roc(report, result))
        if result.costs.times_ms:
            drawings += [_latency(result), _pareto(report, _LATENCY)]
        if sum(entry.costs.energy is not None for entry in report.entries) > 1:
            drawings.append(_pareto(report, _ENERGY))
        drawings += [_per_method(report, c) for c in report.candidates if _differing(c)]
        drawings += [_scatter(report, result, c) for c in report.candidates]
    return drawings


@dataclass(frozen=True)
class _Line:
    """A line of a forest plot."""

    name: str
    difference: Interval
    verdict: Verdict


def _forest(report: Report) -> Drawing:
    rows = [_Line(c.name, c.auc_difference, c.verdict) for c in report.candidates]
    return _intervals("forest", "AUC difference", rows, report.margin)


def _differing(candidate: Candidate) -> list[_Line]:
    """Return the differences of a candidate per method, over faces and over videos."""
    lines = []
    for part in candidate.parts:
        if part.auc_difference is not None and part.verdict is not None:
            name = f"{part.method}, {part.level}s"
            lines.append(_Line(name, part.auc_difference, part.verdict))
    return lines


def _per_method(report: Report, candidate: Candidate) -> Drawing:
    rows = [_Line("all, faces", candidate.auc_difference, candidate.verdict)]
    rows += _differing(candidate)
    key = f"methods-{_slug(candidate.name)}"
    return _intervals(key, f"AUC difference of {candidate.name}", rows, report.margin)


def _intervals(key: str, title: str, rows: list[_Line], margin: float) -> Drawing:
    """Draw a forest plot: a line per row, its interval against the margin."""
    from matplotlib.ticker import MaxNLocator

    # Rows of equal height in every figure, whatever their number.
    figure, axes = canvas(78 + 42 * len(rows))
    # The margin and 0 are always in view: they are what the intervals are read against.
    left = min([-margin, *(row.difference.low for row in rows)])
    right = max([0.0, margin / 5, *(row.difference.high for row in rows)])
    pad = 0.07 * (right - left) or 0.001
    axes.set(xlim=(left - pad, right + pad), ylim=(len(rows) - 0.4, -0.75), yticks=[])
    axes.axvspan(left - pad, -margin, color=FAILS, alpha=0.1, linewidth=0)
    parts = []
    for y, row in enumerate(rows):
        # Beside the interval alone: drawn from top to bottom, these lines would cross the labels.
        beside = (y - 0.12, y + 0.4)
        axes.plot([-margin] * 2, beside, color=FAILS, dashes=(5, 3), linewidth=1.2)
        axes.plot([0, 0], beside, color=MUTED, linewidth=0.8)
        colour = verdict_colour(row.verdict)
        low, high = row.difference.low, row.difference.high
        estimate = row.difference.estimate
        axes.plot([low, high], [y, y], color=colour, linewidth=2, marker="|", markersize=9)
        axes.plot([estimate], [y], color=colour, marker="o", markersize=6)
        text = f"{signed(estimate)} [{signed(low, margin)}, {signed(high, margin)}]"
        parts.append(f"{row.name} {text}, {row.verdict}")
        for x, side, label in ((0, "left", row.name), (1, "right", text)):
            axes.text(x, y - 0.33, label, ha=side, transform=axes.get_yaxis_transform())
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(_signed_tick)
    axes.spines.left.set_visible(False)
    axes.set_xlabel("AUC gained (+) or lost (−) against the reference")
    return Drawing(
        key,
        title,
        f"AUC difference with its 95 % interval: {'; '.join(parts)}. Margin {margin:g}.",
        f"Difference to the reference with its 95 % interval. Parity holds if the whole interval "
        f"is right of the dashed line, the margin of −{margin:g}.",
        to_svg(figure, key),
    )


def _signed_tick(value: float, _: float) -> str:
    # Without a sign, which "+.5g" would give to 0, too.
    if not value:
        return "0"
    return f"{value:+.5g}".replace("-", "−")


@dataclass(frozen=True)
class _Cost:
    """A cost to draw AUC against.

    Attributes:
        key: Id of the figure.
        title: Heading of the figure.
        axis: Label of the axis.
        unit: Unit of a value.
        of: Function that returns the cost of an engine; None if it was not measured.
    """

    key: str
    title: str
    axis: str
    unit: str
    of: Callable[[Entry], float | None]


def _latency_of(entry: Entry) -> float | None:
    latency = entry.costs.latency
    if latency is None:
        return None
    return latency.per_face_ms.p50.estimate


def _energy_of(entry: Entry) -> float | None:
    energy = entry.costs.energy
    if energy is None:
        return None
    return energy.gross_j_per_face.estimate


_LATENCY = _Cost("pareto", "AUC against latency", "ms per face, median", "ms", _latency_of)
_ENERGY = _Cost(
    "pareto-energy", "AUC against energy", "J per face, idle power included", "J", _energy_of
)


def _pareto(report: Report, cost: _Cost) -> Drawing:
    """Draw AUC against the cost of a face: an engine to the left of and above another beats it."""
    from matplotlib.ticker import MaxNLocator

    measured = []
    # The place among all engines, measured or not, gives an engine its colour in every figure.
    for place, entry in enumerate(report.entries):
        value = cost.of(entry)
        if value is not None:
            measured.append((place, entry, value))
    costs = np.array([value for _, _, value in measured])
    aucs = np.array([entry.auc_interval.estimate for _, entry, _ in measured])
    figure, axes = canvas(290)
    best = [i for i in np.argsort(costs) if not _beaten(i, costs[:, None], aucs)]
    axes.plot(costs[best], aucs[best], color=MUTED, linewidth=1, dashes=(4, 3))
    parts = []
    for (index, entry, x), y in zip(measured, aucs, strict=True):
        colour = series_colour(index)
        interval = entry.auc_interval
        axes.plot([x, x], [interval.low, interval.high], color=colour, linewidth=1.2, alpha=0.5)
        axes.plot([x], [y], color=colour, marker="o", markersize=7, linestyle="")
        parts.append(f"{entry.name} {significant(x)} {cost.unit}, AUC {y:.4f}")
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
        tuple(entry.name for _, entry, _ in measured),
    )


def _best_in_all(report: Report) -> str:
    """Name the engines that none beats in AUC, latency and energy together; "" if unknown."""
    names, aucs_of, costs_of = [], [], []
    for entry in report.entries:
        latency, energy = _LATENCY.of(entry), _ENERGY.of(entry)
        if latency is not None and energy is not None:
            names.append(entry.name)
            aucs_of.append(entry.auc_interval.estimate)
            costs_of.append((latency, energy))
    if len(names) < 2:
        return ""
    aucs, costs = np.array(aucs_of), np.array(costs_of)
    best = [name for i, name in enumerate(names) if not _beaten(i, costs, aucs)]
    return f" In AUC, latency and energy together no engine beats {', '.join(best)}."


def _beaten(index: int, costs: NDArray[np.float64], aucs: NDArray[np.float64]) -> bool:
    """Return True if another is as good in AUC [N] and all costs [N, K], and better in one."""
    good = (costs <= costs[index]).all(axis=1) & (aucs >= aucs[index])
    better = (costs < costs[index]).any(axis=1) | (aucs > aucs[index])
    return bool((good & better).any())


def _roc(report: Report, result: BenchResult) -> Drawing:
    labels, threshold = result.scored.labels, report.model.threshold
    figure, axes = canvas(325)
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
    parts = []
    for index, (name, prediction) in enumerate(result.scored.predictions.items()):
        curve = roc_curve(labels, prediction.score)
        kept = _thinned(len(curve.fpr), MAX_VERTICES)
        style = line(index)
        if name == REFERENCE:
            # Broad: curves that coincide with the reference's are drawn on top of it.
            style |= {"linewidth": 4.5, "alpha": 0.4}
        axes.plot(curve.fpr[kept], curve.tpr[kept], **style)
        called = called_fake(prediction.score, threshold)
        point = float(called[labels == 0].mean()), float(called[labels == 1].mean())
        axes.plot(*point, marker="o", markersize=5, color=series_colour(index))
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


def _scatter(report: Report, result: BenchResult, candidate: Candidate) -> Drawing:
    name, threshold = candidate.name, report.model.threshold
    flips = candidate.parity.flips.total
    largest = significant(candidate.parity.score_difference.max)
    x, y = (result.scored.predictions[engine].score for engine in (REFERENCE, name))
    labels = result.scored.labels
    figure, axes = canvas(325)
    for at in (axes.axhline, axes.axvline):
        at(threshold, color=MUTED, dashes=(3, 3), linewidth=0.8)
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
    kept = _thinned(len(labels), MAX_POINTS)
    for label, colour in ((1, FAKE), (0, REAL)):
        shown = kept[labels[kept] == label]
        dots(axes, x[shown], y[shown], colour)
    # Drawn besides the thinned points: none of the few that matter may be thinned away.
    flipped = np.flatnonzero(called_fake(x, threshold) != called_fake(y, threshold))
    flipped = flipped[_thinned(len(flipped), MAX_VERTICES)]
    ring: dict[str, Any] = {
        "linestyle": "",
        "marker": "o",
        "markersize": 8,
        "markerfacecolor": "none",
    }
    axes.plot(x[flipped], y[flipped], color=FAILS, **ring)
    for at_x, at_y, side, word in ((0.03, 0.95, "left", "fake"), (0.97, 0.03, "right", "real")):
        place: dict[str, Any] = {"ha": side, "transform": axes.transAxes}
        axes.text(at_x, at_y, f"flips to {word}", color=MUTED, fontsize=9, **place)
    low, high = min(x.min(), y.min(), threshold), max(x.max(), y.max(), threshold)
    pad = 0.04 * (high - low) or 0.05
    axes.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad), aspect="equal")
    axes.set(xlabel="reference score", ylabel="engine score")
    drawn = f"{len(labels):,}"
    if len(kept) < len(labels):
        drawn = f"{len(kept):,} of {drawn}"
    return Drawing(
        f"scatter-{_slug(name)}",
        name,
        f"Scores of {name} against the reference's, {drawn} faces. Largest difference "
        f"{largest}, {flips} flips.",
        f"{drawn} faces; {flips} on the other side of the threshold, ringed.",
        to_svg(figure, f"scatter-{_slug(name)}"),
    )


def _latency(result: BenchResult) -> Drawing:
    from matplotlib.ticker import MaxNLocator, NullFormatter

    batch = min(size for _, size in result.costs.times_ms)
    times: dict[str, NDArray[np.float64]] = {}
    for (name, size), times_ms in result.costs.times_ms.items():
        if size == batch:
            times[name] = np.sort(times_ms)
    # A few calls take many times as long: they would squeeze the rest into a line.
    edge = 1.1 * max(float(np.quantile(t, 0.99)) for t in times.values())
    beyond = sum(int((t > edge).sum()) for t in times.values())
    figure, axes = canvas(290)
    parts = []
    for index, name in enumerate(result.scored.predictions):
        if name not in times:
            continue
        ordered = times[name]
        kept = _thinned(len(ordered), MAX_VERTICES)
        share = (kept + 1) / len(ordered)
        axes.plot(np.r_[ordered[0], ordered[kept]], np.r_[0, share], **line(index))
        parts.append(f"{name} {significant(float(np.median(ordered)))} ms")
    start = min(float(t[0]) for t in times.values())
    # Engines may differ by a factor of 100; on a linear axis the fast ones could not be told apart.
    if edge > 6 * start:
        axes.set_xscale("log")
        ticks = np.outer(10.0 ** np.arange(-4, 6), (1, 2, 5)).ravel()
        axes.set_xticks(ticks[(ticks >= 0.85 * start) & (ticks <= edge)])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(0.85 * start, edge)
    else:
        axes.set_xlim(0, edge)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set(ylim=(0, 1.01), xlabel="ms per call", ylabel="share of calls within")
    cut = ""
    if beyond:
        cut = f" {beyond} call{'s' * (beyond > 1)} longer than {significant(edge)} ms not shown."
    return Drawing(
        "latency",
        f"Latency, batch {batch}",
        f"Distribution of the time per call at batch {batch}. Medians: {', '.join(parts)}.",
        f"Share of calls that took at most so long; steep and far left is good.{cut}",
        to_svg(figure, "latency"),
        tuple(times),
    )


def _thinned(count: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` of `count` indices, sampled evenly, including both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name)
