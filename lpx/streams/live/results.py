"""What a live source gives: scored frames, events, and a summary. Each is a line of JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from lpx.data.detect.base import Box

EventKind = Literal["connected", "lost", "unreachable", "size-changed"]
"""Frames arrive; frames no longer arrive; a connection failed; frames have another size."""


@dataclass(frozen=True)
class LiveFace:
    """A scored face.

    Attributes:
        box: (x0, y0, x1, y1) in pixels of the frame.
        detector_score: Confidence of the face detector, in [0, 1].
        score: Probability of fake, in [0, 1].
        fake: Whether the score reaches the threshold.
    """

    box: Box
    detector_score: float
    score: float
    fake: bool


@dataclass(frozen=True)
class LiveCounts:
    """Counts since the beginning.

    Attributes:
        frames: Frames scored.
        dropped: Frames that arrived while another one was being scored.
        skipped: Frames that arrived while none was wanted, because of `fps`.
        reconnects: Times that a lost source was opened again.
    """

    frames: int = 0
    dropped: int = 0
    skipped: int = 0
    reconnects: int = 0


@dataclass(frozen=True)
class ScoredFrame:
    """A scored frame.

    Attributes:
        time_s: When it arrived, seconds since 1970.
        frame: Number among all frames that have arrived, from 0.
        faces: Its faces, from left to right.
        latency_ms: Time from its arrival to its scores, ms.
        counts: Counts up to this frame.
    """

    time_s: float
    frame: int
    faces: tuple[LiveFace, ...]
    latency_ms: float
    counts: LiveCounts

    @property
    def score(self) -> float | None:
        """Score of the highest-scoring face; None without a face."""
        return max((face.score for face in self.faces), default=None)

    @property
    def fake(self) -> bool | None:
        """Whether any face is called fake; None without a face."""
        return any(face.fake for face in self.faces) if self.faces else None

    def to_dict(self) -> dict[str, Any]:
        """Return the frame as plain values: a line of the output."""
        faces = []
        for face in self.faces:
            faces.append(
                {
                    "box": [round(value, 1) for value in face.box],
                    "detector_score": round(face.detector_score, 4),
                    "score": face.score,
                    "fake": face.fake,
                }
            )
        return {
            "kind": "frame",
            "time": utc(self.time_s),
            "frame": self.frame,
            "score": self.score,
            "fake": self.fake,
            "faces": faces,
            "latency_ms": round(self.latency_ms, 1),
            "dropped": self.counts.dropped,
            "skipped": self.counts.skipped,
            "reconnects": self.counts.reconnects,
        }


@dataclass(frozen=True)
class LiveEvent:
    """Something that happened to the source.

    Attributes:
        kind: What happened.
        time_s: When, seconds since 1970.
        source: The source without credentials.
        reason: Why; "" if there is nothing to say.
        retry_s: Time until it is opened again, s; None if it is not.
        width: Width of its frames, pixels; None if unknown.
        height: Height of its frames, pixels; None if unknown.
        frames_per_second: Frame rate that it states; None if it states none.
    """

    kind: EventKind
    time_s: float
    source: str
    reason: str = ""
    retry_s: float | None = None
    width: int | None = None
    height: int | None = None
    frames_per_second: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the event as plain values, without what is unknown: a line of the output."""
        known = {
            "source": self.source,
            "reason": self.reason or None,
            "retry_seconds": self.retry_s,
            "width": self.width,
            "height": self.height,
            "frames_per_second": self.frames_per_second,
        }
        values: dict[str, Any] = {"kind": self.kind, "time": utc(self.time_s)}
        values.update((name, value) for name, value in known.items() if value is not None)
        return values

    def __str__(self) -> str:
        size = f": {self.width} x {self.height} pixels" if self.width else ""
        texts = {
            "connected": f"connected to {self.source}{size}",
            "lost": f"lost {self.source}: {self.reason}",
            "unreachable": f"{self.source} cannot be reached: {self.reason}",
            "size-changed": f"{self.source} has changed its size{size}",
        }
        text = texts[self.kind]
        if self.frames_per_second:
            text += f", {self.frames_per_second:.4g} frames a second"
        if self.retry_s is not None:
            text += f"; next attempt in {self.retry_s:g} s"
        return text


@dataclass(frozen=True)
class LiveSummary:
    """What a live source gave in all.

    Attributes:
        time_s: End, seconds since 1970.
        source: The source without credentials.
        engine: Name of the engine.
        threshold: Score from which on a face is called fake.
        ended_by: "frames", "seconds", "source" (it ended and was not to be opened again), "closed",
            or the name of a signal; "" while it goes on.
        seconds: Time since the beginning, s.
        counts: Counts.
        faces: Faces scored.
        faceless: Frames without a face.
        fake_frames: Frames with a face that is called fake.
        mean_score: Mean of the frames' scores; None if no frame had a face.
    """

    time_s: float
    source: str
    engine: str
    threshold: float
    ended_by: str
    seconds: float
    counts: LiveCounts
    faces: int
    faceless: int
    fake_frames: int
    mean_score: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values: the last line of the output."""
        values = asdict(self)
        counts = values.pop("counts")
        del values["time_s"]
        values["seconds"] = round(self.seconds, 1)
        return {"kind": "ended", "time": utc(self.time_s), **values, **counts}


LiveItem = ScoredFrame | LiveEvent


def utc(time_s: float) -> str:
    """Return a time as text in UTC, to the millisecond: "2026-11-27T19:30:00.123Z"."""
    moment = datetime.fromtimestamp(time_s, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
