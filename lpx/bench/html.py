"""The bench report as one HTML file that needs nothing else: no network, no fonts, no folder."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from lpx.bench.run import REFERENCE, BenchResult, Example
from lpx.engines.manifest import PRECISIONS
from lpx.metrics import roc_curve
from lpx.metrics.roc import called_fake
from lpx.render import Image, encode_png, heat_map, overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 5_000
"""Faces drawn in one scatter plot; the faces that flip come on top."""
MAX_VERTICES = 400
"""Points of one drawn curve: more than a screen shows."""
NOISY = 1.3
"""The 90th percentile of a call's time over its median, above which the report warns."""
IMAGE_BYTES = 1_400_000
"""What all faces and heat maps of a report may take together, roughly."""

_VERDICTS = ("holds", "undecided", "fails")
_WIDTH = 340
_SERIES = 8
_COLOURS = ("ink", "muted", "line", "real", "fake", *_VERDICTS, *(f"s{i}" for i in range(_SERIES)))
# Matplotlib draws in these, and the page's CSS variables take their place in the SVG text.
_PLACEHOLDERS = {name: f"#0101{index + 1:02x}" for index, name in enumerate(_COLOURS)}
_DASHES = ((), (6, 2), (1.5, 1.5), (7, 2, 1.5, 2))
_STYLE: dict[str, Any] = {
    "axes.edgecolor": _PLACEHOLDERS["line"],
    "axes.labelcolor": _PLACEHOLDERS["muted"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 10,
    "path.simplify": False,  # it would drop the dots, which are lines of length 0
    "svg.fonttype": "none",
    "svg.hashsalt": "lpx",
    "text.color": _PLACEHOLDERS["ink"],
    "text.parse_math": False,
    "xtick.color": _PLACEHOLDERS["line"],
    "xtick.labelcolor": _PLACEHOLDERS["muted"],
    "ytick.color": _PLACEHOLDERS["line"],
    "ytick.labelcolor": _PLACEHOLDERS["muted"],
}


def render_html(report: dict[str, Any], result: BenchResult) -> str:
    """Render a report for a browser.

    Args:
        report: What `lpx.bench.run.to_report` made of `result`.
        result: Scores, times and example faces for the figures.

    Returns:
        An HTML document that refers to nothing outside itself. The same arguments give the same
        text.
    """
    names = list(result.scored.predictions)
    environment = Environment(
        loader=PackageLoader("lpx.bench"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"auc": auc, "significant": significant, "signed": signed}
    return environment.get_template("report.html.j2").render(
        report=report,
        headline=headline(report),
        others=_others(report),
        warnings=_warnings(report),
        speed=speed_notes(report),
        columns=_columns(report),
        rows=[_row(entry, report) for entry in _entries(report)],
        marks={name: _mark(index) for index, name in enumerate(names)},
        figures=draw(report, result),
        examples=_examples(report, result),
        ramp=_data_uri(heat_map(np.linspace(0, 1, 256, dtype=np.float32)[None], 256)[:8]),
        manifests=result.candidates,
    )


# Numbers and sentences


def significant(value: float, digits: int = 3) -> str:
    """Write a number of at least 0 with `digits` significant digits: 0.0123, 1.23, 12.3, 1,234."""
    if not value:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4:
        return re.sub(r"e-0?", "e−", f"{value:.1e}")
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def auc(value: float) -> str:
    """Write an AUC."""
    return f"{value:.4f}"


def signed(value: float, margin: float = 0.0) -> str:
    """Write a difference of AUCs, with as many digits as it takes to tell it from -margin."""
    places = 4
    while margin and places < 8 and 0 < abs(value + margin) < 10.0**-places:
        places += 1
    text = f"{value:+.{places}f}"
    return text[1:] if not float(text) else text.replace("-", "−")


def sentence(candidate: Mapping[str, Any], margin: float) -> str:
    """Say what a candidate's verdict means, with its numbers."""
    name, found = candidate["name"], candidate["auc_difference"]
    low, high = (signed(found[end], margin) for end in ("low", "high"))
    if candidate["verdict"] == "fails":
        return f"{name} loses at least {high[1:]} AUC (95 % interval); the margin is {margin:g}."
    if candidate["verdict"] == "holds":
        if found["low"] == found["high"] == 0:
            return f"{name} has exactly the reference's AUC on these faces."
        if found["low"] >= 0:
            return f"{name} loses no AUC (95 % interval {low} to {high}); the margin is {margin:g}."
        return f"{name} loses at most {low[1:]} AUC (95 % interval); the margin is {margin:g}."
    needed = candidate["faces_needed"]
    decide = (
        "the difference lies on the margin, so that more faces would hardly decide it."
        if needed is None
        else f"about {_rounded(needed):,} such faces would probably decide it."
    )
    return (
        f"{name}: the AUC difference lies between {low} and {high} (95 % interval), on both sides"
        f" of the margin of −{margin:g}; {decide}"
    )


def headline(report: Mapping[str, Any]) -> str:
    """Say what the verdict means: that of the engine that decided it, and of how many."""
    candidates = report["candidates"]
    said = sentence(_decisive(report), report["margin"])
    if len(candidates) == 1:
        return said
    count = sum(c["verdict"] == report["verdict"] for c in candidates)
    share = f"{count} of {len(candidates)} engines"
    lead = {
        "holds": f"All {len(candidates)} engines keep the AUC. At worst, ",
        "fails": f"{share} lose{'s' if count == 1 else ''} more AUC than allowed. "
        f"{'At worst, ' if count > 1 else ''}",
        "undecided": f"{report['faces']:,} faces are too few to judge {share}. ",
    }
    return lead[report["verdict"]] + said


def _decisive(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The candidate that does worst of those with the report's verdict."""
    end = "high" if report["verdict"] == "fails" else "low"
    alike = [c for c in report["candidates"] if c["verdict"] == report["verdict"]]
    worst: Mapping[str, Any] = min(alike, key=lambda c: float(c["auc_difference"][end]))
    return worst


def _others(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Verdict and sentence of the candidates that the headline leaves out."""
    others = (c for c in report["candidates"] if c is not _decisive(report))
    return [(c["verdict"], sentence(c, report["margin"])) for c in others]


def _rounded(count: int) -> int:
    """Two significant digits, upwards: an estimate of faces knows no more."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return int(-(-count // unit) * unit)


def _warnings(report: Mapping[str, Any]) -> list[str]:
    """All that a reader must know, what the numbers themselves warn of first."""
    found: list[str] = []
    reference = report["reference"]
    interval = reference["auc_interval"]
    if interval["low"] <= 0.5:
        found.append(
            f"The reference itself is not shown to beat chance on these faces: AUC "
            f"{auc(reference['auc'])}, 95 % interval {auc(interval['low'])} to "
            f"{auc(interval['high'])}. Parity with it says little."
        )
    if reference["auc"] == 1.0:
        found.append(
            "The reference separates these faces perfectly. Its interval has no width, and parity "
            "here says nothing of harder faces."
        )
    found += report["warnings"]
    found += [f"{c['name']}: {text}" for c in report["candidates"] for text in c["warnings"]]
    return list(dict.fromkeys(found))


def speed_notes(report: Mapping[str, Any]) -> list[str]:
    """Say in words how noisy times were, and which engines are slower than they should be.

    Every engine should be faster than PyTorch, and INT8 than FP32 and FP16 of the same target.
    """
    notes: list[str] = []
    noisy = [
        f"{entry['name']} {ratio:.2f} at batch {row['batch']}"
        for entry in _entries(report)
        for row in entry["latency_by_batch"]
        if (ratio := row["per_face_p90_ms"] / row["per_face_p50_ms"]) > NOISY
    ]
    if noisy:
        notes.append(
            f"Times varied much from call to call: p90 over p50 was {', '.join(noisy)}. Measure "
            "again on a quiet machine before comparing engines."
        )
    for entry in report["candidates"]:
        rivals = [report["reference"]]
        if entry["precision"] == "int8":
            rivals += [c for c in report["candidates"] if _is_float_of(c, entry)]
        for rival in rivals:
            slower = [
                f"{significant(mine)} ms against {significant(its)} ms per face at batch {batch}"
                f" ({significant(mine / its)} times as long)"
                for batch in (row["batch"] for row in entry["latency_by_batch"])
                if (mine := _p50(entry, batch)) and (its := _p50(rival, batch)) and mine >= its
            ]
            if slower:
                said = "; ".join(slower)
                notes.append(f"{entry['name']} is no faster than {rival['name']}: {said}.")
    return notes


def _is_float_of(candidate: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    return bool(candidate["target"] == entry["target"] and candidate["precision"] != "int8")


# The table


@dataclass(frozen=True)
class Column:
    """A column of the engines' table.

    Attributes:
        key: Sorts by it: `#sort=key`.
        title: Its header.
        note: Below the header: unit, or what the cell's second line is.
        numeric: Aligned right.
    """

    key: str
    title: str
    note: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell of the engines' table.

    Attributes:
        text: What it says.
        detail: Its second line.
        value: What it sorts by; None comes last in either direction.
    """

    text: str = "–"
    detail: str = ""
    value: float | str | None = None


def _columns(report: Mapping[str, Any]) -> list[Column]:
    columns = [
        Column("engine", "Engine", numeric=False),
        Column("precision", "Precision", numeric=False),
        Column("verdict", "Parity", numeric=False),
        Column("auc", "AUC", "95 % interval"),
        Column("difference", "Δ AUC", "95 % interval"),
        Column("score_max", "Max |Δ|", "score, p99"),
        Column("flips", "Flips", "to fake, real"),
        Column("maps", "Map corr.", "mean |Δ|"),
    ]
    batches = sorted({r["batch"] for e in _entries(report) for r in e["latency_by_batch"]})
    columns += [Column(f"batch{b}", f"Batch {b}", "ms/face, p99") for b in batches]
    if batches:
        lines = f"batch {', '.join(map(str, batches))}"
        columns += [
            Column("patch", "µs/patch", lines),
            Column("over_torch", "vs torch", lines),
            Column("over_fp32", "vs FP32", lines),
        ]
    return columns


def _entries(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [report["reference"], *report["candidates"]]


def _row(entry: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Cell]:
    interval = entry["auc_interval"]
    row = {
        "engine": Cell(entry["name"], value=entry["name"]),
        "precision": Cell(entry["precision"].upper(), value=PRECISIONS.index(entry["precision"])),
        "verdict": Cell("reference", value=-1),
        "auc": Cell(
            auc(entry["auc"]), f"[{auc(interval['low'])}, {auc(interval['high'])}]", entry["auc"]
        ),
    }
    row |= _parity_cells(entry, report["margin"]) if "verdict" in entry else {}
    return row | _latency_cells(entry, report)


def _parity_cells(entry: Mapping[str, Any], margin: float) -> dict[str, Cell]:
    found, scores, maps = entry["auc_difference"], entry["score_difference"], entry["patch_map"]
    ends = ", ".join(signed(found[end], margin) for end in ("low", "high"))
    to_fake, to_real = entry["flips_real_to_fake"], entry["flips_fake_to_real"]
    return {
        "verdict": Cell(entry["verdict"], value=_VERDICTS.index(entry["verdict"])),
        "difference": Cell(signed(found["estimate"], margin), f"[{ends}]", found["estimate"]),
        "score_max": Cell(significant(scores["max"]), significant(scores["p99"]), scores["max"]),
        "flips": Cell(
            str(entry["flips"]),
            f"{to_fake}, {to_real}",
            entry["flips"],
        ),
        "maps": Cell(
            f"{maps['rank_correlation']:.4f}",
            significant(maps["mean_abs_difference"]),
            maps["rank_correlation"],
        ),
    }


def _latency_cells(entry: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Cell]:
    rows = entry["latency_by_batch"]
    if not rows:
        return {}
    cells = {
        f"batch{row['batch']}": Cell(
            significant(row["per_face_p50_ms"]),
            significant(row["per_face_p99_ms"]),
            row["per_face_p50_ms"],
        )
        for row in rows
    }
    patches = [row["per_patch_p50_us"] for row in rows]
    cells["patch"] = Cell(
        significant(patches[0]), ", ".join(map(significant, patches[1:])), patches[0]
    )
    own = [
        c
        for c in report["candidates"]
        if (c["target"], c["precision"]) == (entry["target"], "fp32") and c is not entry
    ]
    for key, rivals in (("over_torch", [report["reference"]]), ("over_fp32", own)):
        if rivals and rivals[0] is not entry:
            cells[key] = _speed_up(entry, rivals[0])
    return cells


def _speed_up(entry: Mapping[str, Any], rival: Mapping[str, Any]) -> Cell:
    ratios = [
        its / mine
        for row in entry["latency_by_batch"]
        if (mine := row["per_face_p50_ms"]) and (its := _p50(rival, row["batch"]))
    ]
    if not ratios:
        return Cell()
    texts = [f"{significant(ratio)}×" for ratio in ratios]
    return Cell(texts[0], ", ".join(texts[1:]), ratios[0])


def _p50(entry: Mapping[str, Any], batch: int) -> float | None:
    """Median milliseconds per face, None where it was not measured."""
    for row in entry["latency_by_batch"]:
        if row["batch"] == batch:
            return float(row["per_face_p50_ms"])
    return None


# Figures


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
    with matplotlib.style.context(["default", _STYLE]):
        drawings = [_forest(report), _roc(report, result)]
        drawings += [_scatter(report, result, c) for c in report["candidates"]]
        if result.times_ms:
            drawings.append(_latency(result))
    return drawings


def _forest(report: Mapping[str, Any]) -> Drawing:
    from matplotlib.ticker import MaxNLocator

    candidates, margin = report["candidates"], report["margin"]
    figure, axes = _canvas(78 + 42 * len(candidates))
    found = [c["auc_difference"] for c in candidates]
    left = min(-margin, *(f["low"] for f in found))
    right = max(0.0, *(f["high"] for f in found), margin / 5)
    pad = 0.07 * (right - left) or 0.001
    axes.set(xlim=(left - pad, right + pad), ylim=(len(candidates) - 0.4, -0.75), yticks=[])
    axes.axvspan(left - pad, -margin, color=_PLACEHOLDERS["fails"], alpha=0.1, linewidth=0)
    axes.axvline(-margin, color=_PLACEHOLDERS["fails"], dashes=(5, 3), linewidth=1.2)
    axes.axvline(0, color=_PLACEHOLDERS["muted"], linewidth=0.8)
    parts = []
    for y, (candidate, difference) in enumerate(zip(candidates, found, strict=True)):
        colour = _PLACEHOLDERS[candidate["verdict"]]
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
        _svg(figure, "forest"),
    )


def _roc(report: Mapping[str, Any], result: BenchResult) -> Drawing:
    labels, threshold = result.scored.labels, report["threshold"]
    figure, axes = _canvas(325)
    axes.plot([0, 1], [0, 1], color=_PLACEHOLDERS["line"], linewidth=1)
    parts = []
    for index, (name, prediction) in enumerate(result.scored.predictions.items()):
        curve = roc_curve(labels, prediction.score)
        kept = _spread(len(curve.fpr), MAX_VERTICES)
        style = _line(index) | ({"linewidth": 4.5, "alpha": 0.4} if name == REFERENCE else {})
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
        _svg(figure, "roc"),
        tuple(result.scored.predictions),
    )


def _scatter(
    report: Mapping[str, Any], result: BenchResult, candidate: Mapping[str, Any]
) -> Drawing:
    name, threshold = candidate["name"], report["threshold"]
    x, y = (result.scored.predictions[engine].score for engine in (REFERENCE, name))
    labels = result.scored.labels
    figure, axes = _canvas(325)
    for at in (axes.axhline, axes.axvline):
        at(threshold, color=_PLACEHOLDERS["muted"], dashes=(3, 3), linewidth=0.8)
    axes.plot([0, 1], [0, 1], color=_PLACEHOLDERS["line"], linewidth=1)
    kept = _spread(len(labels), MAX_POINTS)
    for label, colour in ((1, "fake"), (0, "real")):
        shown = kept[labels[kept] == label]
        _dots(axes, x[shown], y[shown], _PLACEHOLDERS[colour])
    flipped = np.flatnonzero(called_fake(x, threshold) != called_fake(y, threshold))
    flipped = flipped[_spread(len(flipped), MAX_VERTICES)]
    ring: dict[str, Any] = {
        "linestyle": "",
        "marker": "o",
        "markersize": 8,
        "markerfacecolor": "none",
    }
    axes.plot(x[flipped], y[flipped], color=_PLACEHOLDERS["fails"], **ring)
    for at_x, at_y, side, said in ((0.03, 0.95, "left", "fake"), (0.97, 0.03, "right", "real")):
        said = f"flips to {said}"
        place: dict[str, Any] = {"ha": side, "transform": axes.transAxes}
        axes.text(at_x, at_y, said, color=_PLACEHOLDERS["muted"], fontsize=9, **place)
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
        _svg(figure, f"scatter-{_slug(name)}"),
    )


def _latency(result: BenchResult) -> Drawing:
    from matplotlib.ticker import MaxNLocator, NullFormatter

    batch = min(size for _, size in result.times_ms)
    times = {n: np.sort(t) for (n, size), t in result.times_ms.items() if size == batch}
    edge = 1.1 * max(float(np.quantile(t, 0.99)) for t in times.values())
    beyond = sum(int((t > edge).sum()) for t in times.values())
    figure, axes = _canvas(290)
    parts = []
    for index, name in enumerate(result.scored.predictions):
        if name not in times:
            continue
        ordered = times[name]
        kept = _spread(len(ordered), MAX_VERTICES)
        share = (kept + 1) / len(ordered)
        axes.plot(np.r_[ordered[0], ordered[kept]], np.r_[0, share], **_line(index))
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
        _svg(figure, "latency"),
        tuple(times),
    )


def _canvas(height: int) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH / 72, height / 72))
    return figure, figure.add_subplot()


def _mark(index: int) -> dict[str, str]:
    """How an engine's lines look, for the legends in HTML."""
    dashes = " ".join(f"{1.4 * dash:g}" for dash in _DASHES[index % len(_DASHES)])
    return {"colour": f"var(--s{index % _SERIES})", "dashes": dashes or "none"}


def _line(index: int) -> dict[str, Any]:
    colour = _PLACEHOLDERS[f"s{index % _SERIES}"]
    dashes = _DASHES[index % len(_DASHES)]
    return {"color": colour, "linewidth": 1.6} | ({"dashes": dashes} if dashes else {})


def _dots(axes: Axes, x: NDArray[np.float32], y: NDArray[np.float32], colour: str) -> None:
    """Draw dots as one path of lines of length 0 with round caps: a tenth of the markers' text."""
    gaps = np.full(len(x), np.nan)
    points = [np.stack([v, v, gaps], axis=1).ravel() for v in (x, y)]
    axes.plot(*points, color=colour, linewidth=4, alpha=0.55, solid_capstyle="round")


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Indices of at most `most` of `count` things, evenly spread, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name)


def _svg(figure: Figure, key: str) -> Markup:
    """Write a figure as an SVG element that lives well in a page: own ids, the page's colours."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    (box,) = re.findall(r'<svg[^>]*?(viewBox="[^"]*")', text)
    inner = text[text.index(">", text.index("<svg")) + 1 :]
    inner = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", inner, flags=re.S)
    inner = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{key}-", inner).replace("xlink:href", "href")
    inner = re.sub(r' d="[^"]*"', lambda path: _short(path[0]), inner)
    for name, placeholder in _PLACEHOLDERS.items():
        inner = inner.replace(placeholder, f"var(--{name})")
    return Markup(f'<svg {box} aria-hidden="true" focusable="false">{inner}')


def _short(path: str) -> str:
    """A path with hundredths of a pixel, and its dots as `h0`."""
    path = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.2f}", path)
    path = re.sub(r"M (\S+ \S+) \s*L \1(?=\s)", r"M\1h0", path)
    return re.sub(r"\s+", " ", path)


# Heat maps


@dataclass(frozen=True)
class Tile:
    """A picture of an example.

    Attributes:
        title: What it is of.
        image: Data URI.
        alt: What it shows, in words.
        lines: Below it.
        flipped: The engine calls the face otherwise than the reference.
    """

    title: str
    image: str
    alt: str
    lines: tuple[str, ...] = ()
    flipped: bool = False


@dataclass(frozen=True)
class Shown:
    """An example face.

    Attributes:
        name: Of the face.
        label: 1 = fake.
        worst: Largest mean |difference| of a candidate's map from the reference's.
        tiles: The face, the reference's overlay, each candidate's.
    """

    name: str
    label: int
    worst: float
    tiles: tuple[Tile, ...]


def _examples(report: Mapping[str, Any], result: BenchResult) -> list[Shown]:
    """The examples, worst agreement first."""
    images = sum(1 + len(example.maps) for example in result.examples)
    # PNG takes about 1.75 bytes for a pixel of a face, and base64 a third more.
    side = int(math.sqrt(IMAGE_BYTES / max(1, images) / (1.75 * 4 / 3)))
    shown = [_show(example, report["threshold"], side) for example in result.examples]
    return sorted(shown, key=lambda example: -example.worst)


def _show(example: Example, threshold: float, side: int) -> Shown:
    face = example.pixels
    if side < len(face):
        face = np.asarray(cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    truth, truth_score = example.maps[REFERENCE]
    tiles = [Tile("face", _data_uri(face), f"Face {example.name}")]
    distances = [0.0]
    for name, (patch_map, score) in example.maps.items():
        before, after = called_fake(np.array([truth_score, score], np.float32), threshold)
        lines = [f"score {score:.3f}, {'fake' if after else 'real'}"]
        if name != REFERENCE:
            distance = np.abs(patch_map - truth)
            distances.append(float(distance.mean()))
            lines.append(
                f"|Δ| mean {significant(distances[-1])}, max {significant(float(distance.max()))}"
            )
        image = _data_uri(overlay(face, patch_map))
        alt = f"Heat map of {name} over the face; highest patch {patch_map.max():.2f}"
        tiles.append(Tile(name, image, alt, tuple(lines), bool(before != after)))
    return Shown(example.name, example.label, max(distances), tuple(tiles))


def _data_uri(image: Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode()}"
