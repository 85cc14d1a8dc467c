"""Float layers between Q/DQ pairs, which ONNX Runtime would quantise on its own.

Its optimiser rounds the float weights of a convolution to INT8, with one scale for all channels,
if a DequantizeLinear comes before it and a QuantizeLinear behind it (WeightBiasQuantization, ONNX
Runtime 1.32). It leaves a convolution alone if that DequantizeLinear has a scale for each channel,
or if the bias is not a constant. The former is faster: a bias that is computed excludes ONNX
Runtime's kernels with channels in blocks.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lpx.graph.model_io import is_constant, tensor
from lpx.graph.nodes import ACTIVATIONS, optional_input, producer_of
from lpx.graph.qdq.integer_region import PASSES_ON

# Operators whose weights it quantises.
_QUANTISED = frozenset({"Conv", "ConvTranspose", "Gemm"})
# Bits of a float32's mantissa.
_MANTISSA = 24
# The smallest normal float32 is 2**-126.
_LEAST_EXPONENT = -126


def keep_float(graph: ir.Graph, quantised: Collection[str]) -> tuple[str, ...]:
    """Make sure that ONNX Runtime does not quantise layers of its own accord.

    Before: a float32 graph with Q/DQ pairs. After: every float layer between two pairs reads its
    input through a DequantizeLinear of its own, with the same scale for each channel; or its bias
    comes out of one. All values are the same.

    Args:
        graph: The graph, changed in place.
        quantised: Names of the layers that are quantised.

    Returns:
        Names of the layers that were changed.
    """
    kept = []
    for node in list(graph):
        if node.op_type not in _QUANTISED or node.name in quantised:
            continue
        between = is_constant(node.inputs[1]) and _reads_pair(node) and _ends_in_pair(node)
        if between and (_split_scale(graph, node) or _hide_bias(graph, node)):
            kept.append(str(node.name))
    return tuple(kept)


def _reads_pair(node: ir.Node) -> bool:
    """Return True if a DequantizeLinear comes before a node, or can be moved there."""
    maker = producer_of(node.inputs[0])
    while maker is not None and maker.op_type in PASSES_ON:
        maker = producer_of(maker.inputs[0])
    return maker is not None and maker.op_type == "DequantizeLinear"


def _ends_in_pair(node: ir.Node) -> bool:
    """Return True if a QuantizeLinear comes behind a node, or can be moved there."""
    passed = ACTIVATIONS | PASSES_ON
    following = list(node.outputs[0].consumers())
    while len(following) == 1 and following[0].op_type in passed:
        following = list(following[0].outputs[0].consumers())
    return len(following) == 1 and following[0].op_type == "QuantizeLinear"


def _split_scale(graph: ir.Graph, node: ir.Node) -> bool:
    """Let a layer read its input with a scale per channel; returns False if that is impossible."""
    data = node.inputs[0]
    assert data is not None
    pair = data.producer()
    if pair is None or pair.op_type != "DequantizeLinear" or data.shape is None:
        # Another node is between the two.
        return False
    constants = [value.const_value for value in pair.inputs[1:] if value is not None]
    channels = data.shape[1] if len(data.shape) > 1 else None
    if not isinstance(channels, int) or len(constants) != 2:
        return False
    made = []
    for label, constant in zip(("scale", "zero_point"), constants, strict=True):
        if constant is None or constant.numpy().size != 1:
            return False
        each = np.full(channels, constant.numpy())
        made.append(tensor(graph, f"{node.name}.input.{label}", each))
    own = ir.node(
        "DequantizeLinear",
        [pair.inputs[0], *made],
        {"axis": 1},
        name=f"{node.name}.input.dequantize",
    )
    own.outputs[0].name = f"{node.name}.input.dequantized"
    own.outputs[0].type, own.outputs[0].shape = data.type, data.shape
    graph.insert_before(node, own)
    node.replace_input_with(0, own.outputs[0])
    return True


def _hide_bias(graph: ir.Graph, node: ir.Node) -> bool:
    """Let a bias come out of a DequantizeLinear; returns False for one that is computed anyway."""
    bias = optional_input(node, 2)
    if bias is None:
        values = np.zeros(_channels(node), np.float32)
    elif bias.const_value is None or bias.const_value.numpy().ndim != 1:
        return False
    else:
        values = bias.const_value.numpy().astype(np.float32)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    levels, scales = _exactly(values)
    name = f"{node.name}.bias"
    stored = tensor(graph, f"{name}.quantized", levels)
    scale = tensor(graph, f"{name}.scale", scales)
    zero = tensor(graph, f"{name}.zero_point", np.zeros(len(levels), np.int32))
    made = ir.node(
        "DequantizeLinear", [stored, scale, zero], {"axis": 0}, name=f"{name}.dequantize"
    )
    made.outputs[0].name = f"{name}.dequantized"
    made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    made.outputs[0].shape = ir.Shape([len(levels)])
    graph.insert_before(node, made)
    node.replace_input_with(2, made.outputs[0])
    return True


def _channels(node: ir.Node) -> int:
    """Return the number of a layer's output channels."""
    weight = node.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    sizes = [int(size) for size in weight.shape]  # type: ignore[arg-type]
    if node.op_type == "ConvTranspose":
        return sizes[1] * node.attributes.get_int("group", 1)
    if node.op_type == "Gemm" and not node.attributes.get_int("transB", 0):
        return sizes[1]
    return sizes[0]


class _Stored(NamedTuple):
    """A bias as integers: int32 [O], and a float32 [O] of scales."""

    levels: NDArray[np.int32]
    scales: NDArray[np.float32]


def _exactly(values: NDArray[np.float32]) -> _Stored:
    """Return integers and scales whose products are float32 values, to the last bit."""
    # A float32 is an integer of 24 bits times a power of two.
    _, exponents = np.frexp(values)
    powers = np.maximum(exponents - _MANTISSA, _LEAST_EXPONENT)
    # In float64, so that the division is exact. What is below the normal numbers is rounded.
    levels = np.rint(np.ldexp(values.astype(np.float64), -powers))
    return _Stored(levels.astype(np.int32), np.ldexp(np.float32(1), powers))
