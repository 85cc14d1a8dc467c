"""Graphs that begin where something changed, and read everything before that as inputs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import onnx_ir as ir
from onnx_ir.passes import common

from lpx.graph.activations import is_activation
from lpx.graph.model_io import is_constant, serialise

# Operators that pass on every value of their input: behind a Sigmoid, the same logits.
_SAME_VALUES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})


def behind(model: ir.Model, starts: Collection[ir.Node]) -> set[ir.Node]:
    """Return nodes, and all that depend on what they compute."""
    reached = set(starts)
    # Nodes are in order: what a node depends on was visited before it.
    for node in model.graph:
        if any(value is not None and value.producer() in reached for value in node.inputs):
            reached.add(node)
    return reached


class Part(NamedTuple):
    """A part of a model.

    Attributes:
        data: ONNX.
        inputs: Names of its inputs.
    """

    data: bytes
    inputs: tuple[str, ...]


def cut_before(model: ir.Model, nodes: Collection[ir.Node], outputs: Sequence[str]) -> Part:
    """Return the part of a model that computes outputs with some of its nodes.

    Before: a float graph. After: activations that these nodes read from others are inputs, named
    after the tensors with "fed." before. Sizes and indices are computed as before.

    Args:
        model: The graph; changed in place.
        nodes: Nodes to keep, with all that depend on them.
        outputs: Names of the outputs, computed by these nodes.
    """
    graph = model.graph
    fed: dict[ir.Value, ir.Value] = {}
    stack = list(nodes)
    seen = set(stack)
    while stack:
        node = stack.pop()
        for index, value in enumerate(node.inputs):
            if value is None or is_constant(value) or value.producer() in nodes:
                continue
            producer = value.producer()
            if producer is not None and is_activation(value):
                if value not in fed:
                    fed[value] = _input(value)
                node.replace_input_with(index, fed[value])
            elif producer is not None and producer not in seen:
                # Sizes and indices, which must fit the batch.
                seen.add(producer)
                stack.append(producer)
    computed = {value.name: value for node in nodes for value in node.outputs}
    graph.outputs.clear()
    graph.outputs.extend(computed[name] for name in outputs)
    graph.inputs.extend(fed.values())
    common.RemoveUnusedNodesPass()(model)
    for value in tuple(graph.inputs):
        if not value.uses():
            graph.inputs.remove(value)
    return Part(serialise(model), tuple(str(value.name) for value in graph.inputs))


def fed_tensor(name: str) -> str:
    """Return the name of the tensor behind an input of `cut_before`; "" for one of the model."""
    return name.removeprefix(_FED) if name.startswith(_FED) else ""


_FED = "fed."


def _input(like: ir.Value) -> ir.Value:
    return ir.Value(name=f"{_FED}{like.name}", shape=like.shape, type=like.type)


def logit_tensor(model: ir.Model, score: str = "score") -> str | None:
    """Return the name of the tensor whose sigmoid is an output; None for any other output.

    A score near 0 or 1 has few bits left in float32; its logit has all.
    """
    value = next(output for output in model.graph.outputs if output.name == score)
    node = value.producer()
    while node is not None and node.op_type in _SAME_VALUES and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type != "Sigmoid" or node.inputs[0] is None:
        return None
    return node.inputs[0].name
