"""What is asked of a machine, and how it is measured."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from lpx.arguments import check_at_least, check_fields, check_number

# The upper end of a 95 % interval of the 99th percentile exists from 368 frames on.
MIN_FRAMES = 400
MAX_STREAMS = 1024


@dataclass(frozen=True)
class CapacityOptions:
    """How capacity is measured; the defaults suit real measurements.

    Attributes:
        seconds: Length of a trial, s; longer where that is too short for 400 frames.
        warm_up_seconds: Time before it whose frames are not counted, s.
        batch_wait_ms: Longest time that a face waits for others to fill its batch, ms.
        most_streams: Number of streams at which the search ends.
        workers: Threads that decode, detect and crop; None for one less than there are cores.

    Raises:
        InvalidArgumentError: A value is out of range.
    """

    seconds: float = 10.0
    warm_up_seconds: float = 1.0
    batch_wait_ms: float = 2.0
    most_streams: int = 256
    workers: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_number("seconds", self.seconds, least=0.5, most=3600)
        check_number("warm_up_seconds", self.warm_up_seconds, least=0, most=600)
        check_number("batch_wait_ms", self.batch_wait_ms, least=0, most=10_000)
        check_at_least("most_streams", self.most_streams, 1)
        check_number("most_streams", self.most_streams, most=MAX_STREAMS)
        check_at_least("workers", self.workers, 1)

    @property
    def threads(self) -> int:
        """Number of threads that decode, detect and crop."""
        # One core is left to the thread that scores, which a GPU's engine also needs.
        return self.workers or max(1, len(os.sched_getaffinity(0)) - 1)


@dataclass(frozen=True)
class Budget:
    """What every stream must get.

    Attributes:
        fps: Frames a second of each camera.
        ms: Largest 99th percentile of the time from a frame's due time to its scores, ms.
        watts: Largest mean power, W; None for any.

    Raises:
        InvalidArgumentError: A value is out of range.
    """

    fps: float
    ms: float
    watts: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("fps", self.fps), ("budget_ms", self.ms)):
            # `check_number` lets None pass, and only power may be left out.
            check_number(name, math.nan if value is None else value)
        check_number("fps", self.fps, above=0, most=1000)
        check_number("budget_ms", self.ms, above=0, most=600_000)
        check_number("budget_watts", self.watts, above=0)
