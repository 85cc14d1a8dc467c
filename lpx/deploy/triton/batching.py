"""How Triton gathers requests into batches, from the latencies that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lpx.engines.tensorrt_options import DEFAULT_BATCHES, BatchRange

# For annotations: its module imports SciPy, which takes a second.
if TYPE_CHECKING:
    from lpx.bench.performance.latency import LatencyResult

# A face waits for others for at most this share of the time that its batch takes.
_WAIT_SHARE = 0.1
RULE = (
    "a batch size is preferred if its time per face (median, 95 % interval) is below that of every "
    "smaller size that was measured; a face waits for at most a tenth of the median time of the "
    "smallest preferred batch"
)
"""The rule of `measured_batching`, in words."""


@dataclass(frozen=True)
class Batching:
    """Batch sizes of a model in Triton.

    Attributes:
        largest: Largest batch.
        preferred: Sizes that a batch is gathered to, ascending; empty to run what has arrived.
        delay_us: Longest time that a face waits for others, microseconds.
        measured: These come from measured latencies.
    """

    largest: int
    preferred: tuple[int, ...] = ()
    delay_us: int = 0
    measured: bool = False

    @property
    def warm_up(self) -> tuple[int, ...]:
        """Batch sizes that are run, and recorded as CUDA graphs, before the first request."""
        return tuple(sorted({1, *self.preferred, self.largest}))


@dataclass(frozen=True)
class Coverage:
    """Batch sizes that a plan's profiles can serve without a gap.

    Attributes:
        largest: Every batch from 1 to this one fits a profile; 0 if 1 does not.
        profiles: Numbers of the profiles that this needs.
    """

    largest: int
    profiles: tuple[int, ...]


def covered(profiles: Sequence[BatchRange]) -> Coverage:
    """Return the batch sizes that profiles serve: Triton may form any batch up to the largest.

    A batch that fits no profile would fail with an error, so a gap between profiles ends what can
    be served.

    Args:
        profiles: Profiles of a plan, in its order.
    """
    largest = 0
    used: list[int] = []
    # By where they begin: after the first gap, no later profile can close it.
    order = sorted(range(len(profiles)), key=lambda number: profiles[number].minimum)
    for number in order:
        profile = profiles[number]
        if profile.minimum <= largest + 1:
            used.append(number)
            largest = max(largest, profile.maximum)
    return Coverage(largest, tuple(sorted(used)))


def default_batching(largest: int | None) -> Batching:
    """Return the batching of an engine that was not measured: what has arrived runs at once.

    Args:
        largest: Largest batch that the engine takes; None if it takes any.
    """
    return Batching(DEFAULT_BATCHES.maximum if largest is None else largest)


def measured_batching(latency: Sequence[LatencyResult], largest: int | None) -> Batching:
    """Return the batching that measured latencies suggest, by `RULE`.

    Args:
        latency: Latency at each batch size.
        largest: Largest batch that the engine takes; None if it takes any.
    """
    default = default_batching(largest)
    rows = sorted(latency, key=lambda row: row.batch)
    if largest is None and rows:
        default = Batching(max(default.largest, rows[-1].batch))
    # Triton refuses a preferred size above the largest batch.
    rows = [row for row in rows if row.batch <= default.largest]
    if not rows:
        return default
    preferred: list[LatencyResult] = []
    # Sizes are compared with the best smaller one, not with the next smaller one: a size that only
    # makes up for a slow neighbour gains nothing.
    best = rows[0].per_face_ms.p50
    for row in rows[1:]:
        now = row.per_face_ms.p50
        # An end that is not bounded is infinite, and shows nothing.
        if now.high < best.low:
            preferred.append(row)
            best = now
    delay_us = 0
    if preferred:
        # One delay serves all sizes, so it is that of the smallest, whose faces can wait the least.
        batch_ms = preferred[0].batch * preferred[0].per_face_ms.p50.estimate
        delay_us = int(1000 * batch_ms * _WAIT_SHARE)
    sizes = tuple(row.batch for row in preferred)
    return Batching(default.largest, sizes, delay_us, measured=True)
