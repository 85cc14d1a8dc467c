"""The page of a video's scores over time: one HTML file, no network, fonts or folder needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from lpx.bench.report.pages import environment
from lpx.data.wording import counted
from lpx.render.encode import lossless, lossy
from lpx.render.face import Image, heat_map

BARS = 500
"""A chart has no more bars: of a longer video each stands for the highest of a few frames."""
STRETCHES = 8
"""How many stretches that are called fake are named, the longest ones."""
_LEFT, _RIGHT, _TOP, _HIGH, _BELOW = 44, 30, 14, 190, 44
_WIDE, _STRIP = 1000, 26


@dataclass(frozen=True)
class Moment:
    """A frame that was looked at.

    Attributes:
        frame: Its number, from 0.
        seconds: When it is shown; None where unknown.
        score: Of its highest-scoring face, in [0, 1]; None where it has no face.
    """

    frame: int
    seconds: float | None
    score: float | None


@dataclass(frozen=True)
class KnownSpan:
    """Frames of which the truth is known.

    Attributes:
        first: Number of the first frame.
        last: Number of the last one.
        fake: Whether they are forged.
        text: What they are, in a few words.
    """

    first: int
    last: int
    fake: bool
    text: str


@dataclass(frozen=True, eq=False)
class Still:
    """A frame with heat maps and boxes, uint8 RGB [H, W, 3]."""

    moment: Moment
    picture: Image


@dataclass(frozen=True)
class Timeline:
    """What a page shows.

    Attributes:
        name: Of the video.
        engine: Its name.
        threshold: Scores from here on up are called fake.
        moments: In order, at least one.
        score: The video's; None where no frame has a face.
        overlay: Name of the overlay video, in the folder of the page.
        known: What is known of the truth, in order.
    """

    name: str
    engine: str
    threshold: float
    moments: tuple[Moment, ...]
    score: float | None
    overlay: str
    known: tuple[KnownSpan, ...] = ()

    @property
    def timed(self) -> bool:
        """Whether it is known when frames are shown; frames are numbered where it is not."""
        return all(moment.seconds is not None for moment in self.moments)

    def called_fake(self, moments: Sequence[Moment]) -> tuple[int, int]:
        """How many of some moments are called fake, and how many have a face."""
        scores = [moment.score for moment in moments if moment.score is not None]
        return sum(score >= self.threshold for score in scores), len(scores)

    def within(self, span: KnownSpan) -> list[Moment]:
        """The moments of a span."""
        return [moment for moment in self.moments if span.first <= moment.frame <= span.last]


@dataclass(frozen=True)
class Bar:
    """A score in the chart, in its coordinates; `word` is "real", "fake" or "none"."""

    x: float
    wide: float
    high: float
    word: str
    title: str


@dataclass(frozen=True)
class Area:
    """A known span in the chart."""

    x: float
    wide: float
    word: str
    text: str


@dataclass(frozen=True)
class Chart:
    """Everything of the chart that is not text of the page."""

    bars: list[Bar]
    areas: list[Area]
    ticks: list[tuple[float, str]]
    threshold_y: float
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    unit: str


def draw_chart(line: Timeline) -> Chart:
    """Place scores, known spans and ticks."""
    edges = _edges(line)
    low, high = float(edges[0]), float(edges[-1])
    strip = _STRIP if line.known else 0
    top, wide = _TOP + strip, _WIDE - _LEFT - _RIGHT

    def place(value: float) -> float:
        return round(_LEFT + wide * (value - low) / (high - low), 2)

    bars = []
    groups = np.array_split(np.arange(len(line.moments)), min(BARS, len(line.moments)))
    for group in groups:
        moments = [line.moments[index] for index in group]
        x, end = place(edges[group[0]]), place(edges[group[-1] + 1])
        gap = 1 if end - x > 3 else 0
        bars.append(_bar(line, moments, x, round(end - x - gap, 2)))
    numbers = [moment.frame for moment in line.moments]
    areas = []
    for span in line.known:
        inside = [i for i, n in enumerate(numbers) if span.first <= n <= span.last]
        if inside:
            x, end = place(edges[inside[0]]), place(edges[inside[-1] + 1])
            word = "fake" if span.fake else "real"
            areas.append(Area(x, round(end - x, 2), word, span.text))
    return Chart(
        bars,
        areas,
        [(place(value), text) for value, text in _ticks(low, high)],
        round(top + _HIGH * (1 - line.threshold), 2),
        _WIDE,
        top + _HIGH + _BELOW,
        _LEFT,
        _WIDE - _RIGHT,
        top,
        top + _HIGH,
        "seconds" if line.timed else "frame",
    )


def _bar(line: Timeline, moments: Sequence[Moment], x: float, wide: float) -> Bar:
    best = max(moments, key=lambda moment: -1 if moment.score is None else moment.score)
    at = moment_text(line, best)
    if best.score is None:
        return Bar(x, wide, 0, "none", f"{at}: no face")
    word = "fake" if best.score >= line.threshold else "real"
    more = f", the highest of {len(moments)} frames" if len(moments) > 1 else ""
    # A score of 0 stays visible.
    high = round(max(_HIGH * min(best.score, 1.0), 1.5), 2)
    return Bar(x, wide, high, word, f"{at}: {best.score:.3f}, {word}{more}")


def _edges(line: Timeline) -> NDArray[np.float64]:
    """Where each moment begins on the axis, and where the last one ends; rising."""
    starts = np.array([m.seconds if line.timed else m.frame for m in line.moments], np.float64)
    # Times of a damaged file may stand still or run back.
    starts = np.maximum.accumulate(starts)
    gap = float(np.median(np.diff(starts))) if len(starts) > 1 else 0.0
    return np.append(starts, starts[-1] + (gap if gap > 0 else 1.0))


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    rough = (high - low) / 8
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    digits = max(0, -int(np.floor(np.log10(step) + 1e-9)))
    values = np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step
    # Adding 0 makes 0 of -0.
    return [(float(value) + 0.0, f"{value + 0.0:.{digits}f}") for value in values]


def moment_text(line: Timeline, moment: Moment) -> str:
    """When a moment is: "1.20 s", or "frame 12" where times are not known."""
    return f"{moment.seconds:.2f} s" if line.timed else f"frame {moment.frame}"


def stretches(line: Timeline) -> list[str]:
    """The longest stretches of frames that are called fake, in order of time."""
    edges = _edges(line)
    found: list[tuple[float, float]] = []

    def fake(index: int) -> bool:
        score = line.moments[index].score
        return score is not None and score >= line.threshold

    for called, group in groupby(range(len(line.moments)), fake):
        if called:
            inside = list(group)
            last = inside[-1] + 1 if line.timed else inside[-1]
            found.append((float(edges[inside[0]]), float(edges[last])))
    longest = sorted(found, key=lambda span: span[0] - span[1])[:STRETCHES]
    digits, unit = (1, " s") if line.timed else (0, "")
    return [f"{a:.{digits}f} to {b:.{digits}f}{unit}" for a, b in sorted(longest)]


def headline(line: Timeline) -> str:
    """What the detector says of the video, in a few sentences."""
    called, faces = line.called_fake(line.moments)
    if line.score is None:
        return f"No face was found in {counted(len(line.moments), 'frame')}, so there is no score."
    verdict = "fake" if line.score >= line.threshold else "real"
    text = (
        f"Mean score {line.score:.3f}, called {verdict} at the threshold of "
        f"{line.threshold:.3f}. {called:,} of {counted(faces, 'frame')} with a face "
        f"{'is' if called == 1 else 'are'} called fake"
    )
    named = stretches(line)
    if named:
        where = "at" if line.timed else "frames"
        text += f": {'the longest stretches are ' if len(named) == STRETCHES else ''}{where} "
        text += ", ".join(named)
    missing = len(line.moments) - faces
    return f"{text}." + (f" {counted(missing, 'frame')} without a face." if missing else "")


@dataclass(frozen=True)
class Row:
    """A known span in the table."""

    where: str
    span: KnownSpan
    score: float | None
    called: int
    faces: int


def rows(line: Timeline) -> list[Row]:
    """What is known beside what the detector says."""
    shown = []
    for span in line.known:
        moments = line.within(span)
        if moments:
            scores = [moment.score for moment in moments if moment.score is not None]
            where = f"{moment_text(line, moments[0])} to {moment_text(line, moments[-1])}"
            mean = float(np.mean(scores)) if scores else None
            shown.append(Row(where, span, mean, *line.called_fake(moments)))
    return shown


def render_timeline(line: Timeline, stills: Sequence[Still]) -> str:
    """Render the page.

    Args:
        line: The scores.
        stills: A few frames, in order.

    Returns:
        An HTML document that refers to nothing outside itself but the overlay video, by a link. The
        same arguments give the same text.
    """
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    return (
        environment("lpx.predict")
        .get_template("timeline.html.j2")
        .render(
            line=line,
            headline=headline(line),
            chart=draw_chart(line),
            rows=rows(line),
            stills=[
                (moment_text(line, still.moment), still.moment.score, lossy(still.picture))
                for still in stills
            ],
            ramp=lossless(heat_map(ramp, 256)[:8]),
        )
    )
