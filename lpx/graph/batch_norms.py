"""Batch norms that no convolution takes up, as what they are once trained: a Mul and an Add.

The simplifier folds a batch norm into the convolution right before it. All others, behind an
activation, a pool or a concat, or before a convolution, are a factor and an offset per channel.
"""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lpx.errors import LpxError
from lpx.graph.model_io import tensor

FACTOR, OFFSET = "factor", "offset"
"""What the two constants are called, behind the path of the module."""
_PARAMETER = re.compile(r"(.+)\.(?:weight|bias|running_mean|running_var)")


def spell_out(model: ir.Model) -> int:
    """Replace every batch norm in place.

    Before: a float graph. After: it has no BatchNormalization; tensors keep their names and, but
    for rounding, their values.

    Returns:
        How many there were.

    Raises:
        LpxError: A batch norm takes its statistics from the batch at hand, so that the score of a
            face depends on the faces beside it.
    """
    found = [node for node in model.graph if node.op_type == "BatchNormalization"]
    for node in found:
        _replace(model.graph, node)
    return len(found)


def _replace(graph: ir.Graph, node: ir.Node) -> None:
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    constants = [_constant(value) for value in node.inputs[1:]]
    path = _path(node)
    if f"{path}.{FACTOR}" in graph.initializers:
        path = str(output.name)  # a module that is called more than once
    if any(array is None for array in constants) or _trains(node):
        raise LpxError(
            f"the batch norm {path} takes its statistics from the batch that it is given",
            "a face's score would depend on the faces that are scored along with it",
            "make it with track_running_stats=True, and train it so",
        )
    scale, bias, mean, variance = (array for array in constants if array is not None)
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    factor = scale / np.sqrt(variance + epsilon)
    # One for each channel, which is the second dimension.
    assert data.shape is not None
    shape = (-1,) + (1,) * (len(data.shape) - 2)
    values = {FACTOR: factor, OFFSET: bias - mean * factor}
    first, second = (
        tensor(graph, f"{path}.{name}", array.astype(np.float32).reshape(shape))
        for name, array in values.items()
    )
    scaled = ir.node("Mul", [data, first], name=f"{node.name}.factor")
    scaled.outputs[0].name = f"{output.name}.scaled"
    scaled.outputs[0].type, scaled.outputs[0].shape = output.type, output.shape
    moved = ir.node("Add", [scaled.outputs[0], second], name=f"{node.name}.offset")
    moved.outputs[0].type, moved.outputs[0].shape = output.type, output.shape
    graph.insert_before(node, [scaled, moved])
    output.replace_all_uses_with(moved.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)
    moved.outputs[0].name = output.name


def _trains(node: ir.Node) -> bool:
    mode = node.attributes.get("training_mode")
    return mode is not None and bool(mode.as_int())


def _constant(value: ir.Value | None) -> NDArray[np.float64] | None:
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy().astype(np.float64)


def _path(node: ir.Node) -> str:
    """The module that it was, as its parameters are called; else the tensor that it makes."""
    names = [_PARAMETER.fullmatch(str(v.name)) for v in node.inputs[1:] if v is not None]
    return next((found[1] for found in names if found), str(node.outputs[0].name))
