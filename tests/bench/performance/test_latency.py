from __future__ import annotations

import time
from itertools import groupby
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.bench.performance import latency
from lpx.bench.performance.latency import (
    TIMING_LIMITS,
    Samples,
    TimingLimits,
    percentile,
    percentile_interval,
    sample,
    summarise,
)
from lpx.engines.base import Prediction
from lpx.metrics import Interval

FACES = np.zeros((4, 8, 8, 3), np.uint8)


class Clock:
    """A clock that moves only when an engine works."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Recorded:
    """An engine that takes so many milliseconds, and writes its name down at every call."""

    def __init__(self, name, calls, milliseconds, clock):
        self.name, self.calls, self.seconds, self.clock = name, calls, milliseconds / 1e3, clock

    def infer(self, faces):
        self.calls.append(self.name)
        self.clock.now += self.seconds
        return Prediction(
            np.zeros(len(faces), np.float32), np.zeros((len(faces), 1, 1), np.float32)
        )

    def close(self):
        pass


@pytest.fixture
def clock():
    return Clock()


@pytest.mark.parametrize(
    ("percent", "index"),
    [(50, 4), (90, 8), (99, 9), (100, 9), (0, 0)],
)
def test_percentile_is_trtexecs(percent, index):
    """By hand: sorted[10 - 1 - int((1 - p / 100) * 10)]; at 0 the index would fall out."""
    times = np.arange(10, dtype=np.float64)
    assert percentile(times, percent) == index


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100, 1000])
def test_percentile_of_99_leaves_out_a_whole_hundredth(count):
    times = np.arange(count, dtype=np.float64)
    assert percentile(times, 99) == count - 1 - count // 100
    assert percentile(times, 100) == count - 1


def test_summary_by_hand():
    times = np.array([8.0, 4.0, 4.0, 16.0])
    found = summarise(times, batch=4, units=50)
    assert found.batch == 4
    assert found.iterations == 4
    assert (
        found.per_face_ms.p50.estimate == 1.0
    )  # sorted: 4 4 8 16, of which trtexec's median is the 2nd
    assert found.per_face_ms.p90.estimate == 4.0
    assert found.per_face_ms.p99.estimate == 4.0
    assert found.per_patch_p50_us == pytest.approx(1000 * 4.0 / (4 * 50))
    assert found.faces_per_second == pytest.approx(16 / 0.032)
    assert found.cov == pytest.approx(np.std(times) / 8.0)


@given(
    st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=300),
    st.integers(1, 64),
    st.integers(1, 400),
)
def test_summary_is_consistent(times, batch, units):
    found = summarise(np.array(times), batch, units)
    p50, p90, p99 = (
        percentile.estimate
        for percentile in (found.per_face_ms.p50, found.per_face_ms.p90, found.per_face_ms.p99)
    )
    assert min(times) / batch <= p50 <= p90 <= p99 <= max(times) / batch
    assert found.per_patch_p50_us * units == pytest.approx(1e3 * p50)


def test_engines_take_turns_in_blocks(clock):
    calls = []
    engines = {n: Recorded(n, calls, ms, clock) for n, ms in (("a", 10), ("b", 20), ("c", 300))}
    found = sample(engines, FACES, 0.5, clock=clock)
    warm_up = [TIMING_LIMITS.warm_up_seconds / engine.seconds for engine in engines.values()]
    blocks = [(name, len(list(group))) for name, group in groupby(calls)]
    assert [name for name, _ in blocks[:6]] == list("abcabc"), "warm-up, then the first round"
    # Two halves, each with the call that begins before it is over.
    assert [count for _, count in blocks[:3]] == pytest.approx(warm_up, abs=2)
    rounds = blocks[3:]
    assert [name for name, _ in rounds] == list("abc") * (len(rounds) // 3)
    for name, engine in engines.items():
        result = summarise(found[name], batch=4, units=100)
        timed = result.iterations
        assert timed == sum(count - 1 for block, count in rounds if block == name)
        assert timed >= TIMING_LIMITS.min_iterations
        assert found[name].times_ms.tolist() == pytest.approx([1e3 * engine.seconds] * timed)
        assert result.per_face_ms.p50.estimate == pytest.approx(1e3 * engine.seconds / 4)
        assert result.per_patch_p50_us == pytest.approx(1e6 * engine.seconds / 400)


def test_time_asked_for_is_spent(clock):
    calls = []
    engines = {n: Recorded(n, calls, 10, clock) for n in "ab"}
    found = sample(engines, FACES, 2.0, clock=clock)
    spent = sum(samples.times_ms.sum() for samples in found.values()) / 1e3
    assert spent == pytest.approx(4.0, abs=0.3)


def test_progress_grows_to_one(clock):
    told = []
    engines = {"a": Recorded("a", [], 10, clock)}
    sample(engines, FACES, 0.5, lambda *progress: told.append(progress), clock=clock)
    assert told == sorted(told)
    assert told[-1] == (1000, 1000)


def test_real_clock():
    class Sleeper:
        def infer(self, faces):
            time.sleep(2e-3)

        def close(self):
            pass

    limits = TimingLimits(warm_up_seconds=0.0, block_seconds=0.01)
    found = sample({"a": Sleeper()}, FACES, 1e-9, limits=limits)["a"]
    assert len(found.times_ms) >= limits.min_iterations
    assert percentile(np.sort(found.times_ms), 50) >= 2.0


def test_interval_of_a_median_by_hand():
    """Of ten calls: P(X <= 1) = 11/1024 <= 0.025 of Bin(10, 1/2), P(X <= 2) is more: 2nd to 9th."""
    times = np.arange(1, 11, dtype=np.float64)
    assert percentile_interval(times, 50) == Interval(5.0, 2.0, 9.0)
    # Ten calls do not bound p99 from above.
    assert percentile_interval(times, 99) == Interval(10.0, 9.0, np.inf)
    assert percentile_interval(times[:3], 50) == Interval(2.0, -np.inf, np.inf)


@pytest.mark.parametrize("percent", [50, 90, 99])
def test_intervals_hold_the_true_percentile_as_often_as_they_say(percent):
    random = np.random.default_rng(7)
    calls = np.sort(random.lognormal(0, 0.3, (400, 800)), axis=1)
    truth = np.exp(0.3 * {50: 0.0, 90: 1.281552, 99: 2.326348}[percent])
    ends = [percentile_interval(row, percent) for row in calls]
    held = np.mean([interval.low <= truth <= interval.high for interval in ends])
    assert 0.93 <= held <= 0.99, "discrete ranks: somewhat more than 95 %"


@given(st.integers(1, 600), st.sampled_from([50, 90, 95, 99]))
def test_interval_surrounds_its_percentile(count, percent):
    times = np.arange(count, dtype=np.float64)
    interval = percentile_interval(times, percent)
    assert interval.low <= percentile(times, percent) == interval.estimate <= interval.high


def test_warm_up_goes_on_until_calls_are_steady(clock):
    class Warming(Recorded):
        """Slow at first, as with clocks that rise: 10 % less a call, down to 10 ms."""

        def infer(self, faces):
            self.seconds = max(0.01, self.seconds * 0.9)
            return super().infer(faces)

    engine = Warming("a", [], 100, clock)
    found = sample({"a": engine}, FACES, 0.1, clock=clock)["a"]
    assert found.steady
    assert 0.5 < found.warm_up_seconds < TIMING_LIMITS.warm_up_most_seconds
    assert found.times_ms == pytest.approx(10.0)


def test_engine_that_never_steadies_is_said_to_be_so(clock):
    class Warming(Recorded):
        """3 % faster with every call, without end."""

        def infer(self, faces):
            self.seconds *= 0.97
            return super().infer(faces)

    found = sample({"a": Warming("a", [], 100, clock)}, FACES, 0.01, clock=clock)["a"]
    assert not found.steady
    text = " ".join(summarise(found, 1, 1).warnings)
    assert "still becoming faster after 3." in text


def test_device_times_and_their_warnings(clock):
    class Timed(Recorded):
        last_timing = None

        def infer(self, faces):
            super().infer(faces)
            jitter = 1 + 0.1 * (len(self.calls) % 2)
            self.last_timing = SimpleNamespace(
                h2d_ms=1.0, compute_ms=4.0 * jitter, d2h_ms=0.5, enqueue_ms=3.8
            )

    found = sample({"a": Timed("a", [], 10, clock)}, FACES, 0.3, clock=clock)["a"]
    assert set(found.parts_ms) == set(latency.PARTS)
    result = summarise(found, 4, 1)
    assert result.device.h2d_ms == 1.0
    assert result.device.d2h_ms == 0.5
    assert result.device.total_ms == pytest.approx(result.device.compute_ms + 1.5, abs=0.3)
    assert result.cov == pytest.approx(0.0, abs=1e-9)
    unstable, host_bound = result.warnings
    assert unstable.startswith("unstable: the time of compute varies by 4.8 %")
    assert host_bound.startswith("host-bound: enqueuing takes")
    plain = sample({"a": Recorded("a", [], 10, clock)}, FACES, 0.3, clock=clock)["a"]
    assert summarise(plain, 4, 1).device is None
    assert summarise(plain, 4, 1).warnings == ()


def test_rounds_of_samples(clock):
    engines = {n: Recorded(n, [], ms, clock) for n, ms in (("a", 10), ("b", 30))}
    found = sample(engines, FACES, 0.5, clock=clock)
    for samples in found.values():
        assert isinstance(samples, Samples)
        assert len(samples.rounds) == len(samples.times_ms)
        assert (np.diff(samples.rounds) >= 0).all()
    assert found["a"].rounds.max() == found["b"].rounds.max()
