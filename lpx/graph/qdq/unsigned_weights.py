"""Integer weights as uint8, which ONNX Runtime multiplies exactly on every processor.

On x86-64 without VNNI, ONNX Runtime's kernel for uint8 activations and int8 weights adds two
products in 16 bits, which saturate: 255 * 127 * 2 > 2^15. Its kernel for uint8 weights adds in 32
bits. A session option chooses it (`session.x64quantprecision`), but not every program that embeds
ONNX Runtime can set that option. Weights that are uint8 in the graph choose it by themselves.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lpx.errors import LpxError
from lpx.graph.model_io import is_constant, parse, serialise, tensor

# The zero point of uint8 weights that were int8 with a zero point of 0.
_CENTRE = 128


def saturating_weights(model: ir.Model) -> list[ir.Node]:
    """Return the DequantizeLinear nodes of a model whose constant weights are int8."""
    found = []
    for node in model.graph:
        if node.op_type != "DequantizeLinear":
            continue
        weight = node.inputs[0]
        if weight is not None and is_constant(weight) and weight.dtype == ir.DataType.INT8:
            found.append(node)
    return found


def with_unsigned_weights(graph: bytes, source: str) -> bytes:
    """Return a graph with its int8 weights as uint8: the same integers, less a zero point of 128.

    Every dequantised weight keeps its value, and so do all sums of products.

    Args:
        graph: ONNX with Q/DQ pairs; one without int8 weights stays as it is.
        source: Name of the graph, for errors.

    Raises:
        LpxError: It is not an ONNX graph, or an int8 weight has a zero point other than 0.
    """
    model = parse(graph, source)
    nodes = saturating_weights(model)
    if not nodes:
        return graph
    for node in nodes:
        _shift(model.graph, node, source)
    return serialise(model)


def _shift(graph: ir.Graph, node: ir.Node, source: str) -> None:
    weight, scale = node.inputs[0], node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    assert scale is not None
    if scale.const_value is None:
        raise _unknown(node, source, "a scale that is computed")
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None and (zero.const_value is None or zero.const_value.numpy().any()):
        raise _unknown(node, source, "a zero point that is not 0")
    # In 16 bits, where 127 + 128 fits.
    levels = (weight.const_value.numpy().astype(np.int16) + _CENTRE).astype(np.uint8)
    centre = np.full(scale.const_value.numpy().shape, _CENTRE, np.uint8)
    # The node's own name: one constant may be the zero point of many weights.
    name = node.outputs[0].name
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(0, tensor(graph, f"{name}.uint8", levels))
    node.replace_input_with(2, tensor(graph, f"{name}.zero_point", centre))


def _unknown(node: ir.Node, source: str, what: str) -> LpxError:
    return LpxError(
        f"{source} has int8 weights with {what}: {node.name or node.outputs[0].name}",
        "lpx writes symmetric int8 weights, and can make only those exact in ONNX Runtime on "
        "processors without VNNI",
        "build the engine again with `lpx build --int8 --target onnxruntime`",
        code="unsupported",
    )
