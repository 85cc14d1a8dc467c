"""Predicates and names of nodes that several passes use."""

from __future__ import annotations

import onnx_ir as ir

from lpx.graph.model_io import is_constant

ACTIVATIONS = frozenset({"Relu", "Clip"})
COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Operators that pool or squash scores, which drift in 8 bits.
SCORES = frozenset(
    {
        "Sigmoid",
        "Softmax",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "ReduceMean",
        "ReduceMax",
        "ReduceLogSumExp",
        "ReduceSum",
        "TopK",
        "Exp",
        "Log",
    }
)


def name_of(node: ir.Node) -> str:
    """Return the name of a node; `lpx.graph.model_io.name_nodes` gives every node one."""
    assert node.name, "passes run on named nodes"
    return node.name


def nodes_by_name(graph: ir.Graph) -> dict[str, ir.Node]:
    """Return the nodes of a graph, all of which are named, by their names."""
    return {name_of(node): node for node in graph}


def computed_values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Return the values that the nodes of a graph compute, by their names, in graph order."""
    values = {}
    for node in graph:
        # All outputs: a Split has several.
        for value in node.outputs:
            values[str(value.name)] = value
    return values


def adds_branches(node: ir.Node) -> bool:
    """Return True if a node is the Add of two computed tensors, and not of a constant."""
    return node.op_type == "Add" and not any(is_constant(v) for v in node.inputs)


def tensor_of(node: ir.Node, index: int) -> str:
    """Return the name of an input of a node."""
    value = node.inputs[index]
    assert value is not None
    assert value.name
    return value.name


def optional_input(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input of a node; None if it is omitted or beyond the last one."""
    if index < len(node.inputs):
        return node.inputs[index]
    return None


def producer_of(value: ir.Value | None) -> ir.Node | None:
    """Return the node that computes a value; None for a constant, a graph input or no value."""
    if value is None:
        return None
    return value.producer()


def cuts_at_zero(node: ir.Node) -> bool:
    """Return True if a node is a ReLU, or a Clip whose lower limit is 0."""
    if node.op_type != "Clip":
        return node.op_type == "Relu"
    # Without a lower limit, a Clip lets negative values through.
    low = optional_input(node, 1)
    if low is None or low.const_value is None:
        return False
    return float(low.const_value.numpy()) == 0


def only_reader(node: ir.Node) -> bool:
    """Return True if only `node` uses its first input."""
    value = node.inputs[0]
    return value is not None and len(value.uses()) == 1 and not value.is_graph_output()
