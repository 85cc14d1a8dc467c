"""Small questions about the nodes of a graph, which several passes ask."""

from __future__ import annotations

import onnx_ir as ir

from lpx.graph.model_io import is_constant

ACTIVATIONS = frozenset({"Relu", "Clip"})
COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
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
"""Operators that pool or squash scores, which drift in 8 bits."""


def name_of(node: ir.Node) -> str:
    """The node's name, which every node of a graph under a pass has."""
    assert node.name, "passes run on named nodes"
    return node.name


def adds_branches(node: ir.Node) -> bool:
    """Whether a node is the Add of two computed tensors."""
    return node.op_type == "Add" and not any(is_constant(v) for v in node.inputs)


def tensor_of(node: ir.Node, index: int) -> str:
    """Name of an input of a node."""
    value = node.inputs[index]
    assert value is not None
    assert value.name
    return value.name


def cuts_at_zero(node: ir.Node) -> bool:
    """Whether a node is a ReLU, or a Clip whose lower limit is 0."""
    if node.op_type != "Clip":
        return node.op_type == "Relu"
    low = node.inputs[1] if len(node.inputs) > 1 else None
    if low is None or low.const_value is None:
        return False
    return float(low.const_value.numpy()) == 0


def only_reader(node: ir.Node) -> bool:
    """Whether nothing but `node` needs its first input."""
    value = node.inputs[0]
    return value is not None and len(value.uses()) == 1 and not value.is_graph_output()
