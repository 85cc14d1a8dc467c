"""Insertion of QuantizeLinear/DequantizeLinear pairs at a placement, with calibrated scales."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lpx.errors import LpxError
from lpx.graph.model_io import tensor
from lpx.graph.nodes import cuts_at_zero, optional_input, tensor_of
from lpx.graph.qdq.keep_float import keep_float
from lpx.graph.qdq.placement import Placement
from lpx.graph.qdq.plan import NO_PLAN, PrecisionPlan
from lpx.graph.qdq.rounding import bias_shift, nearest_levels, round_levels, weight_scales
from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions, mse_scales

# The smallest normal float16: a smaller scale would lose its bits, or become zero, in a half graph.
# In float32 the product of two, which is the unit of a stored bias, must stay normal too.
_SMALLEST_SCALE = {ir.DataType.FLOAT: 1e-15, ir.DataType.FLOAT16: 6.2e-5}
# A range that extends below 0 by less than this share of its top, as after SiLU, GELU or LeakyReLU,
# is quantised from its low end; a symmetric range would waste at least a third of the levels.
_LOPSIDED = 0.25
# Largest stored bias, in steps: half of int32, as rounding the weights changes it a little.
_LARGEST_BIAS = 2**30


@dataclass(frozen=True)
class Range:
    """Range of an activation.

    Attributes:
        low: Smallest value to represent.
        high: Largest value to represent.
        means: Mean of each channel; empty if unknown: then biases are not corrected.
    """

    low: float
    high: float
    means: tuple[float, ...]

    @property
    def peak(self) -> float:
        """Largest magnitude."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class Style:
    """Form of Q/DQ pairs in a dialect.

    Attributes:
        stored_weights: Store weights as int8 with a DequantizeLinear, and biases as int32, as ONNX
            Runtime's integer kernels require. Otherwise weights stay float before a full pair,
            which every TensorRT release reads, and biases stay float.
        unsigned: Quantise activations to uint8. Those that are never or hardly negative span the
            levels from smallest to largest value, which doubles their resolution and, with zero
            point 0, absorbs the ReLU; the others are symmetric, with zero point 128. Otherwise
            activations are int8 and symmetric, which is all that TensorRT supports.
        at_source: Quantise a tensor once, for all nodes that read it, instead of once per use.
    """

    stored_weights: bool
    unsigned: bool
    at_source: bool


TENSORRT = Style(stored_weights=False, unsigned=False, at_source=False)
ONNXRUNTIME = Style(stored_weights=True, unsigned=True, at_source=True)
DLA = Style(stored_weights=False, unsigned=False, at_source=True)


def insert_qdq(
    model: ir.Model,
    placement: Placement,
    ranges: Mapping[str, Range],
    style: Style,
    weights: WeightOptions = DEFAULT_WEIGHTS,
    plan: PrecisionPlan = NO_PLAN,
) -> None:
    """Insert Q/DQ pairs in place.

    Before: the graph that `placement` was made for; its activations may have become float16, with
    opset >= 19. After: every tensor of `placement` is read through Q/DQ in `style`, with a scale of
    the tensor's own type; weights are symmetric int8 per output channel.

    Args:
        model: The graph.
        placement: Places of the pairs.
        ranges: Range of each tensor of `placement.observed`.
        style: Form of the pairs.
        weights: Weight options; `equalise` must have been applied to the float model already.
        plan: Weight options of single layers. Its calibration methods must be in `ranges` already.

    Raises:
        LpxError: A tensor has no range.
    """
    # A layer's input may stay float although its weights are rounded: its means are still needed.
    complete = {**ranges, **shared_ranges(placement, ranges)}
    _Inserter(model.graph, style, weights, plan).run(placement, complete)


def shared_ranges(placement: Placement, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return the range of every tensor of a placement; tensors that share a scale share a range.

    Raises:
        LpxError: A tensor has no range.
    """
    if missing := [name for name in placement.observed if name not in ranges]:
        raise LpxError(
            f"no calibrated range for {missing[0]} ({len(missing)} tensors in all)",
            "the scales were made for another graph",
            "remove scales.json and run `lpx build --int8` again",
        )
    complete = {name: ranges[name] for name in placement.observed}
    for group in placement.shared:
        known = [complete[name] for name in group if name in complete]
        if not known:
            continue
        low, high = min(r.low for r in known), max(r.high for r in known)
        for name in group:
            means: tuple[float, ...] = ()
            if name in complete:
                means = complete[name].means
            complete[name] = Range(low, high, means)
    return complete


def activation_scales(placement: Placement, ranges: Mapping[str, Range]) -> dict[str, float]:
    """Return symmetric int8 scales of a placement's tensors, for a TensorRT calibration cache.

    Raises:
        LpxError: A tensor has no range.
    """
    complete = shared_ranges(placement, ranges)
    least = _SMALLEST_SCALE[ir.DataType.FLOAT]
    return {name: max(complete[name].peak / 127, least) for name in placement.tensors}


class _Limits(NamedTuple):
    """Values that an activation function lets through."""

    low: float = -math.inf
    high: float = math.inf


def _limits(value: ir.Value) -> _Limits:
    """Return the limits of the activation function before a tensor."""
    # ONNX Runtime fuses an activation into an integer convolution only if the range of the result
    # is within the activation's own; imported ranges are symmetric even after a ReLU.
    producer = value.producer()
    if producer is not None and producer.op_type == "MaxPool" and producer.inputs[0] is not None:
        return _limits(producer.inputs[0])
    if producer is None or not cuts_at_zero(producer):
        return _Limits()
    high = optional_input(producer, 2)
    if producer.op_type == "Clip" and high is not None and high.const_value is not None:
        return _Limits(0.0, float(high.const_value.numpy()))
    return _Limits(0.0)


class _Inserter:
    def __init__(
        self, graph: ir.Graph, style: Style, weights: WeightOptions, plan: PrecisionPlan
    ) -> None:
        self.graph = graph
        self.style = style
        self.weights = weights
        self.plan = plan
        self.nodes = {node.name: node for node in graph}
        self.values: dict[str | None, ir.Value] = {}
        for node in graph:
            for value in (*node.inputs, *node.outputs):
                if value is not None:
                    self.values[value.name] = value
        self.scale_of: dict[ir.Value, float] = {}
        # Before any pair is inserted: afterwards, producers are DequantizeLinear nodes.
        self.limits = {value: _limits(value) for value in self.values.values()}

    def run(self, placement: Placement, ranges: Mapping[str, Range]) -> None:
        dequantised: dict[ir.Value, ir.Value] = {}
        # Before any pair is inserted, and by the names of the float32 graph, where there is one.
        reads = {name: tensor_of(self.nodes[name], 0) for name in placement.convolutions}
        for name, node_name, index in placement.uses:
            if index == 0:
                reads[node_name] = name
        for name, node_name, index in placement.uses:
            node = self.nodes[node_name]
            # In a half graph a Cast may stand between the tensor of that name and its reader.
            value = node.inputs[index]
            assert value is not None
            if value not in dequantised:
                dequantised[value] = self._pair(value, ranges[name])
            node.replace_input_with(index, dequantised[value])
        if self.style.at_source:
            for name in placement.outputs:
                value = self.values[name]
                if value not in dequantised:
                    dequantised[value] = self._pair(value, ranges[name])
            for value, replacement in dequantised.items():
                self._redirect(value, replacement, placement.in_float)
        for node_name in placement.convolutions:
            self._weight(self.nodes[node_name], ranges[reads[node_name]].means)
        if self.style.unsigned:
            keep_float(self.graph, placement.convolutions)

    def _redirect(self, value: ir.Value, replacement: ir.Value, in_float: Collection[str]) -> None:
        """Replace a tensor by its dequantised one, except in the pair itself and in `in_float`."""
        for node, index in tuple(value.uses()):
            if node.op_type != "QuantizeLinear" and node.name not in in_float:
                node.replace_input_with(index, replacement)

    def _pair(self, value: ir.Value, values: Range) -> ir.Value:
        dtype = value.dtype or ir.DataType.FLOAT
        if self.style.unsigned:
            limits = self.limits.get(value, _Limits())
            # Zero is always in the range: padding and ReLUs need it exactly.
            low = max(min(values.low, 0.0), limits.low)
            high = min(max(values.high, 0.0), limits.high)
            if -_LOPSIDED < low / max(high, _SMALLEST_SCALE[dtype]) <= 0:
                step = max((high - low) / 255, _SMALLEST_SCALE[dtype])
                centre = np.array(round(-low / step), np.uint8)
            else:
                step = max(max(-low, high) / 127, _SMALLEST_SCALE[dtype])
                centre = np.array(128, np.uint8)
        else:
            step = max(values.peak / 127, _SMALLEST_SCALE[dtype])
            centre = np.array(0, np.int8)
        scale = tensor(self.graph, f"{value.name}.scale", np.array(step, dtype.numpy()))
        zero = tensor(self.graph, f"{value.name}.zero_point", centre)
        output = self._q_dq(value, scale, zero)
        # As rounded to the tensor's type: the unit of a stored bias is made of the stored scales.
        self.scale_of[output] = float(np.array(step, dtype.numpy()))
        return output

    def _q_dq(
        self, value: ir.Value, scale: ir.Value, zero: ir.Value, axis: int | None = None
    ) -> ir.Value:
        attributes = {} if axis is None else {"axis": axis}
        quantise = ir.node(
            "QuantizeLinear", [value, scale, zero], attributes, name=f"{value.name}.quantize"
        )
        quantise.outputs[0].name = f"{value.name}.quantized"
        quantise.outputs[0].type = ir.TensorType(zero.dtype)  # type: ignore[arg-type]
        output = self._dequantise(quantise.outputs[0], scale, zero, value, axis)
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], [quantise, output.producer()])  # type: ignore[list-item]
        else:
            self.graph.insert_after(producer, [quantise, output.producer()])  # type: ignore[list-item]
        return output

    def _dequantise(
        self, value: ir.Value, scale: ir.Value, zero: ir.Value, original: ir.Value, axis: int | None
    ) -> ir.Value:
        attributes = {} if axis is None else {"axis": axis}
        node = ir.node(
            "DequantizeLinear", [value, scale, zero], attributes, name=f"{original.name}.dequantize"
        )
        node.outputs[0].name = f"{original.name}.dequantized"
        node.outputs[0].type = original.type
        node.outputs[0].shape = original.shape
        return node.outputs[0]

    def _weights_of(self, node: ir.Node) -> WeightOptions:
        """Return the weight options of a layer."""
        layer = self.plan.layers.get(str(node.name))
        if layer is None:
            return self.weights
        return replace(
            self.weights,
            clip=layer.clip or self.weights.clip,
            rounding=layer.rounding or self.weights.rounding,
        )

    def _weight(self, node: ir.Node, means: tuple[float, ...]) -> None:
        weight = node.inputs[1]
        assert weight is not None
        assert weight.const_value is not None
        assert weight.dtype is not None
        array = weight.const_value.numpy().astype(np.float32)
        weights = self._weights_of(node)
        scales_of = mse_scales if weights.clip == "mse" else weight_scales
        steps = np.maximum(scales_of(array), _SMALLEST_SCALE[weight.dtype])
        if self.style.stored_weights:
            steps = np.maximum(steps, self._least_step(node))
        # Levels are computed with the scales as they are stored, in the weight's type.
        steps = steps.astype(weight.dtype.numpy()).astype(np.float32)
        to_levels = nearest_levels if weights.rounding == "nearest" else round_levels
        levels = to_levels(array, steps)
        rounded = levels.astype(np.float32) * steps.reshape(-1, 1, 1, 1)
        # Named after the node, as two convolutions may share a weight.
        name = f"{node.name}.weight"
        scale = tensor(self.graph, f"{name}.scale", steps.astype(weight.dtype.numpy()))
        zero = tensor(self.graph, f"{name}.zero_point", np.zeros(len(steps), np.int8))
        shift = np.zeros(len(steps), np.float32)
        if weights.bias_correction and means:
            if len(means) != array.shape[1] * node.attributes.get_int("group", 1):
                raise LpxError(
                    f"the ranges of the input of {node.name} are of {len(means)} channels, which "
                    f"do not fit its weights {list(array.shape)}",
                    "they were edited or damaged, or belong to another model",
                    "remove scales.json from the workspace, and calibrate again",
                    code="damaged",
                )
            shift = bias_shift(array, rounded, np.array(means, np.float32))
        bias = self._bias(node, weight, shift)
        if not self.style.stored_weights:
            # Stored on the levels, so that QuantizeLinear gives the same levels, however it rounds.
            exact = tensor(self.graph, name, rounded.astype(weight.dtype.numpy()))
            node.replace_input_with(1, self._q_dq(exact, scale, zero, 0))
            node.replace_input_with(2, tensor(self.graph, f"{node.name}.bias", bias))
            return
        stored = tensor(self.graph, f"{name}.quantized", levels)
        output = self._dequantise(stored, scale, zero, weight, 0)
        output.name = f"{name}.dequantized"
        output.producer().name = f"{name}.dequantize"  # type: ignore[union-attr]
        self.graph.insert_before(node, output.producer())  # type: ignore[arg-type]
        node.replace_input_with(1, output)
        self._store_bias(node, weight, bias, steps)

    def _least_step(self, node: ir.Node) -> NDArray[np.float32] | float:
        """Return the weight scale below which the bias would not fit into int32."""
        # A channel that batch norm has almost switched off has tiny weights and an ordinary bias.
        bias = optional_input(node, 2)
        if bias is None or bias.const_value is None:
            return 0.0
        data = node.inputs[0]
        assert data is not None
        unit = np.abs(bias.const_value.numpy().astype(np.float64)) / _LARGEST_BIAS
        return (unit / self.scale_of[data]).astype(np.float32)

    def _bias(
        self, node: ir.Node, weight: ir.Value, shift: NDArray[np.float32]
    ) -> NDArray[np.floating]:
        """Return the bias plus `shift`, in the weight's type; a missing bias is added."""
        assert weight.dtype is not None
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        old = node.inputs[2]
        if old is not None and old.const_value is not None:
            shift = shift + old.const_value.numpy().astype(np.float32)
        return shift.astype(weight.dtype.numpy())

    def _store_bias(
        self,
        node: ir.Node,
        weight: ir.Value,
        bias: NDArray[np.floating],
        steps: NDArray[np.float32],
    ) -> None:
        """Store the bias as int32 in steps of input scale times weight scale."""
        data = node.inputs[0]
        assert data is not None
        unit = (steps * self.scale_of[data]).astype(np.float32)
        limit = 2**31 - 1
        levels = np.clip(np.rint(bias / unit.astype(np.float64)), -limit, limit)
        name = f"{node.name}.bias"
        scale = tensor(self.graph, f"{name}.scale", unit)
        zero = tensor(self.graph, f"{name}.zero_point", np.zeros(len(unit), np.int32))
        stored = tensor(self.graph, f"{name}.quantized", levels.astype(np.int32))
        output = self._dequantise(stored, scale, zero, weight, 0)
        output.name, output.shape = f"{name}.dequantized", ir.Shape([len(unit)])
        output.producer().name = f"{name}.dequantize"  # type: ignore[union-attr]
        self.graph.insert_before(node, output.producer())  # type: ignore[arg-type]
        node.replace_input_with(2, output)
