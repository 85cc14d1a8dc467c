"""Latency of any precision plan, predicted from profiles of a few plans.

A plan's time is the sum of its layers' times, each in float or in INT8, and of the conversions
wherever a tensor changes type. Which these are follows from the plan's placement (`Network`), and
what each takes from profiles: of the float graph, of the graph with every group in INT8, and of
four plans in which pairs of groups take turns, so that most tensors change type in one of them.

A profile slows a graph down, so its sums are matched with calls that are timed without one: one
factor for layers in float, one for those in INT8, one for conversions.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnxruntime

from lpx.arguments import check_at_least
from lpx.bench.performance.latency import TIMING_LIMITS, Clock, Samples, TimingLimits, sample
from lpx.engines.base import Faces
from lpx.engines.build import placement_of, style_of
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.errors import LpxError
from lpx.graph.layers import read_named
from lpx.graph.model_io import serialise
from lpx.graph.qdq.insert_qdq import insert_qdq
from lpx.schema import SchemaError, in_range, read_record
from lpx.search.as_run import AsRun, Key, Network
from lpx.search.profile import UNDISTURBED, GraphProfile, profile_graphs
from lpx.search.subject import Subject

FORMAT = 1
FLOAT, INT8 = "float", "int8"
# Pairs of groups take turns: ONNX Runtime would quantise a float layer between two INT8 ones.
_RUN = 2


@dataclass(frozen=True)
class LayerCost:
    """Time of a layer for a batch, ms.

    Attributes:
        float_ms: In float; 0 if it is computed together with another layer.
        int8_ms: In INT8; None if no plan computes it in INT8.
    """

    float_ms: float
    int8_ms: float | None


@dataclass(frozen=True)
class Measured:
    """A plan that was timed.

    Attributes:
        int8: Names of the groups in INT8.
        ms: Time of an undisturbed call, ms per face: see `lpx.search.profile.UNDISTURBED`.
        predicted_ms: Time that the model predicts, ms per face.
    """

    int8: tuple[str, ...]
    ms: float
    predicted_ms: float


@dataclass(frozen=True)
class Costs:
    """What plans are predicted from, as plain values.

    Attributes:
        format: Version of this record.
        graph_sha256: SHA-256 of the float graph.
        source: Where the figures come from, for people.
        batch: Faces per call.
        layers: Time of each layer.
        into: Time to quantise each tensor, ms for a batch.
        out: Time to convert each tensor back to float, ms for a batch.
        requantises: ONNX Runtime computes float layers between INT8 ones in INT8.
        measured: Plans that the figures come from: all float, all INT8, and mixed ones.
    """

    format: int
    graph_sha256: str
    source: str
    batch: int
    layers: dict[str, LayerCost]
    into: dict[str, float]
    out: dict[str, float]
    requantises: bool
    measured: tuple[Measured, ...] = ()


@dataclass(frozen=True)
class GroupCost:
    """Time of a group with the layers behind it, up to the next convolution; ms per face.

    Attributes:
        name: Name of the group; "" for the layers of no group.
        float_ms: With all groups in float.
        int8_ms: With all groups in INT8, without conversions.
    """

    name: str
    float_ms: float
    int8_ms: float

    @property
    def saving_ms(self) -> float:
        """Time that INT8 saves among INT8 neighbours."""
        return self.float_ms - self.int8_ms


@dataclass(frozen=True)
class TimingPlan:
    """How long to measure.

    Attributes:
        rounds: Turns of each graph under the profiler.
        calls: Timed calls in such a turn.
        seconds: Time to measure each graph for without the profiler, s.
        limits: Lengths of the warm-up and of turns without the profiler.
        threads: Threads of a call; 0 for as many as ONNX Runtime chooses, as in engines.
        clock: Clock of calls without the profiler, s. On a busy machine `time.process_time` leaves
            out other programs if there is one thread.
    """

    rounds: int = 20
    calls: int = 3
    seconds: float = 2.0
    limits: TimingLimits = TIMING_LIMITS
    threads: int = 0
    clock: Clock = time.perf_counter


DEFAULT_TIMING = TimingPlan()


class LatencyModel:
    """Predict the latency of plans.

    Predictions for all groups in float, and for all in INT8, are what was measured.

    Args:
        subject: The model.
        costs: Costs that were measured with it.

    Raises:
        LpxError: The costs belong to another model.
    """

    def __init__(self, subject: Subject, costs: Costs) -> None:
        if costs.graph_sha256 != _digest(subject):
            raise LpxError(
                "these latencies were measured with another model",
                "its layers take other times",
                "measure them again with this model",
            )
        self.subject, self.costs = subject, costs
        self._network = Network(subject.graph)
        self._known: dict[frozenset[str], float] = {}

    @property
    def source(self) -> str:
        """Where the figures come from, for people."""
        return self.costs.source

    def predict(self, int8: Collection[str]) -> float:
        """Return the latency of a plan, ms per face.

        Args:
            int8: Names of the groups in INT8; all others are in float.

        Raises:
            LpxError: There is no such group.
        """
        chosen = frozenset(int8)
        if chosen not in self._known:
            run = _as_run(self.subject, self._network, chosen, requantises=self.costs.requantises)
            parts = _parts(self.costs, run)
            self._known[chosen] = sum(parts.values()) / self.costs.batch
        return self._known[chosen]

    def saving(self, group: str) -> float:
        """Return what a group in INT8 saves among INT8 neighbours, ms per face.

        Raises:
            LpxError: There is no such group.
        """
        _check_groups(self.subject, [group])
        by_name = {cost.name: cost for cost in self.groups()}
        return by_name[group].saving_ms

    def groups(self) -> tuple[GroupCost, ...]:
        """Return the times of all groups, in graph order, and last those of all other layers."""
        names = [group.name for group in self.subject.groups]
        group_of = {}
        for group in self.subject.groups:
            group_of.update(dict.fromkeys(group.members, group.name))
        all_int8 = _as_run(self.subject, self._network, names, requantises=self.costs.requantises)
        integer = set(all_int8.integer)
        floats: defaultdict[str, float] = defaultdict(float)
        int8: defaultdict[str, float] = defaultdict(float)
        for layer, cost in self.costs.layers.items():
            name = group_of.get(self._network.owner.get(layer, ""), "")
            floats[name] += cost.float_ms
            int8[name] += _time(cost, integer=layer in integer)
        batch = self.costs.batch
        return tuple(GroupCost(n, floats[n] / batch, int8[n] / batch) for n in [*names, ""])

    def to_dict(self) -> dict[str, Any]:
        """Return the costs as plain values."""
        return asdict(self.costs)

    @classmethod
    def from_dict(cls, subject: Subject, values: object) -> LatencyModel:
        """Read what `to_dict` returned.

        Raises:
            LpxError: The values are damaged, or belong to another model.
        """
        try:
            costs = read_record(Costs, values)
            if costs.format != FORMAT:
                raise SchemaError(f"format {costs.format}, not {FORMAT}")
            in_range(costs.batch, 1, np.inf, "batch")
            if costs.graph_sha256 == _digest(subject):
                _check_complete(costs, Network(subject.graph))
        except SchemaError as error:
            raise LpxError(
                "the stored latencies cannot be read",
                str(error),
                "measure them again",
                code="damaged",
            ) from None
        return cls(subject, costs)


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
    graphs = {name: lower(subject, int8) for name, int8 in plans.items()}
    profiles = profile_graphs(
        graphs, faces, rounds=timing.rounds, calls=timing.calls, threads=timing.threads
    )
    walls = _walls(graphs, faces, timing)
    plural = "s" * (len(faces) != 1)
    source = (
        f"ONNX Runtime {onnxruntime.__version__}, per-node profiles of {len(plans)} plans, "
        f"{timing.rounds} rounds, this processor, {len(faces)} face{plural} per call"
    )
    if timing.threads:
        source += f", {timing.threads} thread" + "s" * (timing.threads != 1)
    return fit_costs(subject, plans, profiles, walls, batch=len(faces), source=source)


def lower(subject: Subject, int8: Collection[str]) -> bytes:
    """Return the graph of a plan for ONNX Runtime, as `make_graph` makes it; ONNX.

    Args:
        subject: The model.
        int8: Names of the groups in INT8; with none of them this is the float graph.

    Raises:
        LpxError: There is no such group.
    """
    _check_groups(subject, int8)
    if not int8:
        return subject.data
    graph = read_named(subject.data, "the exported model")
    weights = subject.request.weights
    placement = placement_of(
        graph, subject.request.target, subject.dialect, weights.min_channels, subject.plan(int8)
    )
    insert_qdq(graph, placement, subject.ranges, style_of(subject.dialect), weights)
    return serialise(graph)


def measured_plans(subject: Subject) -> dict[str, tuple[str, ...]]:
    """Return the plans that costs are measured with: names of the groups in INT8, by plan."""
    names = tuple(group.name for group in subject.groups)
    plans: dict[str, tuple[str, ...]] = {FLOAT: (), INT8: names}
    for phase in range(2 * _RUN):
        chosen = []
        for index, name in enumerate(names):
            if (index + phase) // _RUN % 2:
                chosen.append(name)
        # A model of few groups has fewer different plans.
        if tuple(chosen) not in plans.values():
            plans[f"mixed {phase}"] = tuple(chosen)
    return plans


def _walls(graphs: Mapping[str, bytes], faces: Faces, timing: TimingPlan) -> dict[str, float]:
    """Return the time of a call of each graph without a profiler, ms."""
    engines = {}
    try:
        for name, data in graphs.items():
            engines[name] = OnnxRuntimeEngine(data, faces.shape[1], threads=timing.threads)
        samples = sample(engines, faces, timing.seconds, limits=timing.limits, clock=timing.clock)
    finally:
        for engine in engines.values():
            engine.close()
    return {name: undisturbed_ms(one) for name, one in samples.items()}


def undisturbed_ms(samples: Samples) -> float:
    """Return the time of a call that no other program disturbs, ms: see `UNDISTURBED`."""
    return float(np.percentile(samples.times_ms, UNDISTURBED))


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
    requantises = _requantises(subject, network, plans, profiles)
    runs = {}
    for name, int8 in plans.items():
        runs[name] = _as_run(subject, network, int8, requantises=requantises)
    raw = Costs(
        format=FORMAT,
        graph_sha256=_digest(subject),
        source=source,
        batch=batch,
        layers=_layers(network, times, runs),
        into=_conversions(network, times, runs, "into"),
        out=_conversions(network, times, runs, "out"),
        requantises=requantises,
    )
    costs = _scaled(raw, *_factors(raw, runs, walls))
    measured = []
    for name, int8 in plans.items():
        predicted = sum(_parts(costs, runs[name]).values())
        measured.append(Measured(int8, walls[name] / batch, predicted / batch))
    values = {**vars(costs), "measured": tuple(measured)}
    return LatencyModel(subject, Costs(**values))


def _requantises(
    subject: Subject,
    network: Network,
    plans: Mapping[str, tuple[str, ...]],
    profiles: Mapping[str, GraphProfile],
) -> bool:
    """Return True if float layers between INT8 ones were run in integers."""
    for name, int8 in plans.items():
        own = _as_run(subject, network, int8, requantises=False)
        if network.integer_nodes(profiles[name]) - set(own.integer):
            return True
    return False


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
    kind: str,
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


def _factors(
    raw: Costs, runs: Mapping[str, AsRun], walls: Mapping[str, float]
) -> tuple[float, float, float]:
    """Return factors of times in float, in INT8 and of conversions.

    The first two make the all-float and the all-INT8 graph exact; the third is the least-squares
    fit to the mixed ones.
    """
    floats = _parts(raw, runs[FLOAT])["float"]
    of_float = walls[FLOAT] / floats
    whole = _parts(raw, runs[INT8])
    left = walls[INT8] - of_float * whole["float"]
    if whole["int8"] <= 0:
        return of_float, 1.0, 1.0
    slopes, rests = [], []
    for name, run in runs.items():
        if name in (FLOAT, INT8):
            continue
        parts = _parts(raw, run)
        share = parts["int8"] / whole["int8"]
        slopes.append(parts["conversions"] - share * whole["conversions"])
        rests.append(walls[name] - of_float * parts["float"] - share * left)
    square = float(np.dot(slopes, slopes))
    of_conversions = of_float
    if square > 0:
        of_conversions = float(np.dot(slopes, rests)) / square
    # Neither conversions nor INT8 layers take less than no time, whatever the noise.
    most = np.inf
    if whole["conversions"] > 0:
        most = max(left, 0.0) / whole["conversions"]
    of_conversions = min(max(of_conversions, 0.0), most)
    of_int8 = (left - of_conversions * whole["conversions"]) / whole["int8"]
    return of_float, of_int8, of_conversions


def _scaled(raw: Costs, of_float: float, of_int8: float, of_conversions: float) -> Costs:
    layers = {}
    for name, cost in raw.layers.items():
        int8 = None
        if cost.int8_ms is not None:
            int8 = cost.int8_ms * of_int8
        layers[name] = LayerCost(cost.float_ms * of_float, int8)
    into = {name: ms * of_conversions for name, ms in raw.into.items()}
    out = {name: ms * of_conversions for name, ms in raw.out.items()}
    return Costs(**{**vars(raw), "layers": layers, "into": into, "out": out})


def _parts(costs: Costs, run: AsRun) -> dict[str, float]:
    """Return the time of a batch in float layers, in INT8 layers and in conversions, ms."""
    integer = set(run.integer)
    parts = {"float": 0.0, "int8": 0.0, "conversions": 0.0}
    for name, cost in costs.layers.items():
        kind = "int8" if name in integer and cost.int8_ms is not None else "float"
        parts[kind] += _time(cost, integer=kind == "int8")
    parts["conversions"] += sum(costs.into[name] for name in run.into)
    parts["conversions"] += sum(costs.out[name] for name in run.out)
    return parts


def _time(cost: LayerCost, *, integer: bool) -> float:
    if integer and cost.int8_ms is not None:
        return cost.int8_ms
    return cost.float_ms


def _as_run(
    subject: Subject, network: Network, int8: Collection[str], *, requantises: bool
) -> AsRun:
    _check_groups(subject, int8)
    placement = placement_of(
        subject.graph,
        subject.request.target,
        subject.dialect,
        subject.request.weights.min_channels,
        subject.plan(int8),
    )
    return network.as_run(placement, requantises=requantises)


def _check_groups(subject: Subject, names: Collection[str]) -> None:
    known = {group.name for group in subject.groups}
    unknown = sorted(set(names) - known)
    if unknown:
        raise LpxError(
            f"no group of layers is named {unknown[0]}",
            f"the model has {len(known)} groups, such as {min(known)}",
            "use the names of `Subject.groups`",
            code="not-found",
        )


def _check_complete(costs: Costs, network: Network) -> None:
    """Check that no layer or tensor of a model lacks a time.

    Raises:
        SchemaError: One does.
    """
    if missing := set(network.layers) - costs.layers.keys():
        raise SchemaError(f"no time for layer {min(missing)}")
    for times in (costs.into, costs.out):
        if missing := network.sizes.keys() - times.keys():
            raise SchemaError(f"no time for tensor {min(missing)}")


def _digest(subject: Subject) -> str:
    return hashlib.sha256(subject.data).hexdigest()
