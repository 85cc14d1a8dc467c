"""Trials with the demo's clip, a detector that takes no time, and engines of known speed."""

from __future__ import annotations

import os
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest

from lpx.data.face_sets.demo_clip import clip_path
from lpx.data.images.crops import find_recipe
from lpx.machine.energy_sources import EnergySourceError, Unavailable
from lpx.streams.capacity.judge import judge
from lpx.streams.capacity.plan import Budget, CapacityOptions
from lpx.streams.capacity.scoring_thread import EngineFailedError, FrameTimes, ScoringThread
from lpx.streams.capacity.trial import TrialSetup, run_trial
from lpx.streams.face_road import FaceRoad
from tests.support.streaming import Card, ConstantEngine, FixedDetector

NO_POWER = Unavailable("no sensor")
FACE = np.zeros((32, 32, 3), np.uint8)


class SlowEngine(ConstantEngine):
    """Takes a fixed time per call."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def _infer(self, faces):
        time.sleep(self.seconds)
        return super()._infer(faces)


class FailingEngine(ConstantEngine):
    """Fails at its third call."""

    def _infer(self, faces):
        if len(self.batches) == 2:
            raise RuntimeError("the device is lost")
        return super()._infer(faces)


class Battery:
    """Ten watts."""

    name, covers = "battery", "all of it"

    def start(self):
        self.began = time.monotonic()

    def stop(self):
        return 10 * (time.monotonic() - self.began)

    def close(self):
        pass


class SlowSensor(Battery):
    """Begins with a sample that it has to wait for."""

    def start(self):
        time.sleep(1)
        super().start()


class BrokenSensor(Battery):
    def stop(self):
        raise EnergySourceError("it went away")


def trial(engine, streams, *, fps=10.0, ms=500.0, source=NO_POWER, batch=1, faces=1, **options):
    settings = {"seconds": 1.5, "warm_up_seconds": 0.3, "workers": 2, **options}
    budget = Budget(fps, ms)
    road = FaceRoad(Card(), FixedDetector(faces), None, find_recipe("square-1.3"))
    with ScoringThread(lambda: nullcontext(engine)) as scoring:
        setup = TrialSetup(
            (clip_path(),), road, scoring, batch, budget, CapacityOptions(**settings), source
        )
        samples = run_trial(setup, streams, scout=True)
        # A short trial, so that these tests are quick; judged like a full one.
        return samples, judge(samples, budget)


def test_every_frame_is_released_and_finished():
    samples, judged = trial(ConstantEngine(), 3, fps=20)
    assert samples.due == len(samples.frames)
    # A fifth of a trial, at least 50 frames.
    assert samples.due == pytest.approx(50, abs=3)
    assert judged.dropped == 0
    assert judged.stages.decode > 0
    assert judged.load.faces_per_frame == 1
    assert not samples.hopeless


def test_frames_are_due_at_fixed_times():
    samples, _ = trial(ConstantEngine(), 1, fps=20)
    due = np.sort([frame.due for frame in samples.frames])
    assert np.diff(due) == pytest.approx(0.05)


def test_the_last_frames_are_waited_for():
    """Also where the only camera is being decoded when the window ends."""
    for _ in range(3):
        samples, judged = trial(
            SlowEngine(0.02), 1, fps=200, ms=60_000, seconds=0.5, warm_up_seconds=0, workers=1
        )
        assert judged.dropped == 0
        assert len(samples.frames) == samples.due


def test_cameras_do_not_start_together():
    samples, _ = trial(ConstantEngine(), 4, fps=10)
    first = np.sort([frame.due for frame in samples.frames])[:4]
    assert np.diff(first).min() > 0.01


def test_a_slow_engine_does_not_slow_the_cameras_down():
    """Latency counts from the due time: a closed loop would show the engine's 150 ms only."""
    samples, judged = trial(SlowEngine(0.15), 1, fps=10, ms=60_000, warm_up_seconds=0)
    due = np.sort([frame.due for frame in samples.frames])
    assert np.diff(due) == pytest.approx(0.1)
    assert judged.p99_ms.estimate > 600


def test_a_machine_that_cannot_keep_up_is_not_measured_to_the_end():
    began = time.monotonic()
    samples, judged = trial(
        SlowEngine(0.2), 8, fps=20, ms=50, seconds=100.0, batch_wait_ms=0, warm_up_seconds=0
    )
    assert samples.hopeless
    assert time.monotonic() - began < 60
    assert judged.verdict == "fails"
    assert judged.dropped > 0
    assert judged.p99_ms.estimate == np.inf


def test_the_load_of_a_trial_that_ends_in_its_warm_up():
    """Nothing is left of the window then: whatever is divided by its length means nothing."""
    samples, judged = trial(
        SlowEngine(0.2), 8, fps=20, ms=50, seconds=100.0, source=Battery(), warm_up_seconds=60.0
    )
    assert samples.hopeless
    assert samples.cores <= os.cpu_count() + 1
    assert samples.watts is None
    assert samples.batches.seconds <= samples.lasted_s < 60
    assert 0 < judged.load.engine_busy <= 1


def test_faces_of_several_cameras_share_a_batch():
    engine = SlowEngine(0.03)
    samples, judged = trial(engine, 8, fps=10, batch=8, batch_wait_ms=20)
    assert judged.dropped == 0
    assert judged.load.faces_per_call > 1.5
    assert max(engine.batches) <= 8
    assert samples.batches.faces >= samples.due


def test_a_frame_is_done_with_its_last_face():
    _, judged = trial(ConstantEngine(), 1, faces=5, batch=2)
    assert judged.load.faces_per_frame == 5
    assert judged.dropped == 0


def test_frames_without_faces_are_done_without_the_engine():
    engine = ConstantEngine()
    samples, judged = trial(engine, 1, faces=0)
    assert judged.dropped == 0
    assert samples.batches.calls == 0
    assert judged.stages.score == 0


def test_an_engine_that_fails_ends_the_trial_with_its_error():
    with pytest.raises(EngineFailedError, match="RuntimeError: the device is lost"):
        trial(FailingEngine(), 1, batch=1)


@pytest.mark.parametrize("score", [float("nan"), 7.0])
def test_an_engine_whose_scores_are_none_fails(score):
    """However many streams it carries, it must not be recommended."""
    with pytest.raises(EngineFailedError, match=f"gives the score {score} to a face in the videos"):
        trial(ConstantEngine(score), 1)


def test_an_engine_that_cannot_be_opened():
    def open_it():
        raise RuntimeError("no such device")

    with pytest.raises(EngineFailedError, match="no such device"), ScoringThread(open_it):
        pass


class Interrupting(ConstantEngine):
    """Raises what is no Exception."""

    def _infer(self, faces):
        raise KeyboardInterrupt


def test_whatever_ends_the_scoring_thread_ends_the_wait_for_it():
    ended = threading.Event()

    def measure():
        with pytest.raises(KeyboardInterrupt):
            trial(Interrupting(), 1)
        ended.set()

    # In a thread, so that a wait without an end fails the test.
    threading.Thread(target=measure, daemon=True).start()
    assert ended.wait(30)


def test_power():
    assert trial(ConstantEngine(), 1, source=Battery())[0].watts == pytest.approx(10, rel=0.3)
    # Over the time that was measured: a wait for its beginning would make the power look lower.
    slow = trial(ConstantEngine(), 1, fps=50, source=SlowSensor())[0]
    assert slow.watts == pytest.approx(10, rel=0.3)
    assert trial(ConstantEngine(), 1, source=BrokenSensor())[0].watts is None
    assert trial(ConstantEngine(), 1)[0].watts is None


def test_no_thread_is_left():
    before = threading.active_count()
    trial(SlowEngine(0.2), 8, fps=50, ms=50)
    assert threading.active_count() == before


def test_processor_time():
    samples, _ = trial(ConstantEngine(), 2)
    assert 0 < samples.cores < 64
    assert samples.other_cores is None or samples.other_cores >= 0


def test_a_face_waits_no_longer_than_allowed():
    engine = ConstantEngine()
    with ScoringThread(lambda: nullcontext(engine)) as scoring:
        scoring.begin(4, 0.2)
        frame = FrameTimes(time.monotonic(), faces=1)
        began = time.monotonic()
        scoring.submit(frame, [FACE], threading.Event())
        while frame.done == float("inf") and time.monotonic() - began < 5:
            time.sleep(0.01)
        assert 0.15 < frame.done - began < 5
    assert engine.closed is False
    assert engine.batches[-1] == 1


def test_a_full_batch_does_not_wait():
    engine = ConstantEngine()
    with ScoringThread(lambda: nullcontext(engine)) as scoring:
        scoring.begin(2, 60.0)
        frame = FrameTimes(time.monotonic(), faces=2)
        scoring.submit(frame, [FACE, FACE], threading.Event())
        began = time.monotonic()
        while frame.done == float("inf") and time.monotonic() - began < 5:
            time.sleep(0.01)
        assert frame.done < float("inf")
        scoring.drop_all()


def test_smaller_batches_are_warmed_up_too():
    engine = ConstantEngine()
    with ScoringThread(lambda: nullcontext(engine)) as scoring:
        scoring.begin(4, 0.0)
        assert engine.batches == [1, 2, 3, 4]
        scoring.begin(2, 0.0)
        assert len(engine.batches) == 4
