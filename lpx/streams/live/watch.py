"""Watch a live source: score its newest frames, and open it again when it is lost."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from lpx.arguments import check_at_least, check_fields, check_number
from lpx.errors import LpxError
from lpx.metrics.roc import called_fake
from lpx.predict.score_crops import check_scores, score_crops
from lpx.streams.live.connection import (
    POLL_S,
    Connection,
    ConnectionLostError,
    LiveFrame,
    SizeChangedError,
)
from lpx.streams.live.results import (
    EventKind,
    LiveCounts,
    LiveEvent,
    LiveFace,
    LiveItem,
    LiveSummary,
    ScoredFrame,
)
from lpx.streams.live.source import LiveSource
from lpx.streams.scoring import OpenScorer

if TYPE_CHECKING:
    from typing_extensions import Self

# A connection that lasted this long was a good one: the next pause is the first one again.
STEADY_S = 30.0
# A stream that changes its size more often than this is treated like one that is lost.
_FLAPPING_S = 1.0


@dataclass(frozen=True)
class LiveOptions:
    """How a live source is treated.

    Attributes:
        timeout_s: Longest time for opening it, and between two frames, s: then it counts as lost.
        wait: Keep trying if it cannot be reached at the beginning, too.
        reconnect: Open it again when it is lost.
        first_pause_s: Pause before it is opened again, s; doubled with each failure.
        longest_pause_s: Longest pause, s.

    Raises:
        InvalidArgumentError: A value is out of range.
    """

    timeout_s: float = 10.0
    wait: bool = False
    reconnect: bool = True
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0

    def __post_init__(self) -> None:
        check_fields(self)
        check_number("timeout_s", self.timeout_s, least=0.1, most=3600)
        check_number("first_pause_s", self.first_pause_s, least=0, most=3600)
        check_number("longest_pause_s", self.longest_pause_s, least=0, most=86_400)


@dataclass(frozen=True)
class LiveLimits:
    """When to stop, and how many frames to score.

    Attributes:
        frames: Number of frames to score; None for no limit.
        seconds: Time after which to stop, s; None for no limit.
        fps: Maximum number of frames scored a second; None for as many as possible.

    Raises:
        InvalidArgumentError: A value is out of range.
    """

    frames: int | None = None
    seconds: float | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        check_at_least("frames", self.frames, 1)
        check_number("seconds", self.seconds, above=0)
        check_number("fps", self.fps, above=0, most=1000)


class Connect(Protocol):
    """Opens a source, as `Connection`."""

    def __call__(self, source: LiveSource, timeout_s: float, /) -> Connection:
        """Return the connection."""
        ...


class Clock(Protocol):
    """A clock that can wait; the module `time` is one."""

    def monotonic(self) -> float:
        """Return the time, s."""
        ...

    def time(self) -> float:
        """Return the time since 1970, s."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Wait."""
        ...


class LiveWatch(Iterator[LiveItem], AbstractContextManager["LiveWatch"]):
    """Scored frames and events of a live source, as they come. Use it in a `with` block.

    The source is opened when the first item is asked for. Only the newest frame is kept: a
    consumer that is too slow gets fewer frames, and never old ones.

    Args:
        source: The source.
        open_scorer: Opens engine and face detector.
        limits: When to stop.
        options: How the source is treated.
        connect: Opens the source.
        clock: Clock.
    """

    def __init__(
        self,
        source: LiveSource,
        open_scorer: OpenScorer,
        limits: LiveLimits,
        options: LiveOptions,
        *,
        connect: Connect = Connection,
        clock: Clock = time,
    ) -> None:
        self.source = source
        self._limits = limits
        self._options = options
        self._connect = connect
        self._clock = clock
        self._stack = ExitStack()
        # Before the source: a wrong engine shows at once, and no frame waits for its start.
        self._scorer = self._stack.enter_context(open_scorer())
        self._began = clock.monotonic()
        self._totals = _Totals()
        self._ended_by = ""
        self._items: Generator[LiveItem, None, None] = self._run()

    def __next__(self) -> LiveItem:
        return next(self._items)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the source and the engine; a second call does nothing."""
        self._items.close()
        self._stack.close()
        self._ended_by = self._ended_by or "closed"

    def summary(self, ended_by: str = "") -> LiveSummary:
        """Return what the source has given so far.

        Args:
            ended_by: What ended it, if that was from outside.
        """
        totals = self._totals
        mean = totals.score_sum / totals.scored if totals.scored else None
        return LiveSummary(
            time_s=self._clock.time(),
            source=self.source.shown,
            engine=self._scorer.name,
            threshold=self._scorer.road.card.threshold,
            ended_by=ended_by or self._ended_by,
            seconds=self._clock.monotonic() - self._began,
            counts=totals.counts,
            faces=totals.faces,
            faceless=totals.counts.frames - totals.scored,
            fake_frames=totals.fake,
            mean_score=mean,
        )

    def _run(self) -> Generator[LiveItem, None, None]:
        failures = 0
        self._began = self._clock.monotonic()
        while not self._over():
            began, before = self._clock.monotonic(), self._totals.arrived
            try:
                with closing(self._open()) as connection:
                    yield from self._follow(connection)
                return
            except SizeChangedError:
                if self._clock.monotonic() - began >= _FLAPPING_S:
                    # Not lost: it is opened again at once, and the next frame tells its size.
                    continue
                error = ConnectionLostError("its size changes too often")
            except ConnectionLostError as lost:
                error = lost
            finally:
                self._totals.end_connection()
            arrived = self._totals.arrived > before
            if arrived and self._clock.monotonic() - began >= STEADY_S:
                failures = 0
            pause_s = self._pause(failures, arrived=arrived)
            failures += 1
            yield self._failed(error, pause_s, arrived=arrived)
            if pause_s is None:
                self._ended_by = "source"
                return
            self._wait(pause_s)

    def _open(self) -> Connection:
        try:
            return self._connect(self.source, self._options.timeout_s)
        except OSError as error:
            # After hours, too many processes or too little memory may pass as well.
            raise ConnectionLostError(
                f"the decoding process cannot be started: {error.strerror or error}"
            ) from error

    def _follow(self, connection: Connection) -> Generator[LiveItem, None, None]:
        """Yield the items of one connection until a limit is reached.

        Raises:
            ConnectionLostError: The source is lost.
            SizeChangedError: Its pictures have changed size.
        """
        period_s = 0.0 if self._limits.fps is None else 1 / self._limits.fps
        due = self._clock.monotonic()
        asked = connected = False
        while not self._over():
            now = self._clock.monotonic()
            if not asked and now >= due:
                connection.ask()
                asked = True
            wait_s = POLL_S if asked else min(due - now, POLL_S)
            frame = connection.receive(wait_s, due=asked or not connection.opened)
            if frame is None:
                continue
            asked = False
            yield from self._events(frame, connection, new=not connected)
            connected = True
            scored = self._score(frame)
            # From the time that it was due, so that the rate is kept on average; but frames that
            # could not be scored in time are not made up for.
            due = max(due + period_s, self._clock.monotonic())
            yield scored
            # After the consumer has come back: frames that arrive while it works count as dropped.
            if due > self._clock.monotonic():
                connection.rest()

    def _events(
        self, frame: LiveFrame, connection: Connection, *, new: bool
    ) -> Iterator[LiveEvent]:
        """Yield the events that a frame shows: a new connection, another size."""
        header, totals = frame.header, self._totals
        size = FrameSize(header.width, header.height)
        before, totals.size = totals.size, size
        rate = connection.frames_per_second or None
        if new:
            # Counted when frames arrive again: attempts that fail have events of their own.
            totals.reconnects += totals.arrived > 0
            yield self._event("connected", size=size, rate=rate)
        if before is not None and before != size:
            yield self._event("size-changed", size=size)

    def _score(self, frame: LiveFrame) -> ScoredFrame:
        scorer, totals = self._scorer, self._totals
        road = scorer.road
        crops = road.cut(frame.pixels, road.detect(frame.pixels))
        prediction = score_crops(scorer.engine, road.inputs(crops))
        number = totals.before + frame.header.number
        check_scores(scorer.name, prediction, f"{self.source.shown}, frame {number}")
        faces = []
        fakes = called_fake(prediction.score, road.card.threshold).tolist()
        for crop, score, fake in zip(crops, prediction.score.tolist(), fakes, strict=True):
            x0, y0, x1, y1 = crop.detection.box
            box = (float(x0), float(y0), float(x1), float(y1))
            faces.append(LiveFace(box, float(crop.detection.score), score, fake))
        totals.add(frame, faces)
        # The wall clock may be set meanwhile: a latency is never negative.
        latency_s = max(0.0, self._clock.time() - frame.header.time_s)
        return ScoredFrame(
            frame.header.time_s, number, tuple(faces), 1e3 * latency_s, totals.counts
        )

    def _failed(
        self, error: ConnectionLostError, pause_s: float | None, *, arrived: bool
    ) -> LiveEvent:
        """Return the event for a source that is lost, or cannot be reached.

        Raises:
            LpxError: It could not be reached from the beginning.
        """
        reason = self.source.absence() or str(error)
        if not self._totals.arrived and not self._options.wait:
            raise unreachable(self.source, reason)
        kind: EventKind = "lost" if arrived else "unreachable"
        return self._event(kind, reason=reason, retry_s=pause_s)

    def _pause(self, failures: int, *, arrived: bool) -> float | None:
        """Return the time until the source is opened again, s; None if it is not."""
        if not self._options.reconnect and self._totals.arrived:
            return None
        # A file that has ended begins again.
        if self.source.kind == "file" and arrived:
            return 0.0
        # The exponent is bounded, as the source may be away for days.
        longest = self._options.longest_pause_s
        return min(self._options.first_pause_s * 2.0 ** min(failures, 30), longest)

    def _wait(self, pause_s: float) -> None:
        until = self._clock.monotonic() + pause_s
        # In short steps, to keep to the limit of time.
        while not self._over() and (left := until - self._clock.monotonic()) > 0:
            self._clock.sleep(min(left, POLL_S))

    def _over(self) -> bool:
        limits = self._limits
        seconds = self._clock.monotonic() - self._began
        if limits.frames is not None and self._totals.counts.frames >= limits.frames:
            self._ended_by = "frames"
        elif limits.seconds is not None and seconds >= limits.seconds:
            self._ended_by = "seconds"
        return bool(self._ended_by)

    def _event(
        self,
        kind: EventKind,
        *,
        reason: str = "",
        retry_s: float | None = None,
        size: FrameSize | None = None,
        rate: float | None = None,
    ) -> LiveEvent:
        width, height = size or (None, None)
        return LiveEvent(
            kind, self._clock.time(), self.source.shown, reason, retry_s, width, height, rate
        )


def unreachable(source: LiveSource, reason: str) -> LpxError:
    """Make the error for a source that gives no frame at the beginning."""
    if source.kind == "camera":
        return LpxError(
            f"{source.shown} cannot be opened",
            reason,
            "connect the camera, or check that you may read its device (group video); "
            "`wait=True` waits for it",
            code="not-found" if source.absence() else "unreachable",
        )
    if source.kind == "file":
        return LpxError(
            f"{source.shown} gives no frames",
            reason,
            "use a video that OpenCV can decode",
            code="damaged",
        )
    return LpxError(
        f"{source.shown} gives no frames",
        reason,
        "check address, path, user name and password; `wait=True` keeps trying, as for a camera "
        "that starts later",
        code="unreachable",
    )


class FrameSize(NamedTuple):
    """Width and height of a frame, pixels."""

    width: int
    height: int


class _Totals:
    """Counts over all connections.

    Attributes:
        before: Number of frames that arrived in earlier connections.
        arrived: Number of frames that have arrived in all.
        reconnects: Times that the source was opened again.
        size: Size of the last frame; None before the first one.
        faces: Faces scored.
        scored: Frames with a face.
        fake: Frames with a face that is called fake.
        score_sum: Sum of the frames' scores.
    """

    def __init__(self) -> None:
        self.before = self.arrived = self.reconnects = 0
        self.size: FrameSize | None = None
        self.faces = self.scored = self.fake = 0
        self.score_sum = 0.0
        self._frames = 0
        self._ended = LiveCounts()
        self._current = LiveCounts()

    @property
    def counts(self) -> LiveCounts:
        return LiveCounts(
            self._frames,
            self._ended.dropped + self._current.dropped,
            self._ended.skipped + self._current.skipped,
            self.reconnects,
        )

    def add(self, frame: LiveFrame, faces: list[LiveFace]) -> None:
        header = frame.header
        self._frames += 1
        self.arrived = self.before + header.number + 1
        self._current = replace(self._current, dropped=header.dropped, skipped=header.skipped)
        self.faces += len(faces)
        if faces:
            self.scored += 1
            self.fake += any(face.fake for face in faces)
            self.score_sum += max(face.score for face in faces)

    def end_connection(self) -> None:
        """Keep the counts of a connection that has ended."""
        self._ended, self._current = replace(self.counts, frames=0), LiveCounts()
        self.before = self.arrived
