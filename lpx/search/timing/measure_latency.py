"""Measure what plans cost on this machine: profiles of a few plans, matched with whole calls.

Profiles are of the float graph, of the graph with every group in INT8, and of six plans in which
single groups or pairs take turns, so that most tensors change type in one of them. A profile slows
a graph down, so its sums are matched with calls that are timed without one: one factor for layers
in float, one for those in INT8, one for conversions.

Only ONNX Runtime's CPU provider is profiled. For TensorRT, times of layers would come from its
IProfiler, and `Network.attribute` would need a counterpart that reads its layer names.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import onnxruntime

from lpx.arguments import check_at_least
from lpx.bench.performance.latency import Clock, Samples, TimingLimits, sample
from lpx.engines.base import Faces
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.errors import LpxError
from lpx.search.subject import Subject
from lpx.search.timing.as_run import AsRun, Key, Kind, Network
from lpx.search.timing.latency import (
    FORMAT,
    Costs,
    LatencyModel,
    LayerCost,
    Measured,
    as_run,
    parts,
)
from lpx.search.timing.profile import UNDISTURBED, GraphProfile, profile_graphs

FLOAT, INT8 = "float", "int8"
# Groups in a row with the same precision, in mixed plans. With one, every tensor changes type; with
# two, layers have a neighbour of their own type, as in most plans.
_RUNS = (1, 2)
_SHORT_TURNS = TimingLimits(block_seconds=0.03)


@dataclass(frozen=True)
class TimingPlan:
    """How long to measure.

    Attributes:
        rounds: Turns of each graph under the profiler.
        calls: Timed calls in such a turn.
        seconds: Time to measure a graph for without the profiler, s; as long for the float graph
            beside it.
        limits: Lengths of the warm-up and of turns without the profiler.
        threads: Threads of a call; 0 for as many as ONNX Runtime chooses, as in engines.
        clock: Clock of calls without the profiler, s. On a busy machine `time.process_time` leaves
            out other programs if there is one thread.
    """

    rounds: int = 20
    calls: int = 3
    seconds: float = 2.0
    limits: TimingLimits = _SHORT_TURNS
    threads: int = 0
    clock: Clock = time.perf_counter


DEFAULT_TIMING = TimingPlan()


def measure_costs(
    subject: Subject, faces: Faces, timing: TimingPlan = DEFAULT_TIMING
) -> LatencyModel:
    """Measure on this machine what plans cost in ONNX Runtime.

    Args:
        subject: The model, for target "onnxruntime".
        faces: uint8 RGB [B, S, S, 3], the batch to repeat.
        timing: How long to measure.

    Raises:
        LpxError: The target is another one, or ONNX Runtime cannot run a graph.
    """
    target = subject.request.target
    if target != "onnxruntime":
        raise LpxError(
            f"plans for target {target} cannot be timed layer by layer",
            "lpx profiles the nodes of ONNX Runtime's CPU provider only",
            'use `target="onnxruntime"`, or compare finished engines with `lpx bench`',
            code="unsupported",
        )
    check_at_least("rounds", timing.rounds, 1)
    check_at_least("calls", timing.calls, 1)
    check_at_least("threads", timing.threads, 0)
    plans = measured_plans(subject)
    graphs = {name: subject.lowered(int8) for name, int8 in plans.items()}
    profiles = profile_graphs(
        graphs, faces, rounds=timing.rounds, calls=timing.calls, threads=timing.threads
    )
    walls = paired_ms(graphs, faces, timing)
    plural = "s" * (len(faces) != 1)
    source = (
        f"ONNX Runtime {onnxruntime.__version__}, per-node profiles of {len(plans)} plans, "
        f"{timing.rounds} rounds, this processor, {len(faces)} face{plural} per call"
    )
    if timing.threads:
        source += f", {timing.threads} thread" + "s" * (timing.threads != 1)
    return fit_costs(subject, plans, profiles, walls, batch=len(faces), source=source)


def measured_plans(subject: Subject) -> dict[str, tuple[str, ...]]:
    """Return the plans that costs are measured with: names of the groups in INT8, by plan."""
    names = tuple(group.name for group in subject.groups)
    plans: dict[str, tuple[str, ...]] = {FLOAT: (), INT8: names}
    for run in _RUNS:
        for phase in range(2 * run):
            chosen = []
            for index, name in enumerate(names):
                if (index + phase) // run % 2:
                    chosen.append(name)
            # A model of few groups has fewer different plans.
            if tuple(chosen) not in plans.values():
                plans[f"mixed {run}.{phase}"] = tuple(chosen)
    return plans


def paired_ms(
    graphs: Mapping[str, bytes], faces: Faces, timing: TimingPlan = DEFAULT_TIMING
) -> dict[str, float]:
    """Return the time of a call of each graph, ms, without a profiler.

    Each takes turns with the float graph alone, in short turns, and is compared with it within each
    round: other programs on the machine may change its speed twofold from one second to the next.

    Args:
        graphs: ONNX by name; `FLOAT` is the float graph.
        faces: uint8 RGB [B, S, S, 3], the batch to repeat.
        timing: How long to measure.
    """
    reference = OnnxRuntimeEngine(graphs[FLOAT], faces.shape[1], threads=timing.threads)
    ratios = {FLOAT: 1.0}
    calls = []
    with reference:
        for name, data in graphs.items():
            if name == FLOAT:
                continue
            with OnnxRuntimeEngine(data, faces.shape[1], threads=timing.threads) as engine:
                pair = {FLOAT: reference, name: engine}
                limits, clock = timing.limits, timing.clock
                samples = sample(pair, faces, timing.seconds, limits=limits, clock=clock)
            calls.append(samples[FLOAT].times_ms)
            ratios[name] = _ratio(samples[name], samples[FLOAT])
    typical = float(np.percentile(np.concatenate(calls), UNDISTURBED))
    return {name: ratio * typical for name, ratio in ratios.items()}


def _ratio(one: Samples, other: Samples) -> float:
    """Return the median over rounds of the ratio of two engines' median times."""
    before = _round_medians(other)
    ratios = []
    for turn, median in _round_medians(one).items():
        if turn in before:
            ratios.append(median / before[turn])
    return float(np.median(ratios))


def _round_medians(samples: Samples) -> dict[int, float]:
    medians = {}
    for turn in np.unique(samples.rounds):
        medians[int(turn)] = float(np.median(samples.times_ms[samples.rounds == turn]))
    return medians


def fit_costs(
    subject: Subject,
    plans: Mapping[str, tuple[str, ...]],
    profiles: Mapping[str, GraphProfile],
    walls: Mapping[str, float],
    *,
    batch: int,
    source: str,
) -> LatencyModel:
    """Derive costs from profiles, and match them with the times of whole calls.

    Args:
        subject: The model.
        plans: Names of the groups in INT8 for each measured plan: `FLOAT`, `INT8` and others.
        profiles: Profile of each plan.
        walls: Time of a call of each plan without a profiler, ms.
        batch: Faces per call.
        source: Where the figures come from, for people.
    """
    network = Network(subject.graph)
    times = {name: network.attribute(profile) for name, profile in profiles.items()}
    runs = {name: as_run(subject, network, int8) for name, int8 in plans.items()}
    raw = Costs(
        format=FORMAT,
        graph_sha256=subject.float_digest,
        source=source,
        batch=batch,
        layers=_layers(network, times, runs),
        into=_conversions(network, times, runs, "into"),
        out=_conversions(network, times, runs, "out"),
    )
    costs = _scaled(raw, _factors(raw, runs, walls))
    measured = []
    for name, int8 in plans.items():
        predicted = parts(costs, runs[name]).total_ms
        measured.append(Measured(int8, walls[name] / batch, predicted / batch))
    return LatencyModel(subject, replace(costs, measured=tuple(measured)))


def _layers(
    network: Network, times: Mapping[str, Mapping[Key, float]], runs: Mapping[str, AsRun]
) -> dict[str, LayerCost]:
    layers = {}
    for name in network.layers:
        key = Key("layer", name)
        int8: float | None = None
        # From the graph that is all INT8 if the layer is in it.
        for plan in sorted(runs, key=lambda plan: plan != INT8):
            if int8 is None and name in runs[plan].integer:
                int8 = times[plan].get(key, 0.0)
        layers[name] = LayerCost(times[FLOAT].get(key, 0.0), int8)
    # Time that belongs to no layer is part of every plan.
    for key, ms in times[FLOAT].items():
        if key.name not in layers:
            layers[key.name] = LayerCost(ms, None)
    return layers


def _conversions(
    network: Network,
    times: Mapping[str, Mapping[Key, float]],
    runs: Mapping[str, AsRun],
    kind: Kind,
) -> dict[str, float]:
    """Return the time of each tensor's conversion; by its size if no plan converts it."""
    seen: defaultdict[str, list[float]] = defaultdict(list)
    for plan in runs:
        for key, ms in times[plan].items():
            if key.kind == kind:
                seen[key.name].append(ms)
    typical = {name: float(np.median(ms)) for name, ms in seen.items()}
    elements = sum(network.sizes[name] for name in typical)
    rate = sum(typical.values()) / elements if elements else 0.0
    return {name: typical.get(name, rate * size) for name, size in network.sizes.items()}


class _Factors(NamedTuple):
    """Factors from times under the profiler to times without it."""

    floats: float
    int8: float
    conversions: float


def _factors(raw: Costs, runs: Mapping[str, AsRun], walls: Mapping[str, float]) -> _Factors:
    """Match sums of parts with times of calls.

    Two factors make the all-float and the all-INT8 graph exact; the third is the least-squares fit
    to the mixed ones.
    """
    floats = walls[FLOAT] / parts(raw, runs[FLOAT]).float_ms
    whole = parts(raw, runs[INT8])
    left = walls[INT8] - floats * whole.float_ms
    if whole.int8_ms <= 0:
        return _Factors(floats, floats, floats)
    slopes, rests = [], []
    for name, run in runs.items():
        if name in (FLOAT, INT8):
            continue
        mixed = parts(raw, run)
        share = mixed.int8_ms / whole.int8_ms
        slopes.append(mixed.conversion_ms - share * whole.conversion_ms)
        rests.append(walls[name] - floats * mixed.float_ms - share * left)
    square = float(np.dot(slopes, slopes))
    conversions = floats
    if square > 0:
        conversions = float(np.dot(slopes, rests)) / square
    # Neither conversions nor INT8 layers take less than no time, whatever the noise.
    most = np.inf
    if whole.conversion_ms > 0:
        most = max(left, 0.0) / whole.conversion_ms
    conversions = min(max(conversions, 0.0), most)
    return _Factors(floats, (left - conversions * whole.conversion_ms) / whole.int8_ms, conversions)


def _scaled(raw: Costs, factors: _Factors) -> Costs:
    layers = {}
    for name, cost in raw.layers.items():
        int8 = None
        if cost.int8_ms is not None:
            int8 = cost.int8_ms * factors.int8
        layers[name] = LayerCost(cost.float_ms * factors.floats, int8)
    into = {name: ms * factors.conversions for name, ms in raw.into.items()}
    out = {name: ms * factors.conversions for name, ms in raw.out.items()}
    return replace(raw, layers=layers, into=into, out=out)
