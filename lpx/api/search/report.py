"""The page of a search, and its figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from lpx.api.search.outcome import SearchResult, TimedTrial
from lpx.bench.report.pages import environment
from lpx.bench.report.svg import INK, STYLE, canvas, to_svg, verdict_colour
from lpx.workspace import write_bytes

_HEIGHT = 260
_CLASSES = {"plan": "holds", "all-int8": "holds", "no-gain": "undecided", "no-plan": "fails"}
# In files "undecided"; people are shown "inconclusive".
_WORDS = {
    "holds": "holds",
    "fails": "fails",
    "undecided": "inconclusive",
    "uninformative": "uninformative",
}


@dataclass(frozen=True)
class _Figure:
    svg: Markup
    alt: str
    caption: str


def write_report(result: SearchResult) -> None:
    """Write the page of a search: one file that refers to nothing outside itself."""
    page = environment("lpx.search").get_template("search.html.j2")
    text = page.render(
        result=result, word=_CLASSES[result.outcome], words=_WORDS, figures=_figures(result)
    )
    write_bytes(result.files.report, text.encode())


def _figures(result: SearchResult) -> list[_Figure]:
    timed = [one for one in result.trials if one.ms is not None]
    figures = []
    if timed:
        figures.append(_draw(result, timed, _milliseconds, "latency, ms per face", "latency"))
    if result.trials:
        figures.append(_draw(result, list(result.trials), _mebibytes, "size, MiB", "size"))
    return figures


def _milliseconds(timed: TimedTrial) -> float:
    assert timed.ms is not None
    return timed.ms


def _mebibytes(timed: TimedTrial) -> float:
    return timed.trial.size / 2**20


def _draw(
    result: SearchResult,
    shown: list[TimedTrial],
    place: Callable[[TimedTrial], float],
    label: str,
    key: str,
) -> _Figure:
    """Draw AUC differences with their intervals; the dashed line is the margin."""
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):
        figure, axes = canvas(_HEIGHT)
        for one in shown:
            measured = one.trial.measured
            colour = verdict_colour(one.trial.verdict)
            x = place(one)
            axes.plot([x, x], [measured.low, measured.high], color=colour, linewidth=1.6)
            axes.plot([x], [measured.estimate], "o", color=colour, markersize=6)
        axes.axhline(-result.test.margin, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.axhline(0, color=INK, linewidth=0.6)
        if key == "latency" and result.reference.ms is not None:
            axes.plot([result.reference.ms], [0], "D", color=INK, markersize=6)
        axes.set(xlabel=label, ylabel="AUC less that of float")
        furthest = [place(one) for one in shown]
        if key == "latency" and result.reference.ms is not None:
            furthest.append(result.reference.ms)
        axes.set_xlim(0, 1.1 * max(furthest))
        svg = to_svg(figure, f"search-{key}")
    caption = "Measured on faces that the search did not see; the dashed line is the margin"
    if key == "latency":
        caption += f"; the diamond is the {result.reference.precision.upper()} engine"
    alt = f"AUC difference against {label}, {len(shown)} engines"
    return _Figure(svg, alt, caption + ".")
