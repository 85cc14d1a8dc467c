"""What engines cost: latency and who is faster, throughput, a patch alone, energy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lpx.arguments import check_fields
from lpx.bench.parity.score import Failure, said
from lpx.bench.performance.candidate import REFERENCE, Candidate
from lpx.bench.performance.energy import (
    IDLE_SECONDS,
    WINDOW_SECONDS,
    WINDOWS,
    EnergyResult,
    measure_energy,
)
from lpx.bench.performance.latency import (
    LatencyResult,
    Samples,
    percentile_interval,
    sample,
    summarise,
)
from lpx.bench.performance.single_patch import SinglePatch, open_single_patch
from lpx.bench.performance.speed_test import Comparison, compare_speed
from lpx.bench.performance.throughput import ThroughputResult, measure_throughput
from lpx.bench.performance.trtexec_metrics import SECONDS, LikeTrtexec, Release, like_trtexec
from lpx.card import ModelCard
from lpx.engines.base import Engine, Faces
from lpx.machine.conditions import Conditions, read_conditions
from lpx.machine.energy_sources import EnergySource, Unavailable
from lpx.machine.nvml import open_nvml

BATCHES = (1, 8)
Tell = Callable[[float], None]
"""Is told the share done, in [0, 1]."""
Pixels = Callable[[int], Faces]
"""Gives uint8 RGB [B, S, S, 3] for a batch size B."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class CostPlan:
    """What to measure.

    Attributes:
        batches: Batch sizes of the latency, ascending; the first is that of all else.
        latency_seconds: Per engine and batch size; 0 leaves out all but energy.
        in_flight: Batches at work at a time for throughput; 0 leaves it out.
        like: Release of trtexec in whose terms to put latency; None leaves that out.
        energy_seconds: Length of a window of energy; 0 leaves energy out.
    """

    batches: tuple[int, ...] = BATCHES
    latency_seconds: float = 2.0
    in_flight: int = 0
    like: Release | None = None
    energy_seconds: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        # A frozen instance is changed through its base class only.
        object.__setattr__(self, "batches", tuple(sorted(set(self.batches))))


DEFAULT_COSTS = CostPlan()


@dataclass(frozen=True)
class Speed:
    """How the time of an engine compares with another's at one batch size."""

    batch: int
    against: str
    found: Comparison


@dataclass(frozen=True)
class PatchCost:
    """Time of a call that scores one crop of the size of the receptive field.

    Attributes:
        size_px: Side of the crop.
        grid: Units (h, w) that are computed for it; more than one where the network pads.
        iterations: Calls measured.
        p50_us: Median.
        interval_us: Its 95 % interval; None for an end that so few calls cannot bound.
    """

    size_px: int
    grid: tuple[int, int]
    iterations: int
    p50_us: float
    interval_us: tuple[float | None, float | None]


@dataclass(frozen=True)
class Costs:
    """What was measured; each by the engine's name, the reference's where that was measured too.

    Attributes:
        latency: One result per batch size.
        times_ms: Every call's time, per (engine, batch size).
        speed: Of candidates: against the reference, and against the fastest float candidate.
        throughput: With several batches in flight; of candidates.
        like: In trtexec's terms; of candidates.
        single_patch: Of candidates.
        energy: At the first batch size.
        conditions: The machine before and after latency was measured.
        failed: Candidates that failed on the way, and are in nothing that was measured later.
    """

    latency: dict[str, tuple[LatencyResult, ...]]
    times_ms: dict[tuple[str, int], NDArray[np.float64]] = field(default_factory=dict)
    speed: dict[str, tuple[Speed, ...]] = field(default_factory=dict)
    throughput: dict[str, ThroughputResult | Unavailable] = field(default_factory=dict)
    like: dict[str, LikeTrtexec | Unavailable] = field(default_factory=dict)
    single_patch: dict[str, PatchCost | Unavailable] = field(default_factory=dict)
    energy: dict[str, EnergyResult | Unavailable] = field(default_factory=dict)
    conditions: tuple[Conditions, Conditions] | None = None
    failed: tuple[Failure, ...] = ()


def measure_costs(
    engines: Mapping[str, Engine],
    candidates: Mapping[str, Candidate],
    pixels: Pixels,
    card: ModelCard,
    plan: CostPlan,
    sources: Mapping[str, EnergySource | Unavailable],
    *,
    timing: Tell | None = None,
    energy: Tell | None = None,
) -> Costs:
    """Measure what a plan asks for.

    Args:
        engines: That scored every face, the reference too.
        candidates: By name; those that are not in `engines` are left out.
        pixels: The faces to repeat.
        card: Grid and receptive field.
        plan: What to measure.
        sources: What measures each engine's energy.
        timing: Told how far all but energy is.
        energy: Told how far energy is.

    Raises:
        Exception: What the reference raised; a candidate's error is noted.
    """
    failed: list[Failure] = []
    costs = Costs(latency={name: () for name in engines})
    if plan.latency_seconds > 0:
        units = card.grid[0] * card.grid[1]
        gpu = open_nvml()
        before = read_conditions(nvml=gpu)
        steps = _Steps(len(plan.batches) + 1 + bool(plan.in_flight) + bool(plan.like), timing)
        samples = _sweep(engines, pixels, plan, failed, steps)
        after = read_conditions(nvml=gpu)
        costs = replace(
            summarised(samples, _precisions(candidates), units), conditions=(before, after)
        )
        costs = _add_others(costs, _left(candidates, engines, failed), pixels, card, plan, steps)
    if plan.energy_seconds > 0:
        costs = replace(costs, energy=_energy(engines, pixels, card, plan, sources, failed, energy))
    return replace(costs, failed=tuple(failed))


def summarised(
    samples: Mapping[str, Mapping[int, Samples]], precisions: Mapping[str, str], units: int
) -> Costs:
    """Latency and speed of timed calls.

    Args:
        samples: Per engine, the reference too, and batch size.
        precisions: Of the candidates.
        units: Classification units per face.
    """
    return Costs(
        latency={
            name: tuple(summarise(s, batch, units) for batch, s in by_batch.items())
            for name, by_batch in samples.items()
        },
        times_ms={
            (name, batch): s.times_ms
            for name, by_batch in samples.items()
            for batch, s in by_batch.items()
        },
        speed=judge_speed(samples, precisions),
    )


def judge_speed(
    samples: Mapping[str, Mapping[int, Samples]], precisions: Mapping[str, str]
) -> dict[str, tuple[Speed, ...]]:
    """Compare each candidate with the reference, and with the fastest float one of several.

    Args:
        samples: Per engine and batch size, of calls that took turns.
        precisions: Of the candidates.
    """
    found: dict[str, list[Speed]] = {name: [] for name in samples if name in precisions}
    for batch in dict.fromkeys(b for by_batch in samples.values() for b in by_batch):
        timed = {name: s[batch] for name, s in samples.items() if batch in s}
        rivals = [REFERENCE] if REFERENCE in timed else []
        floats = [n for n in timed if precisions.get(n, "int8") != "int8"]
        if floats:
            rivals.append(min(floats, key=lambda n: float(np.median(timed[n].times_ms))))
        for name in found.keys() & timed.keys():
            found[name] += [
                Speed(batch, rival, compare_speed(timed[name], timed[rival]))
                for rival in rivals
                if rival != name
            ]
    return {name: tuple(speeds) for name, speeds in found.items()}


def energy_seconds(engines: int, window_seconds: float) -> float:
    """How long measuring the energy of some engines takes, s."""
    return engines * WINDOWS * (window_seconds + _idle_seconds(window_seconds))


class _Steps:
    """Tells how far all steps are, by how far each is."""

    def __init__(self, count: int, tell: Tell | None) -> None:
        self._count, self._tell, self._done = count, tell, 0

    def share(self, share: float) -> None:
        """Of the step at hand."""
        if self._tell is not None:
            # A step's own last report must not say that all is done.
            self._tell((self._done + min(share, 0.99)) / self._count)

    def end(self) -> None:
        """The step at hand is done."""
        self._done += 1
        if self._tell is not None:
            self._tell(self._done / self._count)


def _sweep(
    engines: Mapping[str, Engine],
    pixels: Pixels,
    plan: CostPlan,
    failed: list[Failure],
    steps: _Steps,
) -> dict[str, dict[int, Samples]]:
    """Time all engines at each batch size; one that fails is timed no further."""
    found: dict[str, dict[int, Samples]] = {name: {} for name in engines}
    for batch in plan.batches:
        faces = pixels(batch)

        def timed(left: dict[str, Engine], faces: Faces = faces) -> dict[str, Samples]:
            return sample(left, faces, plan.latency_seconds, steps.share)

        for name, samples in _surviving(timed, engines, faces, "timing", failed).items():
            found[name][batch] = samples
        steps.end()
    return found


def _surviving(
    work: Callable[[dict[str, Engine]], _T],
    engines: Mapping[str, Engine],
    faces: Faces,
    during: str,
    failed: list[Failure],
) -> _T:
    """Work on the engines that have not failed; where one does, without it again."""
    while True:
        left = _left(engines, engines, failed)
        try:
            return work(left)
        except Exception:
            broken = _broken(left, faces, during)
            if not broken:
                raise
            failed += broken


def _broken(engines: Mapping[str, Engine], faces: Faces, during: str) -> list[Failure]:
    """The candidates that cannot score a batch; what the reference raises is raised."""
    errors = {name: _error(engine, faces) for name, engine in engines.items()}
    if (error := errors.pop(REFERENCE, None)) is not None:
        raise error
    return [
        Failure(name, during, f"{said(error)} (batch {len(faces)})")
        for name, error in errors.items()
        if error is not None
    ]


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


def _precisions(candidates: Mapping[str, Candidate]) -> dict[str, str]:
    return {name: candidate.manifest.precision for name, candidate in candidates.items()}


def _add_others(
    costs: Costs,
    candidates: Mapping[str, Candidate],
    pixels: Pixels,
    card: ModelCard,
    plan: CostPlan,
    steps: _Steps,
) -> Costs:
    """Add what is measured of each candidate on its own."""
    faces = pixels(plan.batches[0])
    patches = _patches(candidates, pixels(1), card, plan.latency_seconds, steps.share)
    steps.end()
    costs = replace(costs, single_patch=patches)
    if plan.in_flight:
        costs = replace(
            costs,
            throughput={
                name: _or_why(partial(_throughput, candidate, faces, plan))
                for name, candidate in candidates.items()
            },
        )
        steps.end()
    if release := plan.like:
        costs = replace(
            costs,
            like={
                name: _or_why(partial(_like, candidate, faces, release))
                for name, candidate in candidates.items()
            },
        )
        steps.end()
    return costs


def _or_why(measured: Callable[[], _T]) -> _T | Unavailable:
    """A figure, or what its measuring raised: one that fails takes no other with it."""
    try:
        return measured()
    except Exception as error:
        return Unavailable(said(error))


def _throughput(candidate: Candidate, faces: Faces, plan: CostPlan) -> ThroughputResult:
    opened = partial(candidate.opened, True)
    return measure_throughput(opened, faces, plan.in_flight, plan.latency_seconds)


def _like(candidate: Candidate, faces: Faces, release: Release) -> LikeTrtexec:
    name = candidate.manifest.name
    with candidate.opened(release == 11) as engine:
        # A tenth more, so that calls that end early do not fall short of trtexec's time.
        return like_trtexec(sample({name: engine}, faces, 1.1 * SECONDS)[name], release)


def _patches(
    candidates: Mapping[str, Candidate], face: Faces, card: ModelCard, seconds: float, tell: Tell
) -> dict[str, PatchCost | Unavailable]:
    """Time one receptive field alone, in the engines that are graphs, taking turns."""
    found: dict[str, PatchCost | Unavailable] = {}
    opened: dict[str, SinglePatch] = {}
    with ExitStack() as stack:
        for name, candidate in candidates.items():
            if candidate.graph is None:
                found[name] = Unavailable("its engine is built for whole faces")
                continue
            try:
                opened[name] = open_single_patch(candidate.graph, card)
            except Exception as error:  # a graph from elsewhere may be of any form
                found[name] = Unavailable(said(error))
            else:
                stack.enter_context(closing(opened[name].engine))
        if not opened:
            return found
        size = next(iter(opened.values())).size
        start = (face.shape[1] - size) // 2
        crop = np.ascontiguousarray(face[:, start : start + size, start : start + size])
        engines: dict[str, Engine] = {name: patch.engine for name, patch in opened.items()}
        timed = sample(engines, crop, seconds, tell)
    return found | {name: _patch_cost(patch, timed[name]) for name, patch in opened.items()}


def _patch_cost(patch: SinglePatch, samples: Samples) -> PatchCost:
    times_us = 1e3 * np.sort(samples.times_ms)
    return PatchCost(
        patch.size,
        patch.grid,
        len(times_us),
        float(np.median(times_us)),
        percentile_interval(times_us, 50),
    )


def _energy(
    engines: Mapping[str, Engine],
    pixels: Pixels,
    card: ModelCard,
    plan: CostPlan,
    sources: Mapping[str, EnergySource | Unavailable],
    failed: list[Failure],
    tell: Tell | None,
) -> dict[str, EnergyResult | Unavailable]:
    faces = pixels(plan.batches[0])
    units = card.grid[0] * card.grid[1]

    def measured(left: dict[str, Engine]) -> dict[str, EnergyResult | Unavailable]:
        return measure_energy(
            left,
            sources,
            faces,
            units,
            window_seconds=plan.energy_seconds,
            idle_seconds=_idle_seconds(plan.energy_seconds),
            progress=tell,
        )

    return _surviving(measured, engines, faces, "measuring energy", failed)


def _idle_seconds(window_seconds: float) -> float:
    return window_seconds * IDLE_SECONDS / WINDOW_SECONDS
