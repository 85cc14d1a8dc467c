"""The rules of watching, with a source and a clock that do as they are told."""

from __future__ import annotations

import numpy as np
import pytest

from lpx.errors import InvalidArgumentError, LpxError
from lpx.streams.live.connection import ConnectionLostError, LiveFrame, SizeChangedError
from lpx.streams.live.ffmpeg_log import StreamSize
from lpx.streams.live.messages import FrameHeader
from lpx.streams.live.source import live_source
from lpx.streams.live.watch import LiveLimits, LiveOptions, LiveWatch
from tests.support.streaming import ConstantEngine, FixedDetector, scorer

LOST = ConnectionLostError("it ended")


class Time:
    """Passes only when somebody waits."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Source:
    """Connects as scripted: each connection is a list of frame sizes, and errors at its end."""

    def __init__(self, clock, *connections, period=0.1, rate=10.0):
        self.clock, self.period, self.rate = clock, period, rate
        self.connections = list(connections)
        self.opened_at = []
        self.closed = 0

    def __call__(self, source, timeout_s):
        self.opened_at.append(round(self.clock.now - 1000, 3))
        script = self.connections.pop(0) if self.connections else [LOST]
        return Scripted(self, script)


class Scripted:
    opened = True

    def __init__(self, source, script):
        self.source, self.script = source, list(script)
        self.frames_per_second = source.rate
        self.number = self.skipped = 0
        self.wanted = False

    def ask(self):
        self.wanted = True

    def rest(self):
        pass

    def receive(self, wait_s, *, due):
        clock = self.source.clock
        if not self.wanted:
            # Frames that arrive meanwhile are passed over.
            clock.now += wait_s
            return None
        item = self.script.pop(0) if self.script else LOST
        if isinstance(item, Exception):
            raise item
        clock.now += self.source.period
        self.wanted = False
        height, width = item
        header = FrameHeader(clock.now, self.number, 0, self.skipped, height, width)
        self.number += 1
        return LiveFrame(header, np.zeros((height, width, 3), np.uint8))

    def close(self):
        self.source.closed += 1


S, L = (90, 120), (180, 240)


def watch(connections, limits=None, options=None, name="rtsp://u:secret@cam/x", **settings):
    clock = Time()
    source = Source(clock, *connections, **settings)
    found = LiveWatch(
        live_source(name),
        scorer(detector=FixedDetector()),
        limits or LiveLimits(),
        options or LiveOptions(),
        connect=source,
        clock=clock,
    )
    return found, source


def kinds(items):
    return [item.to_dict()["kind"] for item in items]


def test_frames_until_the_limit():
    live, source = watch([[S] * 9], LiveLimits(frames=3))
    with live:
        items = list(live)
    assert kinds(items) == ["connected", "frame", "frame", "frame"]
    assert [item.frame for item in items[1:]] == [0, 1, 2]
    first = items[1].to_dict()
    assert first["faces"] == [
        {"box": [30.0, 30.0, 70.0, 70.0], "detector_score": 0.9, "score": 0.75, "fake": True}
    ]
    assert (first["score"], first["fake"], first["time"]) == (
        0.75,
        True,
        "1970-01-01T00:16:40.100Z",
    )
    summary = live.summary()
    assert (summary.ended_by, summary.counts.frames, summary.faces) == ("frames", 3, 3)
    assert summary.mean_score == 0.75
    assert source.closed == 1
    assert next(live, None) is None


def test_a_limit_of_time():
    live, _ = watch([[S] * 100], LiveLimits(seconds=1.0))
    with live:
        items = list(live)
    assert len(items) == 11
    assert live.summary().ended_by == "seconds"


def test_a_limit_of_time_while_the_source_is_away():
    live, _ = watch([[S]], LiveLimits(seconds=20))
    with live:
        items = list(live)
    assert kinds(items) == ["connected", "frame", "lost"] + ["unreachable"] * 4
    assert live.summary().seconds == pytest.approx(20, abs=0.3)


def test_pauses_grow_and_have_a_limit():
    live, source = watch([[S]], LiveLimits(seconds=200), LiveOptions(longest_pause_s=16))
    with live:
        pauses = [item.retry_s for item in live if getattr(item, "retry_s", None)]
    assert pauses[:7] == [1, 2, 4, 8, 16, 16, 16]
    assert np.diff(source.opened_at)[1:5] == pytest.approx([2, 4, 8, 16], abs=0.01)


def test_a_source_that_flaps_is_not_opened_faster_and_faster():
    live, _ = watch([[S]] * 5, LiveLimits(frames=5))
    with live:
        assert [item.retry_s for item in live if getattr(item, "retry_s", None)] == [1, 2, 4, 8]


def test_a_good_connection_resets_the_pauses():
    live, _ = watch([[S], [S], [S] * 400, [S]], LiveLimits(frames=403))
    with live:
        assert [item.retry_s for item in live if getattr(item, "retry_s", None)] == [1, 2, 1]
    assert live.summary().counts.reconnects == 3


def test_numbers_and_counts_go_on_after_a_loss():
    live, _ = watch([[S, S], [S, S]], LiveLimits(frames=4))
    with live:
        items = list(live)
    assert kinds(items) == ["connected", "frame", "frame", "lost", "connected", "frame", "frame"]
    assert [item.frame for item in items if hasattr(item, "frame")] == [0, 1, 2, 3]
    assert items[-1].counts.reconnects == 1
    assert items[3].reason == "it ended"


def test_another_size_is_an_event():
    live, _ = watch([[S, S, L, S]], LiveLimits(frames=4))
    with live:
        items = list(live)
    assert kinds(items) == [
        "connected",
        "frame",
        "frame",
        "size-changed",
        "frame",
        "size-changed",
        "frame",
    ]
    assert (items[3].width, items[3].height) == (240, 180)


def test_a_size_that_opencv_hides_opens_the_source_again_at_once():
    change = SizeChangedError(StreamSize(240, 180))
    live, source = watch([[S] * 20 + [change], [L]], LiveLimits(frames=21))
    with live:
        items = list(live)
    assert kinds(items)[21:] == ["connected", "size-changed", "frame"]
    assert source.opened_at == [0, 2.0]


def test_sizes_that_change_all_the_time_are_a_loss():
    change = SizeChangedError(StreamSize(240, 180))
    live, _ = watch([[S], [change], [S]], LiveLimits(frames=2))
    with live:
        items = list(live)
    assert kinds(items).count("unreachable") == 1
    assert items[-1].counts.frames == 2


def test_the_rate_is_kept():
    live, _ = watch([[S] * 100], LiveLimits(seconds=10, fps=2), period=0.01)
    with live:
        frames = [item for item in live if hasattr(item, "frame")]
    assert len(frames) == 20


def test_a_rate_that_cannot_be_kept_is_not_made_up_for():
    live, _ = watch([[S] * 100], LiveLimits(seconds=10, fps=100), period=0.5)
    with live:
        frames = [item for item in live if hasattr(item, "frame")]
    assert len(frames) == 20


def test_a_source_that_never_answers_is_an_error_without_its_password():
    live, source = watch([[ConnectionLostError("no answer in 10 s")]])
    with live, pytest.raises(LpxError) as caught:
        next(live)
    assert caught.value.code == "unreachable"
    assert "rtsp://***@cam/x gives no frames\n  why: no answer" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert source.closed == 1


def test_waiting_for_a_source():
    live, _ = watch([[LOST], [LOST], [S]], LiveLimits(frames=1), LiveOptions(wait=True))
    with live:
        items = list(live)
    assert kinds(items) == ["unreachable", "unreachable", "connected", "frame"]
    assert items[-1].counts.reconnects == 0


def test_a_process_that_cannot_be_started_is_tried_again():
    clock = Time()
    source = Source(clock, [S], [S])
    calls = []

    def connect(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(11, "Resource temporarily unavailable")
        return source(*arguments)

    limits = LiveLimits(frames=2)
    opener = scorer(detector=FixedDetector())
    live = LiveWatch(
        live_source("udp://cam"), opener, limits, LiveOptions(), connect=connect, clock=clock
    )
    with live:
        items = list(live)
    assert kinds(items)[2:4] == ["lost", "unreachable"]
    assert "cannot be started: Resource temporarily unavailable" in items[3].reason


def test_long_attempts_that_fail_do_not_shorten_the_pauses():
    class Slow(Source):
        def __call__(self, source, timeout_s):
            if self.opened_at:
                self.clock.now += 60
            return super().__call__(source, timeout_s)

    clock = Time()
    live = LiveWatch(
        live_source("udp://cam"),
        scorer(detector=FixedDetector()),
        LiveLimits(seconds=400),
        LiveOptions(),
        connect=Slow(clock, [S]),
        clock=clock,
    )
    with live:
        pauses = [item.retry_s for item in live if getattr(item, "retry_s", None)]
    assert pauses[:5] == [1, 2, 4, 8, 16]


def test_no_reconnection():
    live, _ = watch([[S, S]], options=LiveOptions(reconnect=False))
    with live:
        items = list(live)
    assert kinds(items) == ["connected", "frame", "frame", "lost"]
    assert items[-1].retry_s is None
    assert live.summary().ended_by == "source"


def test_a_file_begins_again_without_a_pause():
    live, _ = watch([[S], [S]], LiveLimits(frames=2), name="a.mp4")
    with live:
        items = list(live)
    assert kinds(items) == ["connected", "frame", "lost", "connected", "frame"]
    assert items[2].retry_s == 0


def test_frames_without_a_face():
    clock = Time()
    live = LiveWatch(
        live_source("udp://cam"),
        scorer(detector=FixedDetector(0)),
        LiveLimits(frames=2),
        LiveOptions(),
        connect=Source(clock, [S, S]),
        clock=clock,
    )
    with live:
        items = list(live)
    assert items[1].to_dict()["faces"] == []
    assert items[1].to_dict()["score"] is items[1].to_dict()["fake"] is None
    summary = live.summary()
    assert (summary.faceless, summary.mean_score, summary.fake_frames) == (2, None, 0)


def test_scores_that_are_no_probabilities_end_it():
    clock = Time()
    source = Source(clock, [S])
    live = LiveWatch(
        live_source("udp://u:secret@cam"),
        scorer(ConstantEngine(float("nan")), FixedDetector()),
        LiveLimits(),
        LiveOptions(),
        connect=source,
        clock=clock,
    )
    with live, pytest.raises(LpxError, match="constant gives the score nan") as caught:
        list(live)
    assert "secret" not in str(caught.value)
    assert source.closed == 1


def test_closing_ends_the_connection_and_the_engine():
    engine = ConstantEngine()
    clock = Time()
    source = Source(clock, [S] * 9)
    live = LiveWatch(
        live_source("udp://cam"),
        scorer(engine, FixedDetector()),
        LiveLimits(),
        LiveOptions(),
        connect=source,
        clock=clock,
    )
    next(live)
    live.close()
    live.close()
    assert engine.closed
    assert source.closed == 1
    assert live.summary().ended_by == "closed"
    assert list(live) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 0},
        {"frames": 1.5},
        {"frames": True},
        {"seconds": 0},
        {"seconds": float("nan")},
        {"fps": 0},
        {"fps": -1},
        {"fps": float("inf")},
        {"fps": "5"},
    ],
)
def test_wrong_limits(wrong):
    with pytest.raises(InvalidArgumentError) as caught:
        LiveLimits(**wrong)
    assert caught.value.argument == next(iter(wrong))


@pytest.mark.parametrize(
    "wrong",
    [{"timeout_s": 0}, {"timeout_s": "1"}, {"wait": 1}, {"reconnect": None}, {"first_pause_s": -1}],
)
def test_wrong_options(wrong):
    with pytest.raises(InvalidArgumentError):
        LiveOptions(**wrong)
