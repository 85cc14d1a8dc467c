"""Costs of engines: latency, speed tests, throughput, time of a single patch, energy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.score import Failure, in_one_line
from lpx.bench.performance.cost_plan import CostPlan, idle_seconds
from lpx.bench.performance.energy import EnergyResult, measure_energy
from lpx.bench.performance.latency import (
    LatencyResult,
    Samples,
    TimingLimits,
    percentile_interval,
    sample,
    summarise,
)
from lpx.bench.performance.loaded_engine import REFERENCE, LoadedEngine
from lpx.bench.performance.single_patch import SinglePatch, open_single_patch
from lpx.bench.performance.speed_test import SpeedTest, compare_speed
from lpx.bench.performance.throughput import ThroughputResult, measure_throughput
from lpx.bench.performance.trtexec_metrics import Release, TrtexecMetrics, like_trtexec
from lpx.card import ModelCard
from lpx.engines.base import Engine, Faces
from lpx.machine.conditions import Conditions, read_conditions
from lpx.machine.energy_sources import EnergySource, Unavailable
from lpx.machine.nvml import open_nvml
from lpx.metrics import Interval
from lpx.reporter import Progress

Pixels = Callable[[int], Faces]
"""Return uint8 RGB [B, S, S, 3] for a batch size B."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Speed:
    """A speed test of an engine against another one at one batch size.

    Attributes:
        batch: Faces per call.
        against: Name of the other engine.
        test: Result: time of this engine / time of the other.
    """

    batch: int
    against: str
    test: SpeedTest


@dataclass(frozen=True)
class PatchCost:
    """Time of a call that scores one crop of the size of the receptive field.

    Attributes:
        size_px: Side of the crop, pixels.
        grid: Units (h, w) that are computed for it; more than one if the network pads.
        iterations: Number of calls measured.
        p50_us: Median with its 95 % interval, µs; an end that is not bounded is infinite.
    """

    size_px: int
    grid: tuple[int, int]
    iterations: int
    p50_us: Interval


@dataclass(frozen=True)
class Costs:
    """Measurements, keyed by engine name. Includes the reference where noted.

    Attributes:
        latency: One result per batch size, of the reference too.
        times_ms: Every call's time, by (engine, batch size), of the reference too.
        speed: Speed tests against the reference, and against the fastest float candidate.
        throughput: Throughput with several batches in flight.
        like: Latency in trtexec's terms.
        single_patch: Time of a single patch.
        energy: Energy at the first batch size, of the reference too.
        conditions: State of the machine before and after latency was measured.
        failed: Candidates that failed, and are missing from what was measured after that.
    """

    latency: dict[str, tuple[LatencyResult, ...]]
    times_ms: dict[tuple[str, int], NDArray[np.float64]] = field(default_factory=dict)
    speed: dict[str, tuple[Speed, ...]] = field(default_factory=dict)
    throughput: dict[str, ThroughputResult | Unavailable] = field(default_factory=dict)
    like: dict[str, TrtexecMetrics | Unavailable] = field(default_factory=dict)
    single_patch: dict[str, PatchCost | Unavailable] = field(default_factory=dict)
    energy: dict[str, EnergyResult | Unavailable] = field(default_factory=dict)
    conditions: tuple[Conditions, Conditions] | None = None
    failed: tuple[Failure, ...] = ()


def measure_costs(
    engines: Mapping[str, Engine],
    candidates: Mapping[str, LoadedEngine],
    pixels: Pixels,
    card: ModelCard,
    plan: CostPlan,
    sources: Mapping[str, EnergySource | Unavailable],
    *,
    timing: Progress | None = None,
    energy: Progress | None = None,
) -> Costs:
    """Measure the costs in a plan.

    Args:
        engines: Engines that scored every face, including the reference.
        candidates: By name; those that are not in `engines` are left out.
        pixels: Faces to repeat.
        card: Model card, for grid and receptive field.
        plan: Costs to measure.
        sources: Energy source of each engine.
        timing: Receives progress of everything but energy, in thousandths of it.
        energy: Receives progress of the energy measurement.

    Raises:
        Exception: An error of the reference; a candidate's error is noted in the result.
    """
    failed: list[Failure] = []
    costs = Costs(latency={name: () for name in engines})
    if plan.latency_seconds > 0:
        units = card.grid[0] * card.grid[1]
        # Before and after the timing, so that throttling and other programs show in the report.
        # Opened once for both readings, so that they are of the same GPU.
        gpu = open_nvml()
        before = read_conditions(nvml=gpu)
        # The sweep has a step per batch size, and the single patch always takes one.
        count = len(plan.batches) + 1 + bool(plan.in_flight) + bool(plan.like)
        steps = _Steps(count, timing)
        samples = _sweep(engines, pixels, plan, failed, steps)
        after = read_conditions(nvml=gpu)
        costs = replace(
            summarised(samples, _precisions(candidates), units), conditions=(before, after)
        )
        # Engines that failed in the sweep are not measured further.
        costs = _add_others(costs, _left(candidates, engines, failed), pixels, card, plan, steps)
    if plan.energy_seconds > 0:
        costs = replace(costs, energy=_energy(engines, pixels, card, plan, sources, failed, energy))
    return replace(costs, failed=tuple(failed))


def summarised(
    samples: Mapping[str, Mapping[int, Samples]], precisions: Mapping[str, str], units: int
) -> Costs:
    """Summarise timed calls as latency and speed.

    Args:
        samples: By engine name, including the reference, and batch size.
        precisions: Precisions of the candidates.
        units: Classification units per face.
    """
    latency: dict[str, tuple[LatencyResult, ...]] = {}
    times_ms: dict[tuple[str, int], NDArray[np.float64]] = {}
    for name, by_batch in samples.items():
        latency[name] = tuple(summarise(s, batch, units) for batch, s in by_batch.items())
        for batch, timed in by_batch.items():
            times_ms[name, batch] = timed.times_ms
    return Costs(latency, times_ms, judge_speed(samples, precisions))


def judge_speed(
    samples: Mapping[str, Mapping[int, Samples]], precisions: Mapping[str, str]
) -> dict[str, tuple[Speed, ...]]:
    """Compare each candidate with the reference, and with the fastest float one of several.

    Args:
        samples: By engine name and batch size, from calls that took turns.
        precisions: Precisions of the candidates.
    """
    tests: dict[str, list[Speed]] = {name: [] for name in samples if name in precisions}
    # By batch size, in the order of the first engine that was timed at it. An engine that failed at
    # a batch size was not timed.
    timed_at: dict[int, dict[str, Samples]] = {}
    for name, by_batch in samples.items():
        for batch, timed_once in by_batch.items():
            timed_at.setdefault(batch, {})[name] = timed_once
    for batch, timed in timed_at.items():
        rivals = []
        if REFERENCE in timed:
            rivals.append(REFERENCE)
        # A name without a precision is the reference, which is a rival already.
        floats = [n for n in timed if precisions.get(n, "int8") != "int8"]
        if floats:
            rivals.append(min(floats, key=lambda n: float(np.median(timed[n].times_ms))))
        for name in tests.keys() & timed.keys():
            for rival in rivals:
                # An engine is not compared with itself, although it may be the fastest float one.
                if rival != name:
                    test = compare_speed(timed[name], timed[rival])
                    tests[name].append(Speed(batch, rival, test))
    return {name: tuple(speeds) for name, speeds in tests.items()}


class _Steps:
    """Progress of all steps, from the progress within each."""

    def __init__(self, count: int, progress: Progress | None) -> None:
        self._count, self._progress, self._done = count, progress, 0

    def within(self, done: int, total: int) -> None:
        """Receive the progress of the current step."""
        if self._progress is not None:
            # The last call within a step must not say that all steps are done.
            share = min(done / total, 0.99)
            self._progress(int(1000 * (self._done + share) / self._count), 1000)

    def end(self) -> None:
        """Finish the current step."""
        self._done += 1
        if self._progress is not None:
            self._progress(1000 * self._done // self._count, 1000)


def _sweep(
    engines: Mapping[str, Engine],
    pixels: Pixels,
    plan: CostPlan,
    failed: list[Failure],
    steps: _Steps,
) -> dict[str, dict[int, Samples]]:
    """Time all engines at each batch size; one that fails is timed no further."""
    samples: dict[str, dict[int, Samples]] = {name: {} for name in engines}
    for batch in plan.batches:
        faces = pixels(batch)

        # `faces` is bound as a default: a closure would see that of the last batch size.
        def time_engines(left: dict[str, Engine], faces: Faces = faces) -> dict[str, Samples]:
            return sample(left, faces, plan.latency_seconds, steps.within, limits=plan.limits)

        # Sampled together, as only interleaved calls are comparable; hence one failure ends all of
        # them.
        timed = _surviving(time_engines, engines, faces, "timing", failed)
        for name, of_batch in timed.items():
            samples[name][batch] = of_batch
        steps.end()
    return samples


def _surviving(
    work: Callable[[dict[str, Engine]], _T],
    engines: Mapping[str, Engine],
    faces: Faces,
    during: str,
    failed: list[Failure],
) -> _T:
    """Work on the engines that have not failed; if one does, start again without it."""
    while True:
        left = _left(engines, engines, failed)
        try:
            return work(left)
        # Any exception, as engines from elsewhere may fail in any way.
        except Exception:
            # An error does not name the engine: find out which of them can no longer score.
            broken = _broken(left, faces, during)
            # All of them still score: the error is of the measurement, and starting again could
            # loop forever.
            if not broken:
                raise
            failed += broken


def _broken(engines: Mapping[str, Engine], faces: Faces, during: str) -> list[Failure]:
    """Return the candidates that cannot score a batch; an error of the reference is raised."""
    errors = {name: _error(engine, faces) for name, engine in engines.items()}
    # Without the reference there is nothing to compare the others with.
    if (error := errors.pop(REFERENCE, None)) is not None:
        raise error
    failures = []
    for name, error in errors.items():
        if error is not None:
            failures.append(Failure(name, during, f"{in_one_line(error)} (batch {len(faces)})"))
    return failures


def _error(engine: Engine, faces: Faces) -> Exception | None:
    try:
        engine.infer(faces)
    except Exception as error:
        return error
    return None


def _left(
    things: Mapping[str, _T], engines: Mapping[str, Engine], failed: list[Failure]
) -> dict[str, _T]:
    gone = {failure.name for failure in failed}
    return {n: thing for n, thing in things.items() if n in engines and n not in gone}


def _precisions(candidates: Mapping[str, LoadedEngine]) -> dict[str, str]:
    return {name: candidate.manifest.precision for name, candidate in candidates.items()}


def _add_others(
    costs: Costs,
    candidates: Mapping[str, LoadedEngine],
    pixels: Pixels,
    card: ModelCard,
    plan: CostPlan,
    steps: _Steps,
) -> Costs:
    """Add the costs that are measured for each candidate on its own."""
    faces = pixels(plan.batches[0])
    patches = _patches(candidates, pixels(1), card, plan, steps)
    steps.end()
    costs = replace(costs, single_patch=patches)
    if plan.in_flight:
        throughput = {}
        for name, candidate in candidates.items():
            throughput[name] = _or_why(partial(_throughput, candidate, faces, plan))
        costs = replace(costs, throughput=throughput)
        steps.end()
    if release := plan.like:
        like = {}
        for name, candidate in candidates.items():
            like[name] = _or_why(partial(_like, candidate, faces, release, plan.limits))
        costs = replace(costs, like=like)
        steps.end()
    return costs


def _or_why(measure: Callable[[], _T]) -> _T | Unavailable:
    """Return a measurement, or the reason why it failed: the others continue."""
    try:
        return measure()
    # These costs are extras: a bench of hours must not end because one of them failed.
    except Exception as error:
        return Unavailable(in_one_line(error))


def _throughput(candidate: LoadedEngine, faces: Faces, plan: CostPlan) -> ThroughputResult:
    open_engine = partial(candidate.open, cuda_graph=True)
    return measure_throughput(open_engine, faces, plan.in_flight, plan.latency_seconds)


def _like(
    candidate: LoadedEngine, faces: Faces, release: Release, limits: TimingLimits
) -> TrtexecMetrics:
    name = candidate.manifest.name
    # A tenth more, so that calls that end early do not fall short of trtexec's time.
    seconds = 1.1 * limits.trtexec_seconds
    # trtexec uses CUDA graphs by default from this release on, and the figures have to be
    # comparable.
    with candidate.open(cuda_graph=release == 11) as engine:
        samples = sample({name: engine}, faces, seconds, limits=limits)[name]
    return like_trtexec(samples, release)


def _patches(
    candidates: Mapping[str, LoadedEngine],
    face: Faces,
    card: ModelCard,
    plan: CostPlan,
    steps: _Steps,
) -> dict[str, PatchCost | Unavailable]:
    """Time one receptive field alone, in the engines that are graphs, taking turns."""
    results: dict[str, PatchCost | Unavailable] = {}
    opened: dict[str, SinglePatch] = {}
    with ExitStack() as stack:
        for name, candidate in candidates.items():
            if candidate.graph is None:
                results[name] = Unavailable("its engine is built for whole faces")
                continue
            try:
                opened[name] = open_single_patch(candidate.graph, card)
            # A graph from elsewhere may have any form, and fail in any way.
            except Exception as error:
                results[name] = Unavailable(in_one_line(error))
            else:
                stack.enter_context(closing(opened[name].engine))
        if not opened:
            return results
        # The receptive field is the same in all of them, as all are graphs of the same model.
        size = next(iter(opened.values())).size
        # The middle of a face; which pixels are scored does not matter for the time.
        start = (face.shape[1] - size) // 2
        crop = np.ascontiguousarray(face[:, start : start + size, start : start + size])
        engines: dict[str, Engine] = {name: patch.engine for name, patch in opened.items()}
        timed = sample(engines, crop, plan.latency_seconds, steps.within, limits=plan.limits)
    return results | {name: _patch_cost(patch, timed[name]) for name, patch in opened.items()}


def _patch_cost(patch: SinglePatch, samples: Samples) -> PatchCost:
    times_us = 1e3 * np.sort(samples.times_ms)
    # The interval is of order statistics; the median of an even number lies between two.
    median = replace(percentile_interval(times_us, 50), estimate=float(np.median(times_us)))
    return PatchCost(patch.size, patch.grid, len(times_us), median)


def _energy(
    engines: Mapping[str, Engine],
    pixels: Pixels,
    card: ModelCard,
    plan: CostPlan,
    sources: Mapping[str, EnergySource | Unavailable],
    failed: list[Failure],
    progress: Progress | None,
) -> dict[str, EnergyResult | Unavailable]:
    faces = pixels(plan.batches[0])
    units = card.grid[0] * card.grid[1]

    def measured(left: dict[str, Engine]) -> dict[str, EnergyResult | Unavailable]:
        return measure_energy(
            left,
            sources,
            faces,
            units,
            windows=plan.limits.energy_windows,
            window_seconds=plan.energy_seconds,
            idle_seconds=idle_seconds(plan.energy_seconds),
            progress=progress,
        )

    return _surviving(measured, engines, faces, "measuring energy", failed)
