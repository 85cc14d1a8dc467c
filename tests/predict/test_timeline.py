"""The page of a video's scores over time."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lpx.predict.timeline import (
    BARS,
    KnownSpan,
    Moment,
    Still,
    Timeline,
    draw_chart,
    render_timeline,
    span_scores,
    stretches,
    timeline_headline,
)

EVIL = '<img src=x onerror="alert(1)">.mp4'


def timeline(scores, rate_hz=10, known=(), threshold=0.5, name="clip.mp4"):
    """Frames at a rate; of a rate of None nobody knows when they are shown."""
    moments = tuple(
        Moment(i, None if rate_hz is None else i / rate_hz, score) for i, score in enumerate(scores)
    )
    there = [score for score in scores if score is not None]
    mean = float(np.mean(there)) if there else None
    return Timeline(name, "engine-x", threshold, moments, mean, f"{name}-overlay.mp4", known)


def test_each_bar_is_as_high_as_its_score_and_stands_at_its_time():
    line = timeline([0.0, 0.25, 0.5, 1.0])
    chart = draw_chart(line)
    high = chart.bottom - chart.top
    assert [bar.high / high for bar in chart.bars][1:] == pytest.approx([0.25, 0.5, 1], abs=0.01)
    assert chart.bars[0].high > 0
    assert [bar.word for bar in chart.bars] == ["real", "real", "fake", "fake"]
    quarter = (chart.right - chart.left) / 4
    assert [bar.x for bar in chart.bars] == pytest.approx(
        [chart.left + i * quarter for i in range(4)], abs=0.1
    )
    assert chart.threshold_y == pytest.approx((chart.top + chart.bottom) / 2)


def test_frames_far_apart_keep_their_places():
    moments = tuple(Moment(n, n / 10, 0.2) for n in (0, 30, 60, 90))
    line = Timeline("a", "e", 0.5, moments, 0.2, "o", (KnownSpan(30, 60, True, "swap"),))
    (area,) = draw_chart(line).areas
    bars = draw_chart(line).bars
    assert area.x == bars[1].x
    assert area.x + area.wide == pytest.approx(bars[3].x, abs=0.1)


def test_a_long_video_keeps_its_highest_frame():
    scores = [0.1] * 5000
    scores[3777] = 0.97
    chart = draw_chart(timeline(scores))
    assert len(chart.bars) == BARS
    (fake,) = [bar for bar in chart.bars if bar.word == "fake"]
    assert "377.70 s: 0.970, fake, the highest of 10 frames" in fake.title


@pytest.mark.parametrize("length", [0.1, 0.3, 1, 7, 60, 3599, 90000])
def test_ticks_are_few_round_and_inside(length):
    moments = tuple(Moment(i, i * length / 20, 0.1) for i in range(20))
    chart = draw_chart(Timeline("a", "e", 0.5, moments, 0.1, "o"))
    assert 4 <= len(chart.ticks) <= 10
    assert chart.ticks[0] == (chart.left, re.sub(r"[1-9]", "0", chart.ticks[0][1]))
    assert all(chart.left <= x <= chart.right for x, _ in chart.ticks)
    assert len({text for _, text in chart.ticks}) == len(chart.ticks)


@pytest.mark.parametrize("times", [[0.0], [0.0, 0.0, 0.0], [0.0, 0.2, 0.1, 0.3]])
def test_times_that_stand_still_or_run_back_are_drawn(times):
    moments = tuple(Moment(i, t, 0.7) for i, t in enumerate(times))
    chart = draw_chart(Timeline("a", "e", 0.5, moments, 0.7, "o"))
    assert len(chart.bars) == len(times)
    assert all(bar.wide >= 0 and np.isfinite(bar.x) for bar in chart.bars)


def test_frames_are_numbered_where_times_are_not_known():
    line = timeline([0.1, 0.9, 0.8, 0.1, 0.9], rate_hz=None)
    assert stretches(line) == ["1 to 2", "4 to 4"]
    assert draw_chart(line).unit == "frame"
    assert "frame 1: 0.900, fake" in render_timeline(line, [])


def test_stretches_end_where_a_frame_has_no_face_or_is_called_real():
    line = timeline([0.9, 0.9, None, 0.9, 0.1, 0.6])
    assert stretches(line) == ["0.0 to 0.2 s", "0.3 to 0.4 s", "0.5 to 0.6 s"]
    assert timeline_headline(line) == (
        "Mean score 0.680, called fake at the threshold of 0.500. 4 of 5 frames with a face are "
        "called fake: at 0.0 to 0.2 s, 0.3 to 0.4 s, 0.5 to 0.6 s. 1 frame without a face."
    )


def test_no_face_at_all_is_said():
    line = timeline([None, None])
    assert timeline_headline(line) == "No face was found in 2 frames, so there is no score."
    assert ">no face<" not in render_timeline(line, [])
    assert {bar.word for bar in draw_chart(line).bars} == {"none"}


def test_what_is_known_stands_beside_what_is_said():
    spans = (
        KnownSpan(0, 1, False, "as filmed"),
        KnownSpan(2, 4, True, "swapped"),
        KnownSpan(90, 99, True, "after the end"),
    )
    line = timeline([0.1, 0.6, 0.9, None, 0.4], known=spans)
    real, fake = span_scores(line)
    assert (real.score, real.called, real.faces) == (pytest.approx(0.35), 1, 2)
    assert (fake.score, fake.called, fake.faces) == (pytest.approx(0.65), 1, 2)
    assert fake.where == "0.20 s to 0.40 s"
    page = render_timeline(line, [])
    assert page.count('class="fake band"') == 1
    assert "swapped" in page
    assert "ground truth" in page


def test_nothing_is_called_true_where_nothing_is_known():
    page = render_timeline(timeline([0.1, 0.9]), [])
    assert "ground truth" not in page
    assert 'band"' not in page


def test_the_page_needs_nothing_else_and_trusts_no_name():
    picture = np.full((90, 120, 3), 80, np.uint8)
    line = timeline([0.1, 0.9], name=EVIL, known=(KnownSpan(0, 1, True, EVIL),))
    page = render_timeline(line, [Still(line.moments[1], picture)])
    assert "<img src=x" not in page
    assert "<script" not in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    (link,) = [source for source in sources if not source.startswith("data:")]
    assert link.startswith("%3Cimg")
    assert page == render_timeline(line, [Still(line.moments[1], picture)])
