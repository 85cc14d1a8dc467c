"""One trial: cameras that give frames at fixed times, whether or not the machine keeps up.

Frames come at their due times (an open loop), and each is timed from there: a slow machine does not
slow the cameras down, and a frame that waits to be taken is late by that wait, too. A benchmark
that takes the next frame when the last one is done would hide exactly this ("coordinated
omission").
"""

from __future__ import annotations

import heapq
import resource
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lpx.machine.energy_sources import EnergySource, EnergySourceError, Unavailable
from lpx.machine.processor_time import busy_seconds
from lpx.streams.capacity.plan import MIN_FRAMES, Budget, CapacityOptions
from lpx.streams.capacity.scoring_thread import BatchCounts, FrameTimes, ScoringThread
from lpx.streams.capacity.videos import VideoLoop, open_cameras
from lpx.streams.face_road import FaceRoad

# Cameras begin at these fractions of a period, so that their frames are spread evenly for any
# number of cameras: multiples of the golden ratio.
_GOLDEN = 0.6180339887498949
# A frame that is so late shows that the machine cannot keep up, and ends the trial: multiples of
# the budget, and seconds.
_HOPELESS, _HOPELESS_S = 5.0, 0.5
# Time for the last frames after the end of the window, s, beyond the budget.
_LAST_S = 0.2
_POLL_S = 0.05


@dataclass(frozen=True)
class TrialSetup:
    """What trials of one engine have in common.

    Attributes:
        paths: Videos of the cameras.
        road: Finds and cuts faces.
        scoring: Scores faces.
        batch: Maximum number of faces per call.
        budget: What is asked.
        options: How it is measured.
        source: Energy source, or why there is none.
    """

    paths: Sequence[Path]
    road: FaceRoad
    scoring: ScoringThread
    batch: int
    budget: Budget
    options: CapacityOptions
    source: EnergySource | Unavailable


@dataclass(frozen=True)
class TrialSamples:
    """What a trial measured.

    Attributes:
        streams: Number of cameras.
        begin: Beginning of the window whose frames count, seconds of the monotonic clock.
        lasted_s: Length of the whole trial, warm-up included, s.
        frames: Frames that were due in the window and that a thread has taken.
        due: Number of frames that were due in it.
        hopeless: Whether the trial was ended early, as frames were much too late.
        batches: What the engine did in the whole trial.
        watts: Mean power, W; None if it cannot be read, or the trial was ended early.
        cores: Processor seconds of this process per second.
        other_cores: The same of all other processes; None if unknown.
    """

    streams: int
    begin: float
    lasted_s: float
    frames: list[FrameTimes]
    due: int
    hopeless: bool
    batches: BatchCounts
    watts: float | None
    cores: float
    other_cores: float | None


def run_trial(setup: TrialSetup, streams: int, *, scout: bool = False) -> TrialSamples:
    """Run a number of cameras for a while.

    Args:
        setup: Videos, engine and budget.
        streams: Number of cameras.
        scout: Run for a short time only, which finds out whether it is hopeless.

    Raises:
        LpxError: A video can no longer be read.
        EngineFailedError: The engine fails.
    """
    options, fps = setup.options, setup.budget.fps
    seconds, frames = options.seconds, float(MIN_FRAMES)
    if scout:
        seconds, frames = seconds / 5, MIN_FRAMES / 8
    window_s = max(seconds, frames / (streams * fps))
    cameras = open_cameras(setup.paths, streams)
    try:
        setup.scoring.begin(setup.batch, options.batch_wait_ms / 1e3)
        return _Trial(setup, cameras, options.warm_up_seconds, window_s).run()
    finally:
        for camera in cameras:
            camera.close()


class _Cores(NamedTuple):
    """Cores in use by this process, and by all others; None if unknown."""

    own: float
    others: float | None


@dataclass(frozen=True)
class _Usage:
    """Processor time at a moment, s."""

    at: float
    own: float
    all: float | None

    @classmethod
    def now(cls) -> _Usage:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return cls(time.monotonic(), usage.ru_utime + usage.ru_stime, busy_seconds())

    def cores(self, since: _Usage) -> _Cores:
        """Return the cores that were in use between an earlier moment and this one."""
        passed_s, own = self.at - since.at, self.own - since.own
        others = None
        if self.all is not None and since.all is not None:
            others = max(0.0, self.all - since.all - own) / passed_s
        return _Cores(own / passed_s, others)


class _Energy:
    """Energy since it was made; a source that fails gives none.

    Whether that matters depends on the budget: a trial without watts does not hold one of power.
    """

    def __init__(self, source: EnergySource | Unavailable) -> None:
        self._source: EnergySource | None = None
        if not isinstance(source, Unavailable):
            with suppress(EnergySourceError):
                source.start()
                self._source = source
        # After the start, which may wait for a sample: with that wait in it, the time would be too
        # long, and the power too low.
        self._began = time.monotonic()

    def watts(self) -> float | None:
        """Return the mean power, W; None if it is not known."""
        if self._source is not None:
            seconds = time.monotonic() - self._began
            with suppress(EnergySourceError):
                joules = self._source.stop()
                # A counter that stands still would make the machine look free.
                if joules > 0:
                    return joules / seconds
        return None


@dataclass(order=True)
class _Camera:
    """A camera, ordered by the time of its next frame."""

    due: float
    number: int
    video: VideoLoop = field(compare=False)


class _Trial:
    """Cameras, and the threads that take their frames."""

    def __init__(
        self, setup: TrialSetup, videos: Sequence[VideoLoop], warm_up_s: float, window_s: float
    ) -> None:
        self.setup = setup
        self.streams = len(videos)
        self.window_s = window_s
        self.period_s = 1 / setup.budget.fps
        hopeless_ms = max(_HOPELESS * setup.budget.ms, 1e3 * _HOPELESS_S)
        self.hopeless_s = hopeless_ms / 1e3
        # A moment to start the threads.
        start = time.monotonic() + 0.1
        self.begin = start + warm_up_s
        self.end = self.begin + window_s
        self.cameras = []
        for number, video in enumerate(videos):
            first = start + (number * _GOLDEN) % 1 * self.period_s
            self.cameras.append(_Camera(first, number, video))
        heapq.heapify(self.cameras)
        self.due = sum(map(self._due_in_window, self.cameras))
        # Cameras whose frames have not all been taken: the heap lacks those being decoded.
        self.giving = self.streams
        self.frames: list[FrameTimes] = []
        self.hopeless = False
        self.error: BaseException | None = None
        self.stop = threading.Event()
        self.changed = threading.Condition()

    def _due_in_window(self, camera: _Camera) -> int:
        count, due = 0, camera.due
        # Added up as the threads do: multiplied, a frame at the edge might count here only.
        while due < self.end:
            count += due >= self.begin
            due += self.period_s
        return count

    def run(self) -> TrialSamples:
        scoring, source = self.setup.scoring, self.setup.source
        threads = []
        for _ in range(self.setup.options.threads):
            threads.append(threading.Thread(target=self._work, name="lpx-road", daemon=True))
        first = _Usage.now()
        for thread in threads:
            thread.start()
        watts = None
        try:
            self._sleep_until(self.begin)
            before = _Usage.now()
            energy = _Energy(source)
            self._sleep_until(self.end)
            # Read before the wait for the last frames, in which the load falls.
            after = _Usage.now()
            watts = energy.watts()
            if self.hopeless:
                # Little or nothing may be left of the window: a power in it would mean nothing,
                # and processor time is that of the whole trial.
                before, watts = first, None
            self._finish()
        finally:
            self.stop.set()
            with self.changed:
                self.changed.notify_all()
            for thread in threads:
                thread.join()
            # After the threads have ended, which would otherwise queue more.
            scoring.drop_all()
        scoring.check()
        if self.error is not None:
            raise self.error
        cores = after.cores(before)
        counted = [frame for frame in self.frames if self.begin <= frame.due < self.end]
        return TrialSamples(
            streams=self.streams,
            begin=self.begin,
            lasted_s=time.monotonic() - first.at,
            frames=counted,
            due=self.due,
            hopeless=self.hopeless,
            batches=scoring.counts,
            watts=watts,
            cores=cores.own,
            other_cores=cores.others,
        )

    def _sleep_until(self, moment: float) -> None:
        while not self._over() and (left := moment - time.monotonic()) > 0:
            time.sleep(min(left, _POLL_S))

    def _finish(self) -> None:
        """Wait for the last frames, for as long as they may still be in time."""
        until = self.end + self.setup.budget.ms / 1e3 + _LAST_S
        while not self._over() and time.monotonic() < until:
            # Asked first: a frame that is taken meanwhile would be missing in the list.
            taken = not self.giving
            if taken and all(frame.done < float("inf") for frame in list(self.frames)):
                return
            time.sleep(_POLL_S / 10)

    def _over(self) -> bool:
        return self.hopeless or self.error is not None or self.setup.scoring.failed

    def _work(self) -> None:
        try:
            while (camera := self._next_camera()) is not None:
                self._take(camera)
        except BaseException as error:
            # Raised in the thread that measures.
            self.error = error

    def _next_camera(self) -> _Camera | None:
        """Wait until a frame is due; None at the end."""
        with self.changed:
            while not self.stop.is_set() and not self._over():
                if not self.giving:
                    return None
                if not self.cameras:
                    # All are being decoded.
                    self.changed.wait(_POLL_S)
                    continue
                left = self.cameras[0].due - time.monotonic()
                if left > 0:
                    self.changed.wait(min(left, _POLL_S))
                    continue
                camera = heapq.heappop(self.cameras)
                if camera.due < self.end:
                    return camera
                self.giving -= 1
        return None

    def _take(self, camera: _Camera) -> None:
        frame = FrameTimes(camera.due, started=time.monotonic())
        if frame.started - frame.due > self.hopeless_s:
            self.hopeless = True
            return
        pixels = camera.video.read()
        frame.decoded = time.monotonic()
        with self.changed:
            self.frames.append(frame)
            # The next frame of this camera may be decoded while this one is looked at.
            camera.due += self.period_s
            heapq.heappush(self.cameras, camera)
            self.changed.notify()
        road = self.setup.road
        found = road.detect(pixels)
        frame.detected = time.monotonic()
        faces = road.inputs(road.cut(pixels, found))
        frame.cut = time.monotonic()
        frame.faces = len(faces)
        self.setup.scoring.submit(frame, faces, self.stop)
