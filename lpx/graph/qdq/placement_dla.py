"""Placement of Q/DQ pairs for NVIDIA's DLA: on every tensor between two INT8 layers.

A GPU fuses what follows a convolution and needs no pair there; a DLA needs a scale on every tensor.
According to NVIDIA, the DLA compiles its whole region as one node, "expects scales to be present
throughout", and falls back to FP16 or to the GPU if one is missing (NVIDIA/Model-Optimizer, pull
request 1661, which adds `--target_dla`: "Q/DQ nodes in all tensors"). Which tensors share the scale
of a neighbour follows NVIDIA's qdq-translator (NVIDIA/Deep-Learning-Accelerator-SW, tools): scales
pass through Relu and MaxPool, a Concat has one scale (there the largest of its inputs), an Add has
one for each input and for its output, and graph outputs have none (pull request 35: with scales
there, MobileNetV2 on ImageNet fell from 72 % to 3 %).

The same tensors, as a list of scales beside a float graph, make the calibration cache for a DLA
with TensorRT 10.7 and earlier. None of this has been run on a DLA.
"""

from __future__ import annotations

import onnx_ir as ir

from lpx.graph.activations import between, is_activation
from lpx.graph.nodes import (
    ACTIVATIONS,
    COMPUTE,
    adds_branches,
    computed_values,
    name_of,
    only_reader,
    tensor_of,
)
from lpx.graph.qdq.integer_region import is_gate
from lpx.graph.qdq.placement import (
    Decision,
    Placement,
    float_reason,
    judge_convolution,
    place,
    pooled_alone,
)
from lpx.graph.qdq.plan import NO_PLAN, PrecisionPlan

_KEEP_SCALE = ACTIVATIONS | {"MaxPool", "Concat"}
_LAYERS = _KEEP_SCALE | {"AveragePool"}


def place_dla(model: ir.Model, plan: PrecisionPlan = NO_PLAN) -> Placement:
    """Decide where Q/DQ pairs go for a DLA.

    Args:
        model: A float graph with batch norms folded and every node named.
        plan: Keeps further convolutions in float.
    """
    decisions: dict[ir.Node, Decision] = {}
    chosen: list[ir.Node] = []
    for node in model.graph:
        if node.op_type in COMPUTE:
            quantised, reason = judge_convolution(node, depthwise=True, unbroken=True, plan=plan)
            decisions[node] = Decision(name_of(node), node.op_type, quantised, reason)
            if quantised:
                chosen.append(node)
    inside = _between(model.graph, chosen)
    for node in model.graph:
        if node not in decisions:
            decisions[node] = _decide(node, inside=node in inside)
    region = [node for node in model.graph if node in inside or node in chosen]
    uses: list[tuple[str, str, int]] = []
    for node in region:
        uses += [(tensor_of(node, index), name_of(node), index) for index in _data_inputs(node)]
    names = {use[0] for use in uses}
    # Values that an activation or a pool cuts off are in no other tensor: the range of its input
    # need not be calibrated.
    derived: set[str] = set()
    for node in region:
        clips = node.op_type in ACTIVATIONS and only_reader(node)
        if (clips and node.outputs[0].name in names) or pooled_alone(node, names):
            derived.add(tensor_of(node, 0))
    return Placement(
        convolutions=tuple(name_of(node) for node in chosen),
        uses=tuple(uses),
        outputs=(),
        decisions=tuple(decisions[node] for node in model.graph),
        shared=_groups(region, names),
        derived=frozenset(derived),
    )


def tensors_to_observe(model: ir.Model) -> tuple[str, ...]:
    """Return the tensors that calibration observes: those that any dialect needs, with any plan."""
    # Narrow convolutions are included, so that one calibration serves any `min_channels`. What a
    # plan keeps in float, or a target, only takes pairs away, with few exceptions.
    runtime = place(model, integer_outputs=True, min_channels=1)
    fused = place(model, min_channels=1)
    dla = place_dla(model)
    # Derived scales too: a pool keeps its input's pair if the convolution behind it is in float.
    wanted = {*runtime.tensors, *fused.tensors, *dla.observed}
    adds = {use[1] for use in fused.uses}
    for node in model.graph:
        if adds_branches(node) and name_of(node) in adds:
            # Of the two branches, the one with a quantised convolution decides which gets a pair.
            wanted.update(tensor_of(node, index) for index in _data_inputs(node))
        elif node.op_type == "Mul" and str(node.outputs[0].name) in runtime.outputs:
            # The gate of a squeeze-and-excitation block has a pair of its own if a plan keeps the
            # layer that computes it in float.
            wanted.update(str(v.name) for v in node.inputs if is_activation(v) and is_gate(v))
        elif _may_lose_output(node) and tensor_of(node, 0) in dla.derived:
            wanted.add(tensor_of(node, 0))
    inputs = [str(value.name) for value in model.graph.inputs]
    names = (*inputs, *computed_values(model.graph))
    return tuple(name for name in names if name in wanted)


def _may_lose_output(node: ir.Node) -> bool:
    """Return True if a plan can take the pair after a layer away, but not the one before it."""
    if node.op_type not in _KEEP_SCALE:
        return False
    # Such a layer is between two convolutions along a path that begins at another reader than
    # those that need a pair.
    value = node.outputs[0]
    for reader, index in value.uses():
        layer = reader.op_type in _LAYERS | COMPUTE or adds_branches(reader)
        if not layer or index not in _data_inputs(reader):
            return True
    return False


def _between(graph: ir.Graph, chosen: list[ir.Node]) -> set[ir.Node]:
    """Return the other layers that the DLA runs in INT8: those between two of the convolutions."""
    runs = {node for node in graph if node.op_type in _LAYERS or adds_branches(node)}
    # A convolution in float ends a region: it reads and returns floats.
    floats = {node for node in graph if node.op_type in COMPUTE}.difference(chosen)
    return (between(chosen, avoiding=floats) & runs) - set(chosen)


def _decide(node: ir.Node, *, inside: bool) -> Decision:
    kind = node.op_type
    if inside:
        reason = "between INT8 convolutions: a DLA needs a scale on every tensor"
        if kind in _KEEP_SCALE:
            reason += ", here the same for input and output"
    elif kind in _LAYERS or adds_branches(node):
        reason = "not between INT8 convolutions"
    else:
        reason = float_reason(node)
    return Decision(name_of(node), kind, inside, reason)


def _data_inputs(node: ir.Node) -> list[int]:
    """Return the indices of the inputs that are activations."""
    # The other inputs of these are weights and limits, which may be computed.
    if node.op_type in COMPUTE or node.op_type in ACTIVATIONS:
        return [0]
    return [i for i, value in enumerate(node.inputs) if is_activation(value)]


def _groups(region: list[ir.Node], names: set[str]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of tensors connected by layers that keep their input's scale."""
    # Union-find: every tensor of a group leads to the same name.
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for node in region:
        keeps = node.op_type in _KEEP_SCALE and (
            node.op_type not in ACTIVATIONS or only_reader(node)
        )
        output = node.outputs[0].name
        if keeps and output in names:
            for index in _data_inputs(node):
                leader[find(tensor_of(node, index))] = find(str(output))
    members: dict[str, list[str]] = {}
    for name in leader:
        members.setdefault(find(name), []).append(name)
    return tuple(tuple(group) for group in members.values() if len(group) > 1)
