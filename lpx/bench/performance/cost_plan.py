"""The costs that a bench is asked to measure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lpx.arguments import as_path, check_at_least, check_fields, check_instance, check_number
from lpx.bench.performance.energy import IDLE_SECONDS, WINDOW_SECONDS
from lpx.bench.performance.latency import TIMING_LIMITS, TimingLimits
from lpx.bench.performance.trtexec_metrics import Release
from lpx.errors import InvalidArgumentError

BATCHES = (1, 8)
StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class CostPlan:
    """Costs to measure.

    Args:
        batches: Batch sizes of the latency. Energy, throughput and trtexec-style latency use the
            smallest.
        latency_seconds: Time to measure each engine for at each batch size, s; 0 leaves out all
            but energy.
        in_flight: Number of batches at work at a time, for throughput; 0 leaves it out.
        like: Release of trtexec, 10 or 11, in whose terms to measure latency too; None leaves that
            out.
        energy_seconds: Length of an energy window, s; 0 leaves energy out.
        trtexec_times: Files of `trtexec --exportTimes` to show beside the measurements, each with
            the name of its engine or None.
        limits: Lengths of warm-up and measurements; the defaults suit real measurements.

    Raises:
        InvalidArgumentError: A value is out of range, or two contradict each other.
    """

    batches: tuple[int, ...] = BATCHES
    latency_seconds: float = 2.0
    in_flight: int = 0
    like: Release | None = None
    energy_seconds: float = 0.0
    trtexec_times: Sequence[tuple[StrPath, str | None]] = ()
    limits: TimingLimits = TIMING_LIMITS

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.batches:
            raise InvalidArgumentError(
                "batches", "must name at least one batch size", list(self.batches)
            )
        for batch in self.batches:
            check_at_least("batches", batch, 1, "they are numbers of faces per call")
        check_number("latency_seconds", self.latency_seconds, least=0)
        check_number("energy_seconds", self.energy_seconds, least=0)
        check_at_least("in_flight", self.in_flight, 0, "it is the number of batches at a time")
        # Without a time to measure for, these would silently measure nothing.
        if not self.latency_seconds:
            for name in ("in_flight", "like"):
                if value := getattr(self, name):
                    raise InvalidArgumentError(
                        name,
                        "cannot be combined with `latency_seconds=0`",
                        value,
                        "it is the time that engines are measured for",
                    )
        # A frozen instance is changed through its base class only.
        object.__setattr__(self, "batches", tuple(sorted(set(self.batches))))
        object.__setattr__(self, "trtexec_times", _times(self.trtexec_times))


def _times(files: object) -> tuple[tuple[Path, str | None], ...]:
    """Check files of trtexec's times, each with the name of an engine."""
    required = "must be pairs of a path and a name"
    if isinstance(files, str) or not isinstance(files, Sequence):
        raise InvalidArgumentError("trtexec_times", required, files)
    times: list[tuple[Path, str | None]] = []
    for pair in files:
        # A text is a sequence as well: "ab" would pass as a pair.
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InvalidArgumentError("trtexec_times", required, pair)
        path, name = pair
        check_instance("trtexec_times", name, str)
        times.append((as_path("trtexec_times", path), name))
    return tuple(times)


DEFAULT_COSTS = CostPlan()


def energy_seconds(engines: int, plan: CostPlan) -> float:
    """Return the time that measuring the energy of `engines` engines takes, s."""
    window = plan.energy_seconds
    # Every window has idle time of its own before it, as the idle power drifts.
    return engines * plan.limits.energy_windows * (window + idle_seconds(window))


def idle_seconds(window_seconds: float) -> float:
    """Return the length of the idle time before an energy window of this length, s."""
    return window_seconds * IDLE_SECONDS / WINDOW_SECONDS
