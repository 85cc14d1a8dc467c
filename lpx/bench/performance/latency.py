"""Latency of several engines, interleaved, so that drift of the machine hits all alike.

Engines take turns in short blocks rather than single calls: on a CPU each has a thread pool and
caches of its own, and the first call after another engine's pays for that. It is not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lpx.engines.base import Engine, Faces

WARM_UP_SECONDS = 0.2
WARM_UP_MOST_SECONDS = 3.0
MIN_ITERATIONS = 20
BLOCK_SECONDS = 0.1
UNSTABLE_COV = 0.025
"""Coefficient of variation above which trtexec warns."""
UNSTABLE = "unstable"
"""How such a warning begins."""
HOST_BOUND_SHARE = 0.8
"""Time to enqueue / time to compute above which trtexec warns."""
LEVEL = 0.95
PARTS = ("h2d_ms", "compute_ms", "d2h_ms", "enqueue_ms")


@dataclass(frozen=True)
class DeviceTime:
    """Medians of what an engine says of its own calls, by its device's clock; ms per call.

    Attributes:
        h2d_ms: Copy of the faces to the device.
        compute_ms: The network.
        d2h_ms: Copy of the results to the host.
        enqueue_ms: What the host needs to hand the work over; None where the engine does not say.
        total_ms: Median of the first three's sum.
        compute_cov: Coefficient of variation of `compute_ms`.
    """

    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    enqueue_ms: float | None
    total_ms: float
    compute_cov: float


@dataclass(frozen=True)
class LatencyResult:
    """Wall time of `infer` on the host: copies, compute and Python's overhead together.

    Attributes:
        batch: Faces per call.
        iterations: Calls measured.
        per_face_p50_ms: Median over calls of (time of the call / batch).
        per_face_p90_ms: 90th percentile of the same.
        per_face_p99_ms: 99th percentile of the same.
        per_patch_p50_us: Median time per classification unit, amortised over faces and grid.
        faces_per_second: Faces scored / time spent in calls.
        cov: Coefficient of variation of the calls' times.
        per_face_p95_ms: 95th percentile of (time of the call / batch).
        intervals_ms: 95 % interval of each percentile, "p50" to "p99", per face; an end that the
            number of calls does not allow is None.
        device: Of engines that time themselves, else None.
        warm_up_seconds: Time until calls no longer became faster.
        warnings: Why not to rely on these figures.
    """

    batch: int
    iterations: int
    per_face_p50_ms: float
    per_face_p90_ms: float
    per_face_p99_ms: float
    per_patch_p50_us: float
    faces_per_second: float
    cov: float
    per_face_p95_ms: float
    intervals_ms: dict[str, tuple[float | None, float | None]]
    device: DeviceTime | None
    warm_up_seconds: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Samples:
    """Every timed call of one engine, in the order measured.

    Attributes:
        times_ms: Wall time, float64 [N].
        rounds: In which turn of all engines the call was, int64 [N], ascending from 0.
        parts_ms: Of engines that time themselves: float64 [N] per name in `PARTS`; else empty.
        warm_up_seconds: Time until calls no longer became faster.
        steady: Whether that was reached in `WARM_UP_MOST_SECONDS`.
    """

    times_ms: NDArray[np.float64]
    rounds: NDArray[np.int64]
    parts_ms: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    warm_up_seconds: float = 0.0
    steady: bool = True


def percentile(sorted_times: NDArray[np.float64], percent: float) -> float:
    """Trtexec's percentile: sorted[all - 1 - int((1 - p / 100) * all)], no interpolation."""
    count = len(sorted_times)
    excluded = int((1 - percent / 100) * count + 1e-9)
    return float(sorted_times[max(0, count - 1 - excluded)])


def percentile_interval(
    sorted_times: NDArray[np.float64], percent: float, level: float = LEVEL
) -> tuple[float | None, float | None]:
    """Interval of a percentile from order statistics, for any distribution.

    The number of calls below the true percentile is binomial(N, p / 100): the ends are the order
    statistics whose ranks hold `level` of it (Hahn and Meeker, "Statistical Intervals", 5.2). Calls
    are taken as independent.

    Args:
        sorted_times: Ascending, float64 [N].
        percent: In (0, 100).
        level: Of the interval.

    Returns:
        (low, high); None for an end that so few calls cannot bound.
    """
    count, tail = len(sorted_times), (1 - level) / 2
    below = stats.binom(count, percent / 100)
    low = int(below.ppf(tail)) - 1
    if below.cdf(low) > tail:
        low -= 1
    high = int(below.ppf(1 - tail))
    return (
        float(sorted_times[low]) if low >= 0 else None,
        float(sorted_times[high]) if high < count else None,
    )


def measure(
    engines: Mapping[str, Engine],
    faces: Faces,
    units: int,
    seconds: float,
    progress: Callable[[float], None] | None = None,
) -> dict[str, tuple[LatencyResult, NDArray[np.float64]]]:
    """Time every engine on one batch, taking turns: see `sample`.

    Args:
        engines: By name.
        faces: uint8 RGB [B, S, S, 3], the batch to repeat.
        units: Classification units per face.
        seconds: Time to measure each engine for, at least `MIN_ITERATIONS` calls.
        progress: Told the share done, in [0, 1].

    Returns:
        Per engine: the summary, and every call's time in milliseconds in the order measured.
    """
    return {
        name: (summarise(samples, len(faces), units), samples.times_ms)
        for name, samples in sample(engines, faces, seconds, progress).items()
    }


def sample(
    engines: Mapping[str, Engine],
    faces: Faces,
    seconds: float,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Samples]:
    """Time every engine on one batch, taking turns: AA.. BB.. CC.. AA.. BB.. CC..

    Args:
        engines: By name. One with an attribute `last_timing` that has the names in `PARTS` is asked
            for it after each call, outside of the time measured.
        faces: uint8 RGB [B, S, S, 3], the batch to repeat.
        seconds: Time to measure each engine for, at least `MIN_ITERATIONS` calls.
        progress: Told the share done, in [0, 1].
    """
    warm = {name: _warm_up(engine, faces) for name, engine in engines.items()}
    blocks: dict[str, list[_Block]] = {name: [] for name in engines}
    budget = seconds * len(engines)
    spent = 0.0
    fewest = 0
    while spent < budget or fewest < MIN_ITERATIONS:
        for name, engine in engines.items():
            block = _block(engine, faces)
            blocks[name].append(block)
            spent += sum(block.times_ms) / 1e3
        fewest = min(sum(len(b.times_ms) for b in made) for made in blocks.values())
        if progress is not None:
            progress(min(1.0, spent / budget) if budget else 1.0)
    return {name: _join(blocks[name], *warm[name]) for name in engines}


def summarise(samples: Samples | NDArray[np.float64], batch: int, units: int) -> LatencyResult:
    """Percentiles of calls that each scored `batch` faces of `units` units.

    Args:
        samples: What `sample` gave, or the calls' times in ms alone.
        batch: Faces per call.
        units: Classification units per face.
    """
    if not isinstance(samples, Samples):
        samples = Samples(samples, np.zeros(len(samples), np.int64))
    ordered = np.sort(samples.times_ms)
    median = percentile(ordered, 50)
    device = _device_time(samples.parts_ms)
    cov = float(ordered.std() / ordered.mean())
    return LatencyResult(
        batch=batch,
        iterations=len(ordered),
        per_face_p50_ms=median / batch,
        per_face_p90_ms=percentile(ordered, 90) / batch,
        per_face_p99_ms=percentile(ordered, 99) / batch,
        per_patch_p50_us=1e3 * median / (batch * units),
        faces_per_second=1e3 * batch * len(ordered) / float(ordered.sum()),
        cov=cov,
        per_face_p95_ms=percentile(ordered, 95) / batch,
        intervals_ms={
            f"p{percent}": percentile_interval(ordered / batch, percent)
            for percent in (50, 90, 95, 99)
        },
        device=device,
        warm_up_seconds=samples.warm_up_seconds,
        warnings=_warnings(cov, device, samples),
    )


def _warnings(cov: float, device: DeviceTime | None, samples: Samples) -> tuple[str, ...]:
    found = []
    if not samples.steady:
        found.append(
            f"calls were still becoming faster after {samples.warm_up_seconds:.1f} s of warm-up"
        )
    spread, of = (cov, "calls") if device is None else (device.compute_cov, "compute")
    if spread > UNSTABLE_COV:
        found.append(
            f"{UNSTABLE}: the time of {of} varies by {100 * spread:.1f} % (above "
            f"{100 * UNSTABLE_COV:.1f} %): lock the clocks, and leave the machine alone"
        )
    if device is not None and device.enqueue_ms is not None:
        share = device.enqueue_ms / device.compute_ms if device.compute_ms else 0.0
        if share > HOST_BOUND_SHARE:
            found.append(
                f"host-bound: handing the work over takes {100 * share:.0f} % of its time on the "
                "device: use a CUDA graph, or larger batches"
            )
    return tuple(found)


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
        total_ms=float(np.median(h2d + compute + d2h)),
        compute_cov=float(compute.std() / compute.mean()) if compute.mean() else 0.0,
    )


@dataclass(frozen=True)
class _Block:
    """Consecutive calls of one engine: their times, and its own timings where it gives any."""

    times_ms: list[float]
    timings: list[Any]


def _block(engine: Engine, faces: Faces) -> _Block:
    """Time calls for `BLOCK_SECONDS`, after one that is not timed."""
    engine.infer(faces)
    times: list[float] = []
    timings: list[Any] = []
    end = time.perf_counter() + BLOCK_SECONDS
    while (started := time.perf_counter()) < end:
        engine.infer(faces)
        times.append((time.perf_counter() - started) * 1e3)
        timings.append(getattr(engine, "last_timing", None))
    return _Block(times, timings)


def _join(blocks: list[_Block], warm_up_seconds: float, steady: bool) -> Samples:
    timings = [timing for block in blocks for timing in block.timings]
    told = bool(timings) and all(timing is not None for timing in timings)
    names = [name for name in PARTS if told and hasattr(timings[0], name)]
    return Samples(
        times_ms=np.array([time_ms for block in blocks for time_ms in block.times_ms]),
        rounds=np.repeat(np.arange(len(blocks)), [len(block.times_ms) for block in blocks]),
        parts_ms={
            name: np.array([float(getattr(timing, name)) for timing in timings]) for name in names
        },
        warm_up_seconds=warm_up_seconds,
        steady=steady,
    )


def _warm_up(engine: Engine, faces: Faces) -> tuple[float, bool]:
    """Call until one half of `WARM_UP_SECONDS` is no faster than the one before, by medians.

    A machine that slows down again is no reason to wait: that shows in the calls' variation.

    Returns:
        Seconds spent, and whether that was reached before `WARM_UP_MOST_SECONDS`.
    """
    began = time.perf_counter()
    before = _half(engine, faces)
    while True:
        after = _half(engine, faces)
        spent = time.perf_counter() - began
        if after >= (1 - UNSTABLE_COV) * before:
            return spent, True
        if spent >= WARM_UP_MOST_SECONDS:
            return spent, False
        before = after


def _half(engine: Engine, faces: Faces) -> float:
    """Median time of a call, in seconds, over half of `WARM_UP_SECONDS` (one call at least)."""
    times: list[float] = []
    while not times or sum(times) < WARM_UP_SECONDS / 2:
        started = time.perf_counter()
        engine.infer(faces)
        times.append(time.perf_counter() - started)
    return float(np.median(times))
