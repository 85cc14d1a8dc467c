"""Latency of several engines, interleaved, so that drift of the machine affects all alike.

Engines take turns in short blocks rather than single calls: on a CPU each has a thread pool and
caches of its own, and the first call after another engine's pays for that: it is not timed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lpx.engines.base import Engine, Faces
from lpx.metrics import Interval
from lpx.reporter import Progress

# Coefficient of variation above which trtexec warns.
UNSTABLE_COV = 0.025
# Beginning of that warning: reports summarise these warnings over engines and batch sizes.
UNSTABLE = "unstable"
# Time to enqueue / time to compute above which trtexec warns.
HOST_BOUND_SHARE = 0.8
LEVEL = 0.95
PARTS = ("h2d_ms", "compute_ms", "d2h_ms", "enqueue_ms")


@dataclass(frozen=True)
class TimingLimits:
    """Lengths of warm-up, blocks and measurements; the defaults suit real measurements.

    Attributes:
        warm_up_seconds: Length of a comparison of two halves of the warm-up, s.
        warm_up_most_seconds: Maximum length of the warm-up, s.
        min_iterations: Minimum number of timed calls per engine.
        block_seconds: Length of an engine's turn, s.
        trtexec_seconds: Length of a measurement of latency in trtexec's terms, s.
        energy_windows: Energy windows per engine; an interval needs two, a fair one five.
    """

    warm_up_seconds: float = 0.2
    warm_up_most_seconds: float = 3.0
    min_iterations: int = 20
    block_seconds: float = 0.1
    trtexec_seconds: float = 3.0
    energy_windows: int = 5


TIMING_LIMITS = TimingLimits()
Clock = Callable[[], float]


@dataclass(frozen=True)
class DeviceTime:
    """Medians of an engine's own timings, by its device's clock; ms per call.

    Attributes:
        h2d_ms: Copy of the faces to the device.
        compute_ms: The network.
        d2h_ms: Copy of the results to the host.
        enqueue_ms: Host time to enqueue the work; None if the engine does not report it.
        total_ms: Median of the sum of the first three.
        compute_cov: Coefficient of variation of `compute_ms`.
    """

    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    enqueue_ms: float | None
    total_ms: float
    compute_cov: float


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of a time with their 95 % intervals; an end that is not bounded is infinite.

    Attributes:
        p50: Median.
        p90: 90th percentile.
        p95: 95th percentile.
        p99: 99th percentile.
    """

    p50: Interval
    p90: Interval
    p95: Interval
    p99: Interval


@dataclass(frozen=True)
class LatencyResult:
    """Wall time of `infer` on the host: copies, compute and Python's overhead together.

    Attributes:
        batch: Faces per call.
        iterations: Number of calls measured.
        per_face_ms: Percentiles over calls of (time of the call / batch), ms.
        per_patch_p50_us: Median time per classification unit, amortised over faces and grid, µs.
        faces_per_second: Faces scored / time spent in calls.
        cov: Coefficient of variation of the calls' times.
        device: Times by the device's clock; None for engines that do not time themselves.
        warm_up_seconds: Time until calls no longer became faster, s.
        warnings: Reasons not to rely on these numbers.
    """

    batch: int
    iterations: int
    per_face_ms: Percentiles
    per_patch_p50_us: float
    faces_per_second: float
    cov: float
    device: DeviceTime | None
    warm_up_seconds: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Samples:
    """Every timed call of one engine, in the order measured.

    Attributes:
        times_ms: Wall time, float64 [N].
        rounds: Round of turns in which the call was made, int64 [N], ascending from 0.
        parts_ms: The engine's own timings, float64 [N] per name in `PARTS`; empty without any.
        warm_up_seconds: Time until calls no longer became faster, s.
        steady: False if calls were still becoming faster when the warm-up was cut off.
    """

    times_ms: NDArray[np.float64]
    rounds: NDArray[np.int64]
    parts_ms: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    warm_up_seconds: float = 0.0
    steady: bool = True


def percentile(sorted_times: NDArray[np.float64], percent: float) -> float:
    """Return trtexec's percentile: sorted[N - 1 - int((1 - p / 100) * N)], no interpolation."""
    count = len(sorted_times)
    # In floating point (1 - 99 / 100) * 100 is a little below 1, which int would make 0.
    excluded = int((1 - percent / 100) * count + 1e-9)
    return float(sorted_times[max(0, count - 1 - excluded)])


def percentile_interval(
    sorted_times: NDArray[np.float64], percent: float, level: float = LEVEL
) -> Interval:
    """Return a percentile with its interval from order statistics, for any distribution.

    The number of calls below the true percentile is binomial(N, p / 100): the ends are the order
    statistics whose ranks hold `level` of it (Hahn and Meeker, "Statistical Intervals", 5.2). Calls
    are taken as independent.

    Args:
        sorted_times: Ascending, float64 [N].
        percent: In (0, 100).
        level: Nominal coverage of the interval.

    Returns:
        The percentile and its interval; an end that so few calls cannot bound is infinite.
    """
    count, tail = len(sorted_times), (1 - level) / 2
    below = stats.binom(count, percent / 100)
    # Ranks from 0. The distribution is discrete: the lower rank may take one step too many.
    low = int(below.ppf(tail)) - 1
    if below.cdf(low) > tail:
        low -= 1
    high = int(below.ppf(1 - tail))
    return Interval(
        percentile(sorted_times, percent),
        float(sorted_times[low]) if low >= 0 else -math.inf,
        float(sorted_times[high]) if high < count else math.inf,
    )


def sample(
    engines: Mapping[str, Engine],
    faces: Faces,
    seconds: float,
    progress: Progress | None = None,
    *,
    limits: TimingLimits = TIMING_LIMITS,
    clock: Clock = time.perf_counter,
) -> dict[str, Samples]:
    """Time every engine on one batch, taking turns: AA.. BB.. CC.. AA.. BB.. CC..

    Args:
        engines: By name. `last_timing` of an engine that has this attribute, with the names in
            `PARTS`, is read after each call, outside of the time measured.
        faces: uint8 RGB [B, S, S, 3], the batch to repeat.
        seconds: Time to measure each engine for, s; at least `limits.min_iterations` calls.
        progress: Receives the share done, in thousandths.
        limits: Lengths of warm-up and blocks.
        clock: Monotonic clock, s.
    """
    # All are warmed up before any is timed, so that the first round is like the others.
    warm = {name: _warm_up(engine, faces, limits, clock) for name, engine in engines.items()}
    blocks: dict[str, list[_Block]] = {name: [] for name in engines}
    # Engines take turns by blocks of equal time, so the time of all is counted together.
    budget = seconds * len(engines)
    spent = 0.0
    fewest = 0
    # A slow engine may use the time up before it has enough calls for an interval.
    while spent < budget or fewest < limits.min_iterations:
        for name, engine in engines.items():
            block = _block(engine, faces, limits.block_seconds, clock)
            blocks[name].append(block)
            spent += sum(block.times_ms) / 1e3
        fewest = min(sum(len(b.times_ms) for b in made) for made in blocks.values())
        if progress is not None:
            share = min(1.0, spent / budget) if budget else 1.0
            progress(round(1000 * share), 1000)
    return {name: _join(blocks[name], warm[name]) for name in engines}


def summarise(samples: Samples | NDArray[np.float64], batch: int, units: int) -> LatencyResult:
    """Summarise calls that each scored `batch` faces of `units` units.

    Args:
        samples: Timed calls, or their times in ms alone.
        batch: Faces per call.
        units: Classification units per face.
    """
    # Times from elsewhere, as trtexec's, were not measured in rounds.
    if not isinstance(samples, Samples):
        samples = Samples(samples, np.zeros(len(samples), np.int64))
    ordered = np.sort(samples.times_ms)
    # Percentiles are of calls: dividing by the batch afterwards keeps their order.
    per_face = ordered / batch
    device = _device_time(samples.parts_ms)
    cov = float(ordered.std() / ordered.mean())
    return LatencyResult(
        batch=batch,
        iterations=len(ordered),
        per_face_ms=Percentiles(
            p50=percentile_interval(per_face, 50),
            p90=percentile_interval(per_face, 90),
            p95=percentile_interval(per_face, 95),
            p99=percentile_interval(per_face, 99),
        ),
        per_patch_p50_us=1e3 * percentile(ordered, 50) / (batch * units),
        # The mean over all calls, as throughput includes the slow ones.
        faces_per_second=1e3 * batch * len(ordered) / float(ordered.sum()),
        cov=cov,
        device=device,
        warm_up_seconds=samples.warm_up_seconds,
        warnings=_warnings(cov, device, samples),
    )


def _warnings(cov: float, device: DeviceTime | None, samples: Samples) -> tuple[str, ...]:
    warnings = []
    if not samples.steady:
        warnings.append(
            f"calls were still becoming faster after {samples.warm_up_seconds:.1f} s of warm-up"
        )
    # Where the device has its own clock, the host's scheduling does not count as instability.
    spread, of = (cov, "calls") if device is None else (device.compute_cov, "compute")
    if spread > UNSTABLE_COV:
        warnings.append(
            f"{UNSTABLE}: the time of {of} varies by {100 * spread:.1f} % (above "
            f"{100 * UNSTABLE_COV:.1f} %): lock the clocks, and leave the machine alone"
        )
    if device is not None and device.enqueue_ms is not None:
        share = device.enqueue_ms / device.compute_ms if device.compute_ms else 0.0
        if share > HOST_BOUND_SHARE:
            warnings.append(
                f"host-bound: enqueuing takes {100 * share:.0f} % of the compute time: use a CUDA "
                "graph or larger batches"
            )
    return tuple(warnings)


def _device_time(parts_ms: Mapping[str, NDArray[np.float64]]) -> DeviceTime | None:
    if "compute_ms" not in parts_ms:
        return None
    h2d, compute, d2h = (parts_ms[name] for name in PARTS[:3])
    enqueue = parts_ms.get("enqueue_ms")
    return DeviceTime(
        h2d_ms=float(np.median(h2d)),
        compute_ms=float(np.median(compute)),
        d2h_ms=float(np.median(d2h)),
        enqueue_ms=None if enqueue is None else float(np.median(enqueue)),
        # The median of the sums, which the sum of the medians need not equal.
        total_ms=float(np.median(h2d + compute + d2h)),
        # Some clocks are too coarse for a short kernel, and give 0.
        compute_cov=float(compute.std() / compute.mean()) if compute.mean() else 0.0,
    )


@dataclass(frozen=True)
class _Block:
    """Consecutive calls of one engine: their times, and its own timings if it has any."""

    times_ms: list[float]
    timings: list[Any]


@dataclass(frozen=True)
class _WarmUp:
    """Length of a warm-up, s, and whether calls had stopped becoming faster by its end."""

    seconds: float
    steady: bool


def _block(engine: Engine, faces: Faces, seconds: float, clock: Clock) -> _Block:
    """Time calls for `seconds`, after one that is not timed."""
    # The call after another engine's turn finds its caches cold.
    engine.infer(faces)
    times: list[float] = []
    timings: list[Any] = []
    end = clock() + seconds
    # Bound in the condition, so that checking the clock adds no time between the two readings.
    while (started := clock()) < end:
        engine.infer(faces)
        times.append((clock() - started) * 1e3)
        # Read now: the engine overwrites it in its next call.
        timings.append(getattr(engine, "last_timing", None))
    return _Block(times, timings)


def _join(blocks: list[_Block], warm_up: _WarmUp) -> Samples:
    times: list[float] = []
    timings: list[Any] = []
    for block in blocks:
        times += block.times_ms
        timings += block.timings
    parts_ms = {}
    # One call without timings would put the others out of step with the times.
    if timings and None not in timings:
        for name in PARTS:
            if hasattr(timings[0], name):
                parts_ms[name] = np.array([float(getattr(timing, name)) for timing in timings])
    return Samples(
        times_ms=np.array(times),
        rounds=np.repeat(np.arange(len(blocks)), [len(block.times_ms) for block in blocks]),
        parts_ms=parts_ms,
        warm_up_seconds=warm_up.seconds,
        steady=warm_up.steady,
    )


def _warm_up(engine: Engine, faces: Faces, limits: TimingLimits, clock: Clock) -> _WarmUp:
    """Call until one half of the warm-up is no faster than the one before, by medians."""
    began = clock()
    before = _half(engine, faces, limits.warm_up_seconds / 2, clock)
    while True:
        after = _half(engine, faces, limits.warm_up_seconds / 2, clock)
        spent = clock() - began
        # A machine that slows down again is no reason to wait: its calls' variation shows that.
        if after >= (1 - UNSTABLE_COV) * before:
            return _WarmUp(spent, steady=True)
        if spent >= limits.warm_up_most_seconds:
            return _WarmUp(spent, steady=False)
        before = after


def _half(engine: Engine, faces: Faces, seconds: float, clock: Clock) -> float:
    """Return the median time of a call, s, over `seconds` and at least one call."""
    times: list[float] = []
    while not times or sum(times) < seconds:
        started = clock()
        engine.infer(faces)
        times.append(clock() - started)
    return float(np.median(times))
