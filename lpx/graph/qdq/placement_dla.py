"""Where Q/DQ goes for NVIDIA's DLA: on every tensor between two INT8 layers.

A GPU fuses what follows a convolution and wants no pair there; a DLA wants a scale on every tensor.
NVIDIA: the DLA compiles its whole region as one node, "expects scales to be present throughout",
and falls back to FP16 or to the GPU where one is missing (NVIDIA/Model-Optimizer, pull request
1661, which adds `--target_dla`: "Q/DQ nodes in all tensors"). Which tensors take over the scale of
a neighbour is taken from NVIDIA's qdq-translator (NVIDIA/Deep-Learning-Accelerator-SW, tools):
scales pass through Relu and MaxPool, a Concat has one scale (there the largest of its inputs), an
Add has one for each input and for its output, and graph outputs get none (pull request 35: with
scales there, MobileNetV2 on ImageNet fell from 72 % to 3 %).

The same tensors, as a list of scales beside a float graph, are the calibration cache for a DLA of
TensorRT 10.7 and before. None of this has run on a DLA.
"""

from __future__ import annotations

import onnx_ir as ir

from lpx.graph.activations import between, is_activation
from lpx.graph.nodes import ACTIVATIONS, COMPUTE, adds_branches, name_of, only_reader, tensor_of
from lpx.graph.qdq.placement import (
    MIN_CHANNELS,
    Decision,
    Placement,
    float_reason,
    judge,
    place,
    pooled_alone,
)

_KEEP_SCALE = ACTIVATIONS | {"MaxPool", "Concat"}
_LAYERS = _KEEP_SCALE | {"AveragePool"}


def place_dla(model: ir.Model) -> Placement:
    """Decide where Q/DQ goes for a DLA.

    Args:
        model: A float graph with batch norms folded and every node named.
    """
    decisions: dict[ir.Node, Decision] = {}
    chosen: list[ir.Node] = []
    for node in model.graph:
        if node.op_type in COMPUTE:
            quantised, reason = judge(node, depthwise=True, unbroken=True)
            decisions[node] = Decision(name_of(node), node.op_type, quantised, reason)
            chosen += [node] * quantised
    inside = _between(model.graph, chosen)
    for node in model.graph:
        if node not in decisions:
            decisions[node] = _decide(node, node in inside)
    region = [node for node in model.graph if node in inside or node in chosen]
    uses = [
        (tensor_of(node, index), name_of(node), index)
        for node in region
        for index in _data_inputs(node)
    ]
    names = {use[0] for use in uses}
    cut = [node for node in region if node.op_type in ACTIVATIONS and only_reader(node)]
    derived = {tensor_of(node, 0) for node in cut if node.outputs[0].name in names}
    derived |= {tensor_of(node, 0) for node in region if pooled_alone(node, names)}
    return Placement(
        convolutions=tuple(name_of(node) for node in chosen),
        uses=tuple(uses),
        outputs=(),
        decisions=tuple(decisions[node] for node in model.graph),
        shared=_groups(region, names),
        derived=frozenset(derived),
    )


def tensors_to_observe(model: ir.Model) -> tuple[str, ...]:
    """Every tensor whose range some dialect needs, in graph order: what calibration observes."""
    # The placement for integer kernels has all that TensorRT's has, and more. Narrow convolutions
    # are in it too, so that one calibration serves whatever --min-channels says later.
    wanted = set(place_dla(model).observed)
    for least in (1, MIN_CHANNELS):
        wanted.update(place(model, integer_outputs=True, min_channels=least).observed)
    inputs = [value.name for value in model.graph.inputs]
    made = [value.name for node in model.graph for value in node.outputs]
    return tuple(name for name in (*inputs, *made) if name in wanted and name is not None)


def _between(graph: ir.Graph, chosen: list[ir.Node]) -> set[ir.Node]:
    """Layers that the DLA runs in INT8 besides the convolutions: those with one on either side."""
    runs = {node for node in graph if node.op_type in _LAYERS or adds_branches(node)}
    return (between(chosen) & runs) - set(chosen)


def _decide(node: ir.Node, inside: bool) -> Decision:
    kind = node.op_type
    if inside:
        reason = "between INT8 convolutions: a DLA wants a scale on every tensor"
        if kind in _KEEP_SCALE:
            reason += ", here the same before and behind"
    elif kind in _LAYERS or adds_branches(node):
        reason = "not between INT8 convolutions"
    else:
        reason = float_reason(node)
    return Decision(name_of(node), kind, inside, reason)


def _data_inputs(node: ir.Node) -> list[int]:
    """Indices of the inputs that are activations."""
    if node.op_type in COMPUTE or node.op_type in ACTIVATIONS:
        return [0]
    return [i for i, value in enumerate(node.inputs) if is_activation(value)]


def _groups(region: list[ir.Node], names: set[str]) -> tuple[tuple[str, ...], ...]:
    """Tensors joined by layers that keep their input's scale, in graph order."""
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
