"""Build one plan several times: TensorRT's choice of kernels differs from run to run."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lpx.engines.tensorrt.building.plan import Plan
from lpx.engines.tensorrt.capabilities import TensorRTLibrary
from lpx.engines.tensorrt.runtime import TensorRTEngine
from lpx.engines.tensorrt_options import TensorRTOptions
from lpx.errors import LpxError

_WARM, _TIMED = 10, 50


@dataclass(frozen=True)
class BuildSpread:
    """Results of several builds of one request.

    Attributes:
        seconds: Time of each build.
        sizes: Bytes of each plan.
        layers: Number of layers of each plan; -1 if TensorRT does not report them.
        distinct: Number of different plans.
        latency_ms: Median time of computing the optimum batch with each plan, by CUDA events;
            empty if plans cannot be run.
        kept: Index of the plan that was kept: that of median latency, or the first if latency is
            not known.
    """

    seconds: tuple[float, ...]
    sizes: tuple[int, ...]
    layers: tuple[int, ...]
    distinct: int
    latency_ms: tuple[float, ...]
    kept: int


def build_repeatedly(
    make: Callable[[], Plan], count: int, measure: Callable[[Plan], float] | None
) -> tuple[Plan, BuildSpread]:
    """Build `count` times, and keep a typical plan.

    Args:
        make: Function that builds the plan.
        count: Number of builds, at least 1.
        measure: Function that returns the latency of a plan, ms; None if plans cannot be run here.
    """
    plans, seconds = [], []
    for _ in range(count):
        started = time.perf_counter()
        plans.append(make())
        seconds.append(round(time.perf_counter() - started, 3))
    latency: tuple[float, ...] = ()
    kept = 0
    if measure and count > 1:
        latency = tuple(map(measure, plans))
        # The lower median: a plan that was built, not the mean of two.
        kept = latency.index(statistics.median_low(latency))
    spread = BuildSpread(
        seconds=tuple(seconds),
        sizes=tuple(len(plan.data) for plan in plans),
        layers=tuple(map(_layers, plans)),
        distinct=len({hashlib.sha256(plan.data).digest() for plan in plans}),
        latency_ms=latency,
        kept=kept,
    )
    return plans[kept], spread


def _layers(plan: Plan) -> int:
    """Return the number of layers of a plan; -1 if it is unknown."""
    if plan.layers is None:
        return -1
    return len(plan.layers.rows)


def measure_latency(plan: Plan, library: TensorRTLibrary, options: TensorRTOptions) -> float:
    """Return the median time to compute the optimum batch of the largest profile, ms.

    Raises:
        LpxError: The plan does not load or run here.
    """
    with TensorRTEngine(
        plan.data,
        library,
        # Trusted, since this process has just built it.
        allow_host_code=options.version_compatible,
        dla_core=options.dla_core,
    ) as loaded:
        faces = np.zeros((options.profiles[-1].optimum, *loaded.face_shape), np.uint8)
        times = []
        for _ in range(_WARM + _TIMED):
            loaded.infer(faces)
            if loaded.last_timing is None:
                raise LpxError("the engine reports no times")
            times.append(loaded.last_timing.compute_ms)
    return round(statistics.median(times[_WARM:]), 4)
