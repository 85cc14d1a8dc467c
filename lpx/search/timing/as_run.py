"""What ONNX Runtime makes of a placement: which layers run in integers, where tensors change type.

A layer is a node of the float graph with the activation that is fused into it, named after the
node. Its tensor is the one after the activation.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import onnx_ir as ir

from lpx.graph.activations import is_activation
from lpx.graph.nodes import ACTIVATIONS, COMPUTE, adds_branches, name_of, only_reader, producer_of
from lpx.graph.qdq.integer_region import has_kernel, passes_on
from lpx.graph.qdq.placement import Placement
from lpx.search.timing.profile import GraphProfile, NodeTime

# Operators that ONNX Runtime inserts between types and memory layouts. A Transpose of the model
# itself keeps its name, and is a layer.
_CONVERSIONS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "ReorderInput", "ReorderOutput", "Transpose", "Cast"}
)
# Suffixes of the names that ONNX Runtime gives to nodes that it has replaced.
_REPLACED = re.compile(r"(_token_\d+|_nchwc|_nhwc)+$")

Kind = Literal["layer", "into", "out"]
_ELSEWHERE = "elsewhere"


class Key(NamedTuple):
    """What a part of the time is for.

    Attributes:
        kind: "layer"; "into" for a tensor from float to INT8, "out" for one back to float.
        name: Name of the layer or the tensor.
    """

    kind: Kind
    name: str


@dataclass(frozen=True)
class AsRun:
    """What runs in which type.

    Attributes:
        integer: Layers that are computed in integers.
        floats: All other layers.
        into: Tensors that a float layer computes and INT8 layers read.
        out: Tensors that exist in INT8 and that float layers read.
    """

    integer: tuple[str, ...]
    floats: tuple[str, ...]
    into: tuple[str, ...]
    out: tuple[str, ...]


@dataclass(frozen=True)
class _Layer:
    name: str
    node: ir.Node
    tensors: tuple[ir.Value, ...]
    inputs: tuple[ir.Value, ...]


@dataclass
class Network:
    """Layers of a float graph, in graph order.

    Args:
        model: Graph whose nodes are named; not to be changed afterwards.

    Attributes:
        owner: For each layer, the last convolution or matrix product at or before it; "" for
            layers before the first one.
        sizes: Number of elements for one face of each tensor; 1 for unknown sizes.
    """

    model: ir.Model
    owner: dict[str, str] = field(init=False)
    sizes: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._lead: dict[str, str] = {}
        self._layers: list[_Layer] = []
        self._maker: dict[str, str] = {}
        self._tail: dict[str, str] = {}
        self.owner, self.sizes = {}, {}
        for node in self.model.graph:
            before = producer_of(node.inputs[0]) if node.inputs else None
            if node.op_type in ACTIVATIONS and before is not None and only_reader(node):
                self._lead[name_of(node)] = self._lead[name_of(before)]
            else:
                self._lead[name_of(node)] = name_of(node)
            for value in node.outputs:
                self._maker[str(value.name)] = self._lead[name_of(node)]
                self.sizes[str(value.name)] = _size(value)
        self._order = {name_of(node): i for i, node in enumerate(self.model.graph)}
        for node in self.model.graph:
            if self._lead[name_of(node)] == name_of(node):
                self._add(node)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(layer.name for layer in self._layers)

    def _add(self, node: ir.Node) -> None:
        name = name_of(node)
        tensors = tuple(node.outputs)
        while len(tensors) == 1 and len(readers := tensors[0].consumers()) == 1:
            if self._lead[name_of(readers[0])] != name:
                break
            tensors = tuple(readers[0].outputs)
        inputs = tuple(value for value in node.inputs if is_activation(value))
        self._layers.append(_Layer(name, node, tensors, inputs))
        self._tail[name] = str(tensors[0].name)
        if node.op_type in COMPUTE:
            self.owner[name] = name
            return
        # Of the branches that an Add joins, the one that is computed last.
        owners = [""]
        for value in inputs:
            owners.append(self.owner.get(self._maker.get(str(value.name), ""), ""))
        self.owner[name] = max(owners, key=lambda owner: self._order.get(owner, -1))

    def as_run(self, placement: Placement) -> AsRun:
        """Return what ONNX Runtime makes of a placement.

        Args:
            placement: Placement of pairs in this graph.
        """
        paired = self._quantised(placement)
        chosen = set(placement.convolutions) - placement.stored
        adds = {use[1] for use in placement.uses}
        held: set[str] = set()
        integer: list[str] = []
        floats: list[str] = []
        into: list[str] = []
        for layer in self._layers:
            names = [str(value.name) for value in layer.tensors]
            reads = bool(layer.inputs) and held.issuperset(str(v.name) for v in layer.inputs)
            reads = reads and layer.name not in placement.in_float
            ends = not paired.isdisjoint(names)
            if layer.node.op_type in COMPUTE:
                runs = layer.name in chosen
            elif adds_branches(layer.node):
                runs = layer.name in adds
            else:
                runs = reads and (passes_on(layer.node) or (has_kernel(layer.node) and ends))
            (integer if runs else floats).append(layer.name)
            for name in names:
                if name in paired or (runs and passes_on(layer.node)):
                    held.add(name)
                if name in paired and not runs:
                    into.append(name)
        inside = set(integer)
        out = []
        for layer in self._layers:
            for value in layer.tensors:
                if str(value.name) in held and self._read_as_float(value, inside, placement):
                    out.append(str(value.name))
        return AsRun(tuple(integer), tuple(floats), tuple(into), tuple(out))

    def _quantised(self, placement: Placement) -> set[str]:
        """Return the tensors that are quantised, wherever ONNX Runtime moves the pairs."""
        paired = set(placement.tensors)
        for layer in reversed(self._layers):
            # It moves a QuantizeLinear from after a MaxPool, for example, to before it.
            moves = passes_on(layer.node) and only_reader(layer.node) and len(layer.inputs) == 1
            if moves and not paired.isdisjoint(str(value.name) for value in layer.tensors):
                paired.add(str(layer.inputs[0].name))
        return paired

    def _read_as_float(self, value: ir.Value, integer: set[str], placement: Placement) -> bool:
        for reader in value.consumers():
            name = self._lead[name_of(reader)]
            if name not in integer and name not in placement.in_float:
                return True
        return value.is_graph_output()

    def attribute(self, profile: GraphProfile) -> dict[Key, float]:
        """Return the time of each layer and conversion in a profile, ms; their sum is its total.

        Time that belongs to no layer is that of a layer "elsewhere".
        """
        times: defaultdict[Key, float] = defaultdict(float)
        chains = _Chains(profile.nodes, {n.name for n in profile.nodes if self._converts(n)})
        makers: dict[str, str] = {}
        for node in profile.nodes:
            if self._converts(node):
                continue
            for output in node.outputs:
                makers[output] = self._layer_of(node)
        for node in profile.nodes:
            if not self._converts(node):
                times[Key("layer", self._layer_of(node))] += node.ms
                continue
            source, *after = chains.tensors(node)
            maker = makers.get(source, _ELSEWHERE)
            # A kernel that computes several layers is named after the first one. What is behind it
            # keeps the name of its result.
            for name in (source, *after):
                if name in self._maker:
                    maker = self._maker[name]
                    break
            kind = chains.kind(node)
            name = maker
            if kind != "layer":
                name = self._tail.get(maker, source)
            times[Key(kind, name)] += node.ms
        return dict(times)

    def integer_nodes(self, profile: GraphProfile) -> set[str]:
        """Return the convolutions that a profile shows in integers."""
        names = set()
        for node in profile.nodes:
            if node.op_type == "QLinearConv":
                names.add(self._layer_of(node))
        return names

    def _converts(self, node: NodeTime) -> bool:
        return node.op_type in _CONVERSIONS and node.name not in self._lead

    def _layer_of(self, node: NodeTime) -> str:
        base = _REPLACED.sub("", node.name)
        if base in self._lead:
            return self._lead[base]
        # A convolution in blocks of channels is named after its result.
        for name in (base, *node.outputs, *node.inputs):
            if name in self._maker:
                return self._maker[name]
        return _ELSEWHERE


class _Chains:
    """Conversions between two layers, along the tensors of an optimised graph."""

    def __init__(self, nodes: Sequence[NodeTime], conversions: set[str]) -> None:
        self._made_by: Mapping[str, NodeTime] = {}
        self._read_by: defaultdict[str, list[NodeTime]] = defaultdict(list)
        made_by = {}
        for node in nodes:
            if node.name in conversions:
                made_by[node.outputs[0]] = node
                self._read_by[node.inputs[0]].append(node)
        self._made_by = made_by

    def tensors(self, node: NodeTime) -> list[str]:
        """Return the tensor that the chain before a node begins with, and the chain's results."""
        chain = self._upstream(node)[::-1]
        return [chain[0].inputs[0], *(before.outputs[0] for before in chain)]

    def kind(self, node: NodeTime) -> Kind:
        """Return the direction that a conversion serves; "layer" if no type changes."""
        if node.op_type == "DequantizeLinear":
            return "out"
        if node.op_type == "QuantizeLinear":
            return "into"
        # The nearest change of type before it counts, then any after it.
        for before in self._upstream(node):
            if before.op_type == "DequantizeLinear":
                return "out"
            if before.op_type == "QuantizeLinear":
                break
        after = self._downstream(node)
        if "DequantizeLinear" in after and "QuantizeLinear" not in after:
            return "out"
        upstream = {before.op_type for before in self._upstream(node)}
        if "QuantizeLinear" in after or "QuantizeLinear" in upstream:
            return "into"
        return "layer"

    def _upstream(self, node: NodeTime) -> list[NodeTime]:
        chain = [node]
        while chain[-1].inputs[0] in self._made_by:
            chain.append(self._made_by[chain[-1].inputs[0]])
        return chain

    def _downstream(self, node: NodeTime) -> set[str]:
        kinds: set[str] = set()
        stack = [node]
        while stack:
            for reader in self._read_by.get(stack.pop().outputs[0], ()):
                kinds.add(reader.op_type)
                stack.append(reader)
        return kinds


def _size(value: ir.Value) -> int:
    size = 1
    for length in list(value.shape or ())[1:]:
        size *= length if isinstance(length, int) else 1
    return size
