"""Models that are quantised already: refused, or turned back to float."""

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
    """See to it that a model has no Q/DQ pairs: lpx places its own.

    Args:
        model: Changed in place where there are pairs and `requantise` is given.
        source: What the model is called in errors.
        requantise: Take the pairs out instead of refusing.

    Returns:
        How many Q/DQ nodes were taken out.

    Raises:
        LpxError: There are pairs and `requantise` is not given, or integer operators, which cannot
            be taken out.
    """
    if integer := [node for node in model.graph if node.op_type in _INTEGER]:
        raise _irreversible(integer[0], source)
    pairs = [node for node in model.graph if node.op_type in _PAIRS]
    if not pairs:
        return 0
    if not requantise:
        raise LpxError(
            f"{source} is quantised already: it holds {len(pairs)} Q/DQ nodes, the first "
            f"{pairs[0].name or pairs[0].op_type}",
            "lpx calibrates and places its own, and two on top of each other lose accuracy twice",
            "export the float model, or take the pairs out with --requantise",
        )
    for node in pairs:
        if node.op_type == "DequantizeLinear":
            _undo(model.graph, node, source)
    for node in pairs:
        # What is left of a pair is read by its other half alone, or stood for integers.
        readers = [reader for output in node.outputs for reader in output.consumers()]
        stands = node.outputs[0].is_graph_output()
        if stands or any(reader.op_type not in _PAIRS for reader in readers):
            raise _irreversible(node, source)
    model.graph.remove(list(reversed(pairs)), safe=True)
    return len(pairs)


def _irreversible(node: ir.Node, source: str) -> LpxError:
    return LpxError(
        f"{source} computes in integers: {node.name or node.outputs[0].name} is a {node.op_type}",
        "the float values that its integers stand for cannot be told from the graph",
        "export the float model",
    )


def _undo(graph: ir.Graph, node: ir.Node, source: str) -> None:
    """Let the readers of a DequantizeLinear read the float tensor that was quantised."""
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
    """What a DequantizeLinear of a constant makes, in the type of its scale."""
    levels, scale, *zero = (
        value.const_value.numpy()
        for value in node.inputs
        if value is not None and value.const_value
    )
    # One scale for all, or one for each index of an axis.
    shape = [1] * levels.ndim
    if scale.size > 1:
        shape[node.attributes.get_int("axis", 1)] = -1
    centre = zero[0].astype(np.float64).reshape(shape) if zero else 0.0
    values = (levels.astype(np.float64) - centre) * scale.astype(np.float64).reshape(shape)
    result: NDArray[np.floating] = values.astype(scale.dtype)
    return result
