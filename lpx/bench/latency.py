"""Latency of several engines, interleaved, so that drift of the machine hits all alike.

Engines take turns in short blocks rather than single calls: on a CPU each has a thread pool and
caches of its own, and the first call after another engine's pays for that. It is not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpx.engines.base import Engine, Faces

WARM_UP_SECONDS = 0.2
MIN_ITERATIONS = 20
BLOCK_SECONDS = 0.1


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
    """

    batch: int
    iterations: int
    per_face_p50_ms: float
    per_face_p90_ms: float
    per_face_p99_ms: float
    per_patch_p50_us: float
    faces_per_second: float
    cov: float


def percentile(sorted_times: NDArray[np.float64], percent: float) -> float:
    """Trtexec's percentile: sorted[all - 1 - int((1 - p / 100) * all)], no interpolation."""
    count = len(sorted_times)
    excluded = int((1 - percent / 100) * count + 1e-9)
    return float(sorted_times[max(0, count - 1 - excluded)])


def measure(
    engines: Mapping[str, Engine],
    faces: Faces,
    units: int,
    seconds: float,
    progress: Callable[[float], None] | None = None,
) -> dict[str, tuple[LatencyResult, NDArray[np.float64]]]:
    """Time every engine on one batch, taking turns: AA.. BB.. CC.. AA.. BB.. CC..

    Args:
        engines: By name.
        faces: uint8 RGB [B, S, S, 3], the batch to repeat.
        units: Classification units per face.
        seconds: Time to measure each engine for, at least `MIN_ITERATIONS` calls.
        progress: Told the share done, in [0, 1].

    Returns:
        Per engine: the summary, and every call's time in milliseconds in the order measured.
    """
    for engine in engines.values():
        _warm_up(engine, faces)
    times: dict[str, list[float]] = {name: [] for name in engines}
    budget = seconds * len(engines)
    spent = 0.0
    while spent < budget or min(len(t) for t in times.values()) < MIN_ITERATIONS:
        for name, engine in engines.items():
            block = _block(engine, faces)
            times[name] += block
            spent += sum(block) / 1e3
        if progress is not None:
            progress(min(1.0, spent / budget))
    return {
        name: (summarise(np.array(values), len(faces), units), np.array(values))
        for name, values in times.items()
    }


def summarise(times_ms: NDArray[np.float64], batch: int, units: int) -> LatencyResult:
    """Percentiles of calls that each scored `batch` faces of `units` units."""
    ordered = np.sort(times_ms)
    median = percentile(ordered, 50)
    return LatencyResult(
        batch=batch,
        iterations=len(ordered),
        per_face_p50_ms=median / batch,
        per_face_p90_ms=percentile(ordered, 90) / batch,
        per_face_p99_ms=percentile(ordered, 99) / batch,
        per_patch_p50_us=1e3 * median / (batch * units),
        faces_per_second=1e3 * batch * len(ordered) / float(ordered.sum()),
        cov=float(ordered.std() / ordered.mean()),
    )


def _block(engine: Engine, faces: Faces) -> list[float]:
    """Times of consecutive calls, in milliseconds, after one that is not timed."""
    engine.infer(faces)
    times: list[float] = []
    end = time.perf_counter() + BLOCK_SECONDS
    while (started := time.perf_counter()) < end:
        engine.infer(faces)
        times.append((time.perf_counter() - started) * 1e3)
    return times


def _warm_up(engine: Engine, faces: Faces) -> None:
    started = time.perf_counter()
    while time.perf_counter() - started < WARM_UP_SECONDS:
        engine.infer(faces)
