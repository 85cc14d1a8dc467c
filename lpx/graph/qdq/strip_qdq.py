"""Detection of models that are quantised already, and their conversion back to float."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lpx.errors import LpxError
from lpx.graph.model_io import is_constant, tensor

_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_INTEGER = frozenset(
    {
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
        "DynamicQuantizeLinear",
        "QLinearAdd",
        "QLinearMul",
        "QLinearConcat",
        "QLinearGlobalAveragePool",
        "QLinearAveragePool",
        "QLinearSigmoid",
        "QLinearLeakyRelu",
        "QLinearSoftmax",
        "QGemm",
    }
)


def require_float(model: ir.Model, source: str, *, requantise: bool = False) -> int:
    """Make sure that a model has no Q/DQ pairs, as lpx inserts its own.

    Args:
        model: Model; changed in place if it has pairs and `requantise` is True.
        source: Name of the model for errors.
        requantise: Remove the pairs instead of refusing the model.

    Returns:
        The number of Q/DQ nodes removed.

    Raises:
        LpxError: There are pairs and `requantise` is False, or there are integer operators, which
            cannot be removed.
    """
    if integer := [node for node in model.graph if node.op_type in _INTEGER]:
        raise _irreversible(integer[0], source)
    pairs = [node for node in model.graph if node.op_type in _PAIRS]
    if not pairs:
        return 0
    if not requantise:
        raise LpxError(
            f"{source} is quantised already: it has {len(pairs)} Q/DQ nodes, the first "
            f"{pairs[0].name or pairs[0].op_type}",
            "lpx calibrates and inserts its own, and quantising twice loses accuracy twice",
            "export the float model, or remove the pairs with `requantise=True`",
            code="unsupported",
        )
    for node in pairs:
        if node.op_type == "DequantizeLinear":
            _undo(model.graph, node, source)
    for node in pairs:
        # A pair is read by its own other half alone now; anything else computes with its integers.
        if node.outputs[0].is_graph_output():
            raise _irreversible(node, source)
        for output in node.outputs:
            if any(reader.op_type not in _PAIRS for reader in output.consumers()):
                raise _irreversible(node, source)
    model.graph.remove(list(reversed(pairs)), safe=True)
    return len(pairs)


def _irreversible(node: ir.Node, source: str) -> LpxError:
    return LpxError(
        f"{source} computes in integers: {node.name or node.outputs[0].name} is a {node.op_type}",
        "the float values behind its integers cannot be recovered from the graph",
        "export the float model",
        code="unsupported",
    )


def _undo(graph: ir.Graph, node: ir.Node, source: str) -> None:
    """Replace the output of a DequantizeLinear by the float tensor that was quantised."""
    quantised, output = node.inputs[0], node.outputs[0]
    assert quantised is not None
    maker = quantised.producer()
    if is_constant(quantised):
        original = tensor(graph, f"{output.name}.float", _values(node))
    elif maker is not None and maker.op_type == "QuantizeLinear" and maker.inputs[0] is not None:
        original = maker.inputs[0]
    else:
        raise _irreversible(node, source)
    if output.is_graph_output():
        # An output must keep its name, and the float tensor has another.
        name, output.name = output.name, f"{output.name}.dequantized"
        same = ir.node("Identity", [original], name=f"{name}.identity")
        same.outputs[0].name, same.outputs[0].type = name, output.type
        same.outputs[0].shape = output.shape
        graph.insert_after(node, same)
        for index, value in enumerate(graph.outputs):
            if value is output:
                graph.outputs[index] = same.outputs[0]
    output.replace_all_uses_with(original)


def _values(node: ir.Node) -> NDArray[np.floating]:
    """Return the values of a DequantizeLinear of a constant, in the type of its scale."""
    constants = []
    for value in node.inputs:
        if value is not None and value.const_value:
            constants.append(value.const_value.numpy())
    # A zero point may be left out.
    levels, scale, *zero_points = constants
    # One scale for all values, or one per index of an axis.
    shape = [1] * levels.ndim
    if scale.size > 1:
        shape[node.attributes.get_int("axis", 1)] = -1
    values = levels.astype(np.float64)
    for zero_point in zero_points:
        values -= zero_point.astype(np.float64).reshape(shape)
    values *= scale.astype(np.float64).reshape(shape)
    result: NDArray[np.floating] = values.astype(scale.dtype)
    return result
