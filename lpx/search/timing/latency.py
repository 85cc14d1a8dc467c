"""Latency of any precision plan, predicted from profiles of a few plans.

A plan's time is the sum of its layers' times, each in float or in INT8, and of the conversions
wherever a tensor changes type. Which these are follows from the plan's placement (`Network`), and
what each takes from measurements (`lpx.search.timing.measure_latency`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lpx.errors import LpxError
from lpx.schema import SchemaError, in_range, read_record
from lpx.search.subject import Subject
from lpx.search.timing.as_run import AsRun, Network

FORMAT = 1


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
        ms: Time of an undisturbed call, ms per face: see `lpx.search.timing.profile.UNDISTURBED`.
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
        measured: Plans that the figures come from: all float, all INT8, and mixed ones.
    """

    format: int
    graph_sha256: str
    source: str
    batch: int
    layers: dict[str, LayerCost]
    into: dict[str, float]
    out: dict[str, float]
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


class LatencyModel:
    """Predict the latency of plans.

    Predictions for all groups in float, and for all in INT8, are what was measured.

    Args:
        subject: The model.
        costs: Costs that were measured with it.

    Raises:
        LpxError: The costs belong to another model.
    """

    unit = "ms per face"

    def __init__(self, subject: Subject, costs: Costs) -> None:
        if costs.graph_sha256 != subject.float_digest:
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
            LpxError: A group does not exist.
        """
        chosen = frozenset(int8)
        if chosen not in self._known:
            run = as_run(self.subject, self._network, chosen)
            total = parts(self.costs, run).total_ms
            self._known[chosen] = total / self.costs.batch
        return self._known[chosen]

    def groups(self) -> tuple[GroupCost, ...]:
        """Return the times of all groups, in graph order, and last those of all other layers."""
        names = [group.name for group in self.subject.groups]
        group_of = {}
        for group in self.subject.groups:
            group_of.update(dict.fromkeys(group.members, group.name))
        all_int8 = as_run(self.subject, self._network, names)
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
            if costs.graph_sha256 == subject.float_digest:
                _check_complete(costs, Network(subject.graph))
        except SchemaError as error:
            raise LpxError(
                "the stored latencies cannot be read",
                str(error),
                "measure them again",
                code="damaged",
            ) from None
        return cls(subject, costs)


@dataclass(frozen=True)
class Parts:
    """Parts of the time of a batch, ms.

    Attributes:
        float_ms: Layers in float.
        int8_ms: Layers in INT8.
        conversion_ms: Conversions of tensors.
    """

    float_ms: float
    int8_ms: float
    conversion_ms: float

    @property
    def total_ms(self) -> float:
        """Sum of the parts."""
        return self.float_ms + self.int8_ms + self.conversion_ms


def parts(costs: Costs, run: AsRun) -> Parts:
    """Return the time of a plan, by what it is spent on."""
    integer = set(run.integer)
    float_ms = int8_ms = 0.0
    for name, cost in costs.layers.items():
        if name in integer and cost.int8_ms is not None:
            int8_ms += cost.int8_ms
        else:
            float_ms += cost.float_ms
    conversion_ms = sum(costs.into[name] for name in run.into)
    conversion_ms += sum(costs.out[name] for name in run.out)
    return Parts(float_ms, int8_ms, conversion_ms)


def _time(cost: LayerCost, *, integer: bool) -> float:
    if integer and cost.int8_ms is not None:
        return cost.int8_ms
    return cost.float_ms


def as_run(subject: Subject, network: Network, int8: Collection[str]) -> AsRun:
    """Return what ONNX Runtime makes of a plan.

    Args:
        subject: The model.
        network: Layers of its float graph.
        int8: Names of the groups in INT8.

    Raises:
        LpxError: A group does not exist.
    """
    return network.as_run(subject.placement_of(int8))


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
