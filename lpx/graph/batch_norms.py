"""Expansion of batch norms into a multiplication and an addition per channel.

The simplifier folds a batch norm into the convolution right before it. Others remain: those after
an activation, a pool or a concat, and those before a convolution.
"""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lpx.errors import LpxError
from lpx.graph.model_io import tensor

# Suffixes of the names of the two constants, after the module's path.
FACTOR, OFFSET = "factor", "offset"
_PARAMETER = re.compile(r"(.+)\.(?:weight|bias|running_mean|running_var)")


def expand_batch_norms(model: ir.Model) -> int:
    """Replace every batch norm by a Mul and an Add, in place.

    Before: a float graph. After: it has no BatchNormalization; tensors keep their names and, but
    for rounding, their values.

    Returns:
        The number of batch norms replaced.

    Raises:
        LpxError: A batch norm computes its statistics from the current batch, so that the score of
            a face depends on the other faces in it.
    """
    batch_norms = [node for node in model.graph if node.op_type == "BatchNormalization"]
    for node in batch_norms:
        _replace(model.graph, node)
    return len(batch_norms)


def _replace(graph: ir.Graph, node: ir.Node) -> None:
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    constants = [_constant(value) for value in node.inputs[1:]]
    path = _path(node)
    if f"{path}.{FACTOR}" in graph.initializers:
        # The module is called more than once: its path does not make a unique name.
        path = str(output.name)
    if any(array is None for array in constants) or _trains(node):
        raise LpxError(
            f"the batch norm {path} computes its statistics from the current batch",
            "a face's score would depend on the other faces in the batch",
            "train the model with `track_running_stats=True` in this module",
            code="unsupported",
        )
    scale, bias, mean, variance = (array for array in constants if array is not None)
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    factor = scale / np.sqrt(variance + epsilon)
    # One value per channel, which is the second dimension.
    assert data.shape is not None
    shape = (-1,) + (1,) * (len(data.shape) - 2)
    offset = bias - mean * factor
    first = tensor(graph, f"{path}.{FACTOR}", factor.astype(np.float32).reshape(shape))
    second = tensor(graph, f"{path}.{OFFSET}", offset.astype(np.float32).reshape(shape))
    scaled = ir.node("Mul", [data, first], name=f"{node.name}.factor")
    scaled.outputs[0].name = f"{output.name}.scaled"
    scaled.outputs[0].type, scaled.outputs[0].shape = output.type, output.shape
    moved = ir.node("Add", [scaled.outputs[0], second], name=f"{node.name}.offset")
    moved.outputs[0].type, moved.outputs[0].shape = output.type, output.shape
    graph.insert_before(node, [scaled, moved])
    output.replace_all_uses_with(moved.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)
    # Only now is the name free.
    moved.outputs[0].name = output.name


def _trains(node: ir.Node) -> bool:
    mode = node.attributes.get("training_mode")
    return mode is not None and bool(mode.as_int())


def _constant(value: ir.Value | None) -> NDArray[np.float64] | None:
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy().astype(np.float64)


def _path(node: ir.Node) -> str:
    """Return the module's path, from its parameters' names; else the name of the output."""
    for value in node.inputs[1:]:
        if value is not None and (parameter := _PARAMETER.fullmatch(str(value.name))):
            return parameter[1]
    return str(node.outputs[0].name)
