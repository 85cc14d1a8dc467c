"""The thread that scores: it collects faces across cameras into batches.

One thread, as a board has one GPU, and as TensorRT's engines belong to the thread that opened them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np

from lpx.bench.parity.score import in_one_line
from lpx.engines.base import Engine
from lpx.predict.score_crops import check_scores
from lpx.streams.face_road import FaceInput

OpenEngine = Callable[[], AbstractContextManager[Engine]]
# Batches that may wait: more would only hide that the engine is too slow.
_WAITING_BATCHES = 8
# Largest batch of which all smaller ones are warmed up: each may have kernels of its own.
_WARM_EACH = 32


class EngineFailedError(Exception):
    """An engine cannot be opened, or failed; the message says why, in one line."""


@dataclass(eq=False)
class FrameTimes:
    """When a frame of a camera went through each stage, seconds of the monotonic clock.

    Attributes:
        due: When the camera gave it.
        started: When a thread took it.
        decoded: When it was decoded.
        detected: When its faces were found.
        cut: When they were cut out.
        scoring: When the engine began with the last of them.
        done: When all were scored; infinity while they are not.
        faces: Number of faces.
    """

    due: float
    started: float = 0.0
    decoded: float = 0.0
    detected: float = 0.0
    cut: float = 0.0
    scoring: float = 0.0
    done: float = float("inf")
    faces: int = 0


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A face that waits to be scored."""

    frame: FrameTimes
    face: FaceInput
    since: float
    last: bool


@dataclass
class BatchCounts:
    """What the engine has done in a trial."""

    calls: int = 0
    faces: int = 0
    seconds: float = 0.0


@dataclass
class _State:
    queue: deque[_Waiting] = field(default_factory=deque)
    batch: int = 0
    wait_s: float = 0.0
    warmed: int = 0
    busy: bool = False
    ended: bool = False
    error: BaseException | None = None


class ScoringThread:
    """Opens an engine in a thread of its own, and scores faces there. Use it in a `with` block.

    Args:
        open_engine: Opens the engine; called in the thread.

    Raises:
        EngineFailedError: The engine cannot be opened.
    """

    def __init__(self, open_engine: OpenEngine) -> None:
        self.counts = BatchCounts()
        self._open = open_engine
        self._state = _State()
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lpx-score", daemon=True)

    def __enter__(self) -> ScoringThread:
        self._thread.start()
        self._ready.wait()
        self.check()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._state.ended = True
            self._changed.notify_all()
        self._thread.join()

    def check(self) -> None:
        """Raise an error if the engine has failed.

        Raises:
            EngineFailedError: It has.
            BaseException: Something else ended the thread, such as KeyboardInterrupt.
        """
        error = self._state.error
        if isinstance(error, Exception):
            raise EngineFailedError(in_one_line(error)) from error
        if error is not None:
            raise error

    @property
    def failed(self) -> bool:
        """Whether the engine has failed."""
        return self._state.error is not None

    def begin(self, batch: int, wait_s: float) -> None:
        """Begin a trial.

        Args:
            batch: Maximum number of faces per call.
            wait_s: Longest time that a face waits for others, s.
        """
        with self._changed:
            self._state.batch, self._state.wait_s = batch, wait_s
            self._changed.notify_all()
            # Before the cameras start: the first frames of a trial must not pay for it.
            while self._state.warmed < batch and not self.failed:
                self._changed.wait(0.05)
            self.counts = BatchCounts()

    def submit(self, frame: FrameTimes, faces: list[FaceInput], stop: threading.Event) -> None:
        """Queue the faces of a frame; waits while too many are queued, or until `stop` is set."""
        now = time.monotonic()
        if not faces:
            frame.scoring = frame.done = now
            return
        with self._changed:
            while len(self._state.queue) >= _WAITING_BATCHES * self._state.batch:
                if stop.is_set() or self.failed:
                    return
                self._changed.wait(0.05)
            for number, face in enumerate(faces):
                last = number == len(faces) - 1
                self._state.queue.append(_Waiting(frame, face, now, last))
            self._changed.notify_all()

    def drop_all(self) -> None:
        """Forget the faces that wait, and let a running call end."""
        with self._changed:
            self._state.queue.clear()
            while self._state.busy and not self.failed:
                self._changed.wait(0.05)

    def _run(self) -> None:
        try:
            with self._open() as engine:
                self._ready.set()
                while (taken := self._take()) is not None:
                    if taken:
                        self._score(engine, taken)
                    else:
                        self._warm(engine, self._state.batch)
        except BaseException as error:
            # Raised in the thread that measures, by `check`. Of any kind: that thread waits for
            # this one, and would do so for ever if it ended without a word.
            with self._changed:
                self._state.error = error
                self._changed.notify_all()
        finally:
            self._ready.set()

    def _warm(self, engine: Engine, batch: int) -> None:
        sizes = range(1, batch + 1) if batch <= _WARM_EACH else (1, batch)
        for size in sizes:
            engine.infer(np.zeros((size, engine.size, engine.size, 3), np.uint8))
        self._state.warmed = batch

    def _take(self) -> list[_Waiting] | None:
        """Wait for a full batch, or for the time that its oldest face may wait.

        Returns:
            The batch; [] if its size has to be warmed up first; None at the end.
        """
        state = self._state
        with self._changed:
            state.busy = False
            self._changed.notify_all()
            while True:
                if state.ended:
                    return None
                if state.warmed < state.batch:
                    return []
                if not state.queue:
                    self._changed.wait()
                    continue
                left = state.queue[0].since + state.wait_s - time.monotonic()
                if len(state.queue) >= state.batch or left <= 0:
                    break
                self._changed.wait(left)
            count = min(state.batch, len(state.queue))
            taken = [state.queue.popleft() for _ in range(count)]
            state.busy = True
            self._changed.notify_all()
            return taken

    def _score(self, engine: Engine, taken: list[_Waiting]) -> None:
        began = time.monotonic()
        prediction = engine.infer(np.stack([waiting.face for waiting in taken]))
        now = time.monotonic()
        # However fast it is, an engine that breaks down on these faces must not be recommended.
        check_scores("the engine", prediction, "the videos")
        self.counts.calls += 1
        self.counts.faces += len(taken)
        self.counts.seconds += now - began
        # The queue keeps the order of faces, so that a frame which is spread over several calls is
        # done with its last face. `done` is set last, as a finite one says that all is there.
        for waiting in taken:
            if waiting.last:
                waiting.frame.scoring, waiting.frame.done = began, now
