from __future__ import annotations

import math

import numpy as np
import pytest

from lpx.errors import InvalidArgumentError
from lpx.streams.capacity.judge import judge
from lpx.streams.capacity.plan import Budget, CapacityOptions
from lpx.streams.capacity.scoring_thread import BatchCounts, FrameTimes
from lpx.streams.capacity.trial import TrialSamples

BUDGET = Budget(10.0, 100.0)


def frame(due, latency_ms, faces=1):
    """A frame whose stages take a tenth of its latency each, and scoring the rest."""
    step = latency_ms / 1e4
    moments = [due + step * number for number in (1, 2, 3, 4, 5)]
    return FrameTimes(due, *moments, due + latency_ms / 1e3, faces)


def samples(
    latencies_ms, *, due=None, window_s=10.0, lasted_s=10.0, watts=None, hopeless=False, seed=0
):
    times = np.linspace(0, window_s, len(latencies_ms), endpoint=False)
    frames = [frame(time, ms) for time, ms in zip(times, latencies_ms, strict=True)]
    # Threads finish frames in any order.
    np.random.default_rng(seed).shuffle(frames)
    return TrialSamples(
        streams=4,
        begin=0.0,
        lasted_s=lasted_s,
        frames=frames,
        due=due or len(frames),
        hopeless=hopeless,
        batches=BatchCounts(100, 400, 2.5),
        watts=watts,
        cores=1.5,
        other_cores=0.1,
    )


def noise(count, mean=50.0, spread=5.0):
    return np.random.default_rng(1).normal(mean, spread, count)


def test_a_trial_that_holds():
    trial = judge(samples(noise(400)), BUDGET)
    assert (trial.verdict, trial.reason) == ("holds", "")
    assert trial.p99_ms.low <= trial.p99_ms.estimate <= trial.p99_ms.high < 100
    assert (trial.frames, trial.late, trial.dropped) == (400, 0, 0)
    assert trial.load.faces_per_call == 4
    assert trial.load.engine_busy == 0.25


def test_stages_add_up_to_the_latency():
    latencies = noise(400)
    stages = judge(samples(latencies), BUDGET).stages
    parts = [stages.waiting, stages.decode, stages.detect, stages.crop, stages.batching]
    assert parts == pytest.approx([latencies.mean() / 10] * 5)
    assert sum(parts) + stages.score == pytest.approx(latencies.mean())


def test_p99_over_the_budget():
    latencies = noise(400)
    latencies[::50] = 150
    trial = judge(samples(latencies), BUDGET)
    assert trial.verdict == "fails"
    assert "p99 is over 100 ms" in trial.reason
    assert trial.late == 8


@pytest.mark.parametrize("count", [10, 100, 367])
def test_too_few_frames_say_nothing(count):
    trial = judge(samples(np.full(count, 10.0)), BUDGET)
    assert trial.verdict == "undecided"
    assert trial.p99_ms.high == math.inf


def test_enough_frames():
    assert judge(samples(np.full(368, 10.0)), BUDGET).verdict == "holds"


def test_a_budget_within_the_interval_is_undecided():
    latencies = np.full(400, 10.0)
    latencies[:3] = 150
    trial = judge(samples(latencies), BUDGET)
    assert trial.p99_ms.estimate < 100 < trial.p99_ms.high
    assert trial.verdict == "undecided"


def test_frames_that_are_not_finished_count_as_late():
    """Leaving them out would make a machine the better the more it drops."""
    trial = judge(samples(np.full(400, 10.0), due=420), BUDGET)
    assert (trial.frames, trial.dropped, trial.late) == (420, 20, 20)
    assert trial.p99_ms.estimate == math.inf
    assert trial.verdict == "fails"


@pytest.mark.parametrize("due", [400, 401, 450, 499, 500, 1000])
def test_more_than_a_hundredth_that_is_not_finished_is_over_any_budget(due):
    few, many = due // 100, due // 100 + 1
    assert judge(samples(np.full(due - few, 10.0), due=due), BUDGET).verdict == "undecided"
    trial = judge(samples(np.full(due - many, 10.0), due=due), BUDGET)
    assert (trial.verdict, trial.reason) == ("fails", "p99 is over 100 ms")


def test_nothing_was_finished():
    trial = judge(samples([], due=50), BUDGET)
    assert (trial.verdict, trial.stages) == ("fails", None)
    assert trial.p50_ms == math.inf
    assert trial.load.faces_per_frame == 0


def test_a_backlog_that_grows_fails_within_the_budget():
    latencies = noise(1000, 20, 2) + np.linspace(0, 40, 1000)
    trial = judge(samples(latencies), BUDGET)
    assert trial.p99_ms.high < 100
    assert trial.growth_ms_per_s == pytest.approx(4, rel=0.1)
    assert trial.verdict == "fails"
    assert "backlog grows" in trial.reason


def test_a_warming_drift_is_no_backlog():
    assert judge(samples(noise(1000) + np.linspace(0, 3, 1000)), BUDGET).verdict == "holds"


def test_power():
    budget = Budget(10.0, 100.0, 15.0)
    assert judge(samples(noise(400), watts=14.0), budget).verdict == "holds"
    over = judge(samples(noise(400), watts=16.0), budget)
    assert (over.verdict, over.reason) == ("fails", "16.0 W are over 15 W")
    assert judge(samples(noise(400)), budget).verdict == "undecided"


def test_a_hopeless_trial_fails_whatever_it_measured():
    assert judge(samples(noise(400), hopeless=True), BUDGET).verdict == "fails"
    assert judge(samples(noise(400), hopeless=True), BUDGET, scout=True).verdict == "fails"


def test_the_load_of_a_trial_that_was_ended_early_is_that_of_its_time():
    """Of the window that was planned, an engine that cannot keep up would seem to be idle."""
    trial = judge(samples(noise(40), hopeless=True, lasted_s=4.0), BUDGET)
    assert trial.load.engine_busy == 2.5 / 4


def test_a_scout_fails_by_its_90th_percentile_and_never_holds():
    latencies = np.full(50, 10.0)
    latencies[:3] = 1000
    assert judge(samples(latencies), BUDGET, scout=True).verdict == "undecided"
    latencies[:8] = 1000
    assert judge(samples(latencies), BUDGET, scout=True).verdict == "fails"


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("fps", lambda: Budget(0, 100)),
        ("fps", lambda: Budget(None, 100)),
        ("fps", lambda: Budget(float("inf"), 100)),
        ("budget_ms", lambda: Budget(10, -1)),
        ("budget_ms", lambda: Budget(10, "100")),
        ("budget_watts", lambda: Budget(10, 100, 0)),
        ("seconds", lambda: CapacityOptions(seconds=0)),
        ("most_streams", lambda: CapacityOptions(most_streams=0)),
        ("most_streams", lambda: CapacityOptions(most_streams=5000)),
        ("batch_wait_ms", lambda: CapacityOptions(batch_wait_ms=-1)),
        ("workers", lambda: CapacityOptions(workers=0)),
    ],
)
def test_wrong_budgets_and_options(name, make):
    with pytest.raises(InvalidArgumentError) as caught:
        make()
    assert caught.value.argument in (name, "ms")
