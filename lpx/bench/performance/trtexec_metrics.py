"""Latency as trtexec defines it, for comparison with its output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lpx.arguments import check_choice
from lpx.bench.performance.latency import Samples, percentile
from lpx.bench.performance.trtexec_times import read_times

# trtexec measures for at least this long, after 200 ms of warm-up, and at least 10 times.
SECONDS = 3.0

Release = Literal[10, 11]


@dataclass(frozen=True)
class TimeStatistics:
    """Statistics of one time over all calls, ms: the ones that trtexec prints."""

    min_ms: float
    max_ms: float
    mean_ms: float
    median_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True)
class TrtexecMetrics:
    """Latency of calls that lpx timed, as a release of trtexec defines it.

    Attributes:
        release: 10 (10.16 and earlier) or 11.
        cuda_graph: True if trtexec of that release uses a CUDA graph by default: open the engine
            with the same `cuda_graph`.
        transfers: True if copies are part of the latency.
        latency: H2D + compute + D2H; compute alone in release 11, which omits transfers.
        compute: Time on the device; None for an engine without a device clock.
        enqueue: Host time to enqueue the work; None if the engine does not report it.
        throughput_qps: Calls / wall time, 1/s.
        notes: Differences from what trtexec does.
    """

    release: Release
    cuda_graph: bool
    transfers: bool
    latency: TimeStatistics
    compute: TimeStatistics | None
    enqueue: TimeStatistics | None
    throughput_qps: float
    notes: tuple[str, ...]


def like_trtexec(samples: Samples, release: Release) -> TrtexecMetrics:
    """Summarise timed calls as trtexec of `release` would.

    Args:
        samples: At least `SECONDS` of calls.
        release: 10 or 11: the defaults for CUDA graphs and transfers changed between them.

    Raises:
        InvalidArgumentError: Another release.
    """
    check_choice("like_trtexec", release, get_args(Release))
    parts = samples.parts_ms
    transfers = release == 10
    notes = [
        "one call at a time: trtexec enqueues the next one ahead, and its throughput is higher"
    ]
    if "compute_ms" not in parts:
        latency = samples.times_ms
        notes.append("this engine has no device clock: latency is wall time on the host")
    elif transfers:
        latency = parts["h2d_ms"] + parts["compute_ms"] + parts["d2h_ms"]
    else:
        latency = parts["compute_ms"]
    seconds = float(samples.times_ms.sum()) / 1e3
    if seconds < SECONDS:
        notes.append(f"measured for {seconds:.1f} s, trtexec for {SECONDS:g} s at least")
    return TrtexecMetrics(
        release=release,
        cuda_graph=release == 11,
        transfers=transfers,
        latency=time_statistics(latency),
        compute=time_statistics(parts["compute_ms"]) if "compute_ms" in parts else None,
        enqueue=time_statistics(parts["enqueue_ms"]) if "enqueue_ms" in parts else None,
        throughput_qps=len(samples.times_ms) / seconds,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class TrtexecRow:
    """Times that trtexec itself measured and exported.

    Attributes:
        name: Name of the engine as given by the user, or the file's name.
        file: File of the times.
        iterations: Number of inferences, without the warm-up.
        latency: H2D + compute + D2H, without waiting.
        h2d: Copy to the GPU.
        compute: Time on the GPU's clock.
        d2h: Copy back.
        enqueue: Time on the host; None if the file does not contain it.
    """

    name: str
    file: str
    iterations: int
    latency: TimeStatistics
    h2d: TimeStatistics
    compute: TimeStatistics
    d2h: TimeStatistics
    enqueue: TimeStatistics | None


def read_trtexec(path: Path, name: str | None = None) -> TrtexecRow:
    """Read a file of `trtexec --exportTimes`.

    Args:
        path: The file.
        name: Name of the engine; None uses the file's name.

    Raises:
        LpxError: See `lpx.bench.performance.trtexec_times.read_times`.
    """
    times = read_times(path)
    return TrtexecRow(
        name=name or path.stem,
        file=str(path),
        iterations=len(times.compute_ms),
        latency=time_statistics(times.latency_ms),
        h2d=time_statistics(times.h2d_ms),
        compute=time_statistics(times.compute_ms),
        d2h=time_statistics(times.d2h_ms),
        enqueue=time_statistics(times.enqueue_ms) if len(times.enqueue_ms) else None,
    )


def time_statistics(times_ms: NDArray[np.float64]) -> TimeStatistics:
    """Return trtexec's statistics of times in ms, float64 [N]."""
    ordered = np.sort(times_ms)
    return TimeStatistics(
        min_ms=float(ordered[0]),
        max_ms=float(ordered[-1]),
        mean_ms=float(ordered.mean()),
        median_ms=float(np.median(ordered)),
        p90_ms=percentile(ordered, 90),
        p95_ms=percentile(ordered, 95),
        p99_ms=percentile(ordered, 99),
    )
