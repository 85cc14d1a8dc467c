"""The page of a video's scores over time: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lpx.bench.report.pages import environment
from lpx.data.wording import are, counted
from lpx.render.encode import lossless, lossy
from lpx.render.face import Image, heat_map

# Maximum number of bars in a chart; in a longer video, each shows the highest of a few frames.
BARS = 500
# Maximum number of stretches called fake that the page names, the longest ones.
STRETCHES = 8
# Margins and height of the chart, and the height of the strip of known spans, in SVG units.
_LEFT, _RIGHT, _TOP, _HIGH, _BELOW = 44, 30, 14, 190, 44
_WIDE, _STRIP = 1000, 26


@dataclass(frozen=True)
class Moment:
    """A scored frame.

    Attributes:
        frame: Frame number, from 0.
        seconds: Time since the first frame; None if unknown.
        score: Score of its highest-scoring face, in [0, 1]; None without a face.
    """

    frame: int
    seconds: float | None
    score: float | None


@dataclass(frozen=True)
class KnownSpan:
    """Frames whose truth is known.

    Attributes:
        first: Number of the first frame.
        last: Number of the last frame.
        fake: Whether they are forged.
        text: Short description.
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
    """The content of a page.

    Attributes:
        name: Name of the video.
        engine: Name of the engine.
        threshold: Score from which on a frame is called fake.
        moments: Frames in order, at least one.
        score: Score of the video; None if no frame has a face.
        overlay: Name of the overlay video, in the folder of the page.
        known: Spans whose truth is known, in order.
    """

    name: str
    engine: str
    threshold: float
    moments: tuple[Moment, ...]
    score: float | None
    overlay: str
    known: tuple[KnownSpan, ...] = ()

    def word(self, score: float) -> str:
        """Return "fake" or "real", by the threshold."""
        return "fake" if score >= self.threshold else "real"

    @cached_property
    def timed(self) -> bool:
        """Whether the times of all frames are known; if not, frames are numbered."""
        # One frame without a time would leave a hole in an axis of seconds.
        return all(moment.seconds is not None for moment in self.moments)

    def counts(self, moments: Sequence[Moment]) -> Counts:
        """Count the moments that have a face, and those that are called fake."""
        called = faces = 0
        for moment in moments:
            if moment.score is not None:
                faces += 1
                called += moment.score >= self.threshold
        return Counts(called, faces)

    def within(self, span: KnownSpan) -> list[Moment]:
        """Return the moments of a span."""
        return [moment for moment in self.moments if span.first <= moment.frame <= span.last]


class Counts(NamedTuple):
    """Number of frames called fake, and of frames with a face."""

    called: int
    faces: int


class Tick(NamedTuple):
    """A tick of the time axis: its position in the chart, and its label."""

    x: float
    text: str


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
    """A known span in the chart; `word` is "real" or "fake"."""

    x: float
    wide: float
    word: str
    text: str


@dataclass(frozen=True)
class Chart:
    """The chart in SVG coordinates.

    Attributes:
        bars: Scores.
        areas: Known spans.
        ticks: Ticks of the time axis.
        threshold_y: Position of the threshold.
        width: Width of the chart with its margins.
        height: Height of the chart with its margins.
        left: Left end of the time axis.
        right: Right end of the time axis.
        top: Position of a score of 1.
        bottom: Position of a score of 0.
        unit: Label of the time axis.
    """

    bars: list[Bar]
    areas: list[Area]
    ticks: list[Tick]
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
        # Two decimals are below a pixel, and keep a page with hundreds of bars small.
        return round(_LEFT + wide * (value - low) / (high - low), 2)

    bars = []
    # Thousands of bars would make the page slow, and be thinner than a pixel.
    groups = np.array_split(np.arange(len(line.moments)), min(BARS, len(line.moments)))
    for group in groups:
        moments = [line.moments[index] for index in group]
        x, end = place(edges[group[0]]), place(edges[group[-1] + 1])
        # A gap between bars, if they are wide enough to see it.
        gap = 1 if end - x > 3 else 0
        bars.append(_bar(line, moments, x, round(end - x - gap, 2)))
    numbers = [moment.frame for moment in line.moments]
    # Spans are numbered by frames, and the axis may be one of seconds.
    areas = []
    for span in line.known:
        inside = [i for i, n in enumerate(numbers) if span.first <= n <= span.last]
        # A span may fall between the frames that were scored.
        if inside:
            x, end = place(edges[inside[0]]), place(edges[inside[-1] + 1])
            word = "fake" if span.fake else "real"
            areas.append(Area(x, round(end - x, 2), word, span.text))
    return Chart(
        bars=bars,
        areas=areas,
        ticks=[Tick(place(value), text) for value, text in _ticks(low, high)],
        threshold_y=round(top + _HIGH * (1 - line.threshold), 2),
        width=_WIDE,
        height=top + _HIGH + _BELOW,
        left=_LEFT,
        right=_WIDE - _RIGHT,
        top=top,
        bottom=top + _HIGH,
        unit="seconds" if line.timed else "frame",
    )


def _bar(line: Timeline, moments: Sequence[Moment], x: float, wide: float) -> Bar:
    # Frames without a face rank below every score, so that a bar is empty only if all its frames
    # are.
    best = max(moments, key=lambda moment: -1 if moment.score is None else moment.score)
    title = moment_text(line, best)
    if best.score is None:
        return Bar(x, wide, 0, "none", f"{title}: no face")
    word = line.word(best.score)
    title += f": {best.score:.3f}, {word}"
    if len(moments) > 1:
        title += f", the highest of {len(moments)} frames"
    # Rounding may leave a score just above 1, which would stick out of the chart; a score of 0 has
    # to be visible, too.
    high = round(max(_HIGH * min(best.score, 1.0), 1.5), 2)
    return Bar(x, wide, high, word, title)


def _edges(line: Timeline) -> NDArray[np.float64]:
    """Return the start of each moment on the axis, and the end of the last one, ascending."""
    if line.timed:
        starts = np.array([moment.seconds for moment in line.moments], np.float64)
    else:
        starts = np.array([moment.frame for moment in line.moments], np.float64)
    # Times of a damaged file may stand still or run back.
    starts = np.maximum.accumulate(starts)
    gap = 0.0
    if len(starts) > 1:
        # The median, as a cut in the video or a damaged time stamp leaves a few huge gaps.
        gap = float(np.median(np.diff(starts)))
    if gap <= 0:
        # One frame, or times that stand still: the axis must not have a length of 0.
        gap = 1.0
    return np.append(starts, starts[-1] + gap)


def _ticks(low: float, high: float) -> list[Tick]:
    """Return about eight ticks at round numbers; `x` is the number."""
    rough = (high - low) / 8
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    # 1e-9 keeps numbers that rounding has moved just past a limit.
    digits = max(0, -int(np.floor(np.log10(step) + 1e-9)))
    values = np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step
    # Adding 0 turns -0 into 0.
    return [Tick(value, f"{value:.{digits}f}") for value in (values + 0.0).tolist()]


def moment_text(line: Timeline, moment: Moment) -> str:
    """Return the time of a moment: "1.20 s", or "frame 12" if times are unknown."""
    return f"{moment.seconds:.2f} s" if line.timed else f"frame {moment.frame}"


def stretches(line: Timeline) -> list[str]:
    """Return the longest stretches of frames called fake, in order of time."""
    edges = _edges(line)
    spans: list[tuple[float, float]] = []

    def fake(index: int) -> bool:
        score = line.moments[index].score
        return score is not None and score >= line.threshold

    for called, group in groupby(range(len(line.moments)), fake):
        if called:
            inside = list(group)
            # A stretch ends with the end of its last frame, or with its number.
            last = inside[-1] + 1 if line.timed else inside[-1]
            spans.append((float(edges[inside[0]]), float(edges[last])))
    # The longest are chosen first, and only then put in order of time.
    longest = sorted(spans, key=lambda span: span[0] - span[1])[:STRETCHES]
    if line.timed:
        return [f"{start:.1f} to {end:.1f} s" for start, end in sorted(longest)]
    return [f"{start:.0f} to {end:.0f}" for start, end in sorted(longest)]


def timeline_headline(line: Timeline) -> str:
    """Summarise the scores of a video in a few sentences."""
    called, faces = line.counts(line.moments)
    if line.score is None:
        return f"No face was found in {counted(len(line.moments), 'frame')}, so there is no score."
    text = (
        f"Mean score {line.score:.3f}, called {line.word(line.score)} at the threshold of "
        f"{line.threshold:.3f}. {called:,} of {counted(faces, 'frame')} with a face "
        f"{are(called)} called fake"
    )
    named = stretches(line)
    # Only a full list can have left any out.
    if named:
        text += ": the longest stretches are " if len(named) == STRETCHES else ": "
        text += "at " if line.timed else "frames "
        text += ", ".join(named)
    text += "."
    missing = len(line.moments) - faces
    if missing:
        text += f" {counted(missing, 'frame')} without a face."
    return text


@dataclass(frozen=True)
class SpanScore:
    """Scores of a known span.

    Attributes:
        where: Times of the first and the last frame.
        span: The span.
        score: Mean score of the frames with a face; None if there are none.
        called: Number of frames called fake.
        faces: Number of frames with a face.
    """

    where: str
    span: KnownSpan
    score: float | None
    called: int
    faces: int


def span_scores(line: Timeline) -> list[SpanScore]:
    """Score the known spans of a video."""
    rows = []
    for span in line.known:
        moments = line.within(span)
        if not moments:
            continue
        scores = [moment.score for moment in moments if moment.score is not None]
        where = f"{moment_text(line, moments[0])} to {moment_text(line, moments[-1])}"
        mean = float(np.mean(scores)) if scores else None
        rows.append(SpanScore(where, span, mean, *line.counts(moments)))
    return rows


def render_timeline(line: Timeline, stills: Sequence[Still]) -> str:
    """Render the page.

    Args:
        line: The scores.
        stills: A few frames, in order.

    Returns:
        An HTML document that refers to nothing outside itself, except the overlay video, by a link.
        The same arguments give the same text.
    """
    # The ramp of the legend is drawn by the same function as the maps, so that the colours agree.
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    pictures = []
    for still in stills:
        time = moment_text(line, still.moment)
        pictures.append((time, still.moment.score, lossy(still.picture)))
    template = environment("lpx.predict").get_template("timeline.html.j2")
    return template.render(
        line=line,
        headline=timeline_headline(line),
        chart=draw_chart(line),
        rows=span_scores(line),
        stills=pictures,
        ramp=lossless(heat_map(ramp, 256)[:8]),
    )
