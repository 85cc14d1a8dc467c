"""Bounds of every tensor of a graph that hold for every input, by interval arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

# Bounds are widened by this share: more than the rounding error of float32 convolutions.
_SLACK = 1e-5


@dataclass(frozen=True)
class Bounds:
    """Smallest and largest value of a tensor, possibly infinite.

    Attributes:
        low: float64, [] for the whole tensor or [C] for each channel (axis 1).
        high: Likewise.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def whole(self) -> Bounds:
        """Return bounds of the whole tensor, over all channels."""
        return Bounds(np.asarray(self.low.min()), np.asarray(self.high.max()))


UNKNOWN = Bounds(np.asarray(-np.inf), np.asarray(np.inf))
_UNCHANGED = frozenset({"Cast", "Identity", "MaxPool"})
_MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice"})


def tensor_bounds(model: ir.Model) -> dict[str, Bounds]:
    """Return the bounds of every tensor, by name; infinite after an operator that is not known.

    Args:
        model: A float graph; an input of type uint8 is in [0, 255].
    """
    known: dict[str, Bounds] = {}
    for value in model.graph.inputs:
        known[str(value.name)] = UNKNOWN
        if value.dtype == ir.DataType.UINT8:
            known[str(value.name)] = Bounds(np.asarray(0.0), np.asarray(255.0))
    for node in model.graph:
        inputs = [_bounds_of(value, known) for value in node.inputs]
        for output in node.outputs:
            known[str(output.name)] = UNKNOWN
        if inputs and len(node.outputs) == 1:
            known[str(node.outputs[0].name)] = _through(node, inputs)
    return known


def _bounds_of(value: ir.Value | None, known: dict[str, Bounds]) -> Bounds:
    if value is None:
        return UNKNOWN
    if value.const_value is None:
        return known.get(str(value.name), UNKNOWN)
    array = value.const_value.numpy()
    if not array.size or not np.issubdtype(array.dtype, np.number):
        return UNKNOWN
    array = array.astype(np.float64)
    # [C, 1, 1] and [1, C, 1, 1] are per channel.
    shape = array.shape
    if array.ndim == 4 and array.shape[0] == 1:
        shape = shape[1:]
    if len(shape) == 3 and shape[1:] == (1, 1):
        return Bounds(array.reshape(-1), array.reshape(-1))
    return Bounds(np.asarray(array.min()), np.asarray(array.max()))


def _through(node: ir.Node, inputs: list[Bounds]) -> Bounds:
    kind, x = node.op_type, inputs[0]
    if kind in _UNCHANGED:
        return x
    if kind in _MOVES:
        # Channels may end up on another axis.
        return x.whole()
    if kind == "Relu":
        return Bounds(np.maximum(x.low, 0), np.maximum(x.high, 0))
    if kind == "Clip":
        return _clip(node, inputs)
    if kind == "AveragePool":
        # Padding may be counted as zeros.
        return Bounds(np.minimum(x.low, 0), np.maximum(x.high, 0))
    if kind == "Sigmoid":
        return Bounds(np.asarray(0.0), np.asarray(1.0))
    if kind == "Conv":
        return _convolution(node, x)
    if kind in ("Add", "Sub") and _fit(inputs[0], inputs[1]):
        y = inputs[1]
        if kind == "Sub":
            y = Bounds(-y.high, -y.low)
        return _widened(x.low + y.low, x.high + y.high)
    return UNKNOWN


def _fit(x: Bounds, y: Bounds) -> bool:
    # Bounds per channel and bounds of a tensor with another number of channels do not broadcast.
    return not x.low.shape or not y.low.shape or x.low.shape == y.low.shape


def _clip(node: ir.Node, inputs: list[Bounds]) -> Bounds:
    x = inputs[0]
    low, high = x.low, x.high
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        low, high = np.maximum(low, inputs[1].low), np.maximum(high, inputs[1].high)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        low, high = np.minimum(low, inputs[2].low), np.minimum(high, inputs[2].high)
    return Bounds(low, high)


def _convolution(node: ir.Node, x: Bounds) -> Bounds:
    constants: list[NDArray[np.float64]] = []
    for value in node.inputs[1:]:
        if value is None:
            continue
        if value.const_value is None:
            return UNKNOWN
        constants.append(value.const_value.numpy().astype(np.float64))
    weight, *bias = constants
    groups = node.attributes.get_int("group", 1)
    outputs, inputs = weight.shape[:2]
    # [groups, 1, inputs of a group, 1] against weights [groups, outputs of a group, inputs, taps].
    low = np.broadcast_to(x.low, (inputs * groups,)).reshape(groups, 1, inputs, 1)
    high = np.broadcast_to(x.high, (inputs * groups,)).reshape(groups, 1, inputs, 1)
    weight = weight.reshape(groups, outputs // groups, inputs, -1)
    # At the border, zeros of the padding are read in place of values.
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    with np.errstate(invalid="ignore"):
        ends = np.stack([weight * low, weight * high])
    # 0 times infinity is NaN, but a weight of zero contributes nothing.
    ends = np.where(weight == 0, 0.0, ends)
    offset = bias[0] if bias else 0.0
    return _widened(
        ends.min(axis=0).sum(axis=(2, 3)).reshape(-1) + offset,
        ends.max(axis=0).sum(axis=(2, 3)).reshape(-1) + offset,
    )


def _widened(low: NDArray[np.float64], high: NDArray[np.float64]) -> Bounds:
    slack = _SLACK * np.maximum(np.abs(low), np.abs(high))
    # An infinite bound cannot be widened: infinity minus infinity is NaN.
    slack = np.where(np.isfinite(slack), slack, 0.0)
    return Bounds(low - slack, high + slack)
