"""Figures in the terms of trtexec, to set beside its output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lpx.arguments import check_choice
from lpx.bench.performance.latency import Samples, percentile
from lpx.bench.performance.trtexec_times import read_times

SECONDS = 3.0
"""trtexec measures for at least this long, after 200 ms of warm-up, and at least 10 times."""

Release = Literal[10, 11]


@dataclass(frozen=True)
class Spread:
    """Of one quantity over all calls, ms: trtexec's own choice of figures."""

    min_ms: float
    max_ms: float
    mean_ms: float
    median_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True)
class LikeTrtexec:
    """What trtexec of a release would call latency, of calls that lpx timed.

    Attributes:
        release: 10 (10.16 and earlier) or 11.
        cuda_graph: Whether trtexec of that release uses a CUDA graph unless told otherwise: make
            the engine with `cuda_graph` of this value.
        transfers: Whether copies are in the latency.
        latency: H2D + compute + D2H; in 11, which leaves transfers out, compute alone.
        compute: Time on the device; None of an engine that does not time itself.
        enqueue: Time to hand the work over; None where the engine does not say.
        throughput_qps: Calls / wall time.
        notes: How this differs from what trtexec does.
    """

    release: Release
    cuda_graph: bool
    transfers: bool
    latency: Spread
    compute: Spread | None
    enqueue: Spread | None
    throughput_qps: float
    notes: tuple[str, ...]


def like_trtexec(samples: Samples, release: Release) -> LikeTrtexec:
    """Express timed calls as trtexec of `release` would.

    Args:
        samples: Of at least `SECONDS` of calls.
        release: 10 or 11: the defaults of CUDA graph and transfers changed between them.

    Raises:
        LpxError: Another release.
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
    return LikeTrtexec(
        release=release,
        cuda_graph=release == 11,
        transfers=transfers,
        latency=spread(latency),
        compute=spread(parts["compute_ms"]) if "compute_ms" in parts else None,
        enqueue=spread(parts["enqueue_ms"]) if "enqueue_ms" in parts else None,
        throughput_qps=len(samples.times_ms) / seconds,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class TrtexecRow:
    """What trtexec itself measured of an engine, from a file of its times.

    Attributes:
        name: What the user calls the engine, or the file's name.
        file: Where the times were read.
        iterations: Inferences, without the warm-up.
        latency: H2D + compute + D2H, without waiting.
        h2d: Copy to the GPU.
        compute: On the GPU's clock.
        d2h: Copy back.
        enqueue: Of the host; None where the file does not say.
    """

    name: str
    file: str
    iterations: int
    latency: Spread
    h2d: Spread
    compute: Spread
    d2h: Spread
    enqueue: Spread | None


def read_trtexec(path: Path, name: str | None = None) -> TrtexecRow:
    """Read what `trtexec --exportTimes` wrote.

    Args:
        path: The file.
        name: Of the engine; None takes the file's name.

    Raises:
        LpxError: See `lpx.bench.performance.trtexec_times.read_times`.
    """
    times = read_times(path)
    return TrtexecRow(
        name=name or path.stem,
        file=str(path),
        iterations=len(times.compute_ms),
        latency=spread(times.latency_ms),
        h2d=spread(times.h2d_ms),
        compute=spread(times.compute_ms),
        d2h=spread(times.d2h_ms),
        enqueue=spread(times.enqueue_ms) if len(times.enqueue_ms) else None,
    )


def spread(times_ms: NDArray[np.float64]) -> Spread:
    """Trtexec's figures of times in ms, float64 [N]."""
    ordered = np.sort(times_ms)
    return Spread(
        min_ms=float(ordered[0]),
        max_ms=float(ordered[-1]),
        mean_ms=float(ordered.mean()),
        median_ms=float(np.median(ordered)),
        p90_ms=percentile(ordered, 90),
        p95_ms=percentile(ordered, 95),
        p99_ms=percentile(ordered, 99),
    )
