"""Conversion of the convolutional body to float16; preprocessing and aggregate stay in float32.

ONNX's schema of an operator says which of its inputs may be float16. Others, such as the scales of
a Resize or the limits of a Range, keep their type, as do results whose type an attribute sets (Cast
and ConstantOfShape); a Cast is inserted where a node of the body reads one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from lpx.graph.activations import between
from lpx.graph.model_io import is_constant, tensor
from lpx.graph.nodes import COMPUTE

# Largest finite float16.
LARGEST = 65504.0
# Smallest positive float16.
SMALLEST = 2.0**-24
_INNER = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def to_fp16(model: ir.Model, in_float32: Collection[str] = ()) -> None:
    """Convert in place.

    Before: a float32 graph. After: every node from the first to the last convolution (or matrix
    product) computes in float16 if its operator can, its weights and biases are float16, and there
    is a Cast wherever a tensor changes between the two types. Sizes, indices and masks, and tensors
    computed from them alone, keep their types; so do inputs, outputs, and subgraphs of an If or a
    Loop. Without a convolution, nothing changes.

    Args:
        model: The graph.
        in_float32: Names of nodes that stay in float32, with a Cast on both sides.
    """
    # Preprocessing stays in float32 because pixels minus mean lose bits in half precision, and
    # TensorRT fuses it all the same; the aggregate, because a score averages many small numbers.
    graph = model.graph
    body = between(node for node in graph if node.op_type in COMPUTE)
    casts = _Casts(graph)
    converted: set[ir.Value] = set()
    for node in list(graph):
        half = _Half(set(), set())
        if node in body and node.name not in in_float32:
            half = _half(node, model.opset_imports)
        for reader, index, value in _reads(node):
            if reader is node and index in half.inputs:
                # Nodes are in order: the producer of a tensor, and so its type, is converted.
                if value.dtype == _FLOAT:
                    reader.replace_input_with(index, casts.get(value, _HALF, node))
            elif value in converted:
                reader.replace_input_with(index, casts.get(value, _FLOAT, node))
        for index in half.outputs:
            node.outputs[index].type = ir.TensorType(_HALF)
            converted.add(node.outputs[index])
    for index, output in enumerate(graph.outputs):
        if output in converted:
            _restore_output(graph, index, output)


class _Half(NamedTuple):
    """Indices of a node's inputs and outputs that become float16."""

    inputs: set[int]
    outputs: set[int]


def _half(node: ir.Node, opsets: dict[str, int]) -> _Half:
    nothing = _Half(set(), set())
    if any(a.type in _INNER for a in node.attributes.values()):
        return nothing
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return nothing
    # In a schema, inputs and outputs with the same type variable have the same type.
    able = set()
    for constraint in schema.type_constraints:
        if "tensor(float16)" in constraint.allowed_type_strs:
            able.add(constraint.type_param_str)
    inputs: set[int] = set()
    kinds: set[str] = set()
    for index, kind in enumerate(_kinds(schema.inputs, len(node.inputs))):
        value = node.inputs[index]
        if kind in able and value is not None and value.dtype in (_FLOAT, _HALF):
            inputs.add(index)
            kinds.add(kind)
    outputs: set[int] = set()
    for index, kind in enumerate(_kinds(schema.outputs, len(node.outputs))):
        if kind in kinds and node.outputs[index].dtype == _FLOAT:
            outputs.add(index)
    return _Half(inputs, outputs)


def _kinds(formal: Sequence[onnx.defs.OpSchema.FormalParameter], count: int) -> list[str]:
    """Return the type variable of each input or output."""
    # The last parameter of a schema may be variadic.
    return [formal[min(index, len(formal) - 1)].type_str for index in range(count)]


def _reads(node: ir.Node) -> Iterator[tuple[ir.Node, int, ir.Value]]:
    """Yield the inputs of a node and of the nodes in its subgraphs: reader, index, value."""
    inner = [node]
    while inner:
        reader = inner.pop()
        for index, value in enumerate(tuple(reader.inputs)):
            if value is not None:
                yield reader, index, value
        for attribute in reader.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                inner += attribute.as_graph()
            elif attribute.type == ir.AttributeType.GRAPHS:
                for graph in attribute.as_graphs():
                    inner += graph


class _Casts:
    """Tensors converted to the other type, each only once."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def get(self, value: ir.Value, wanted: ir.DataType, before: ir.Node) -> ir.Value:
        """Return a tensor in another type; a new Cast is inserted before a node."""
        key = value, wanted
        if key not in self.made:
            if wanted == _HALF and is_constant(value):
                self.made[key] = self._constant(value)
            else:
                self.made[key] = self._cast(value, wanted, before)
        return self.made[key]

    def _constant(self, value: ir.Value) -> ir.Value:
        assert value.const_value is not None
        return tensor(self.graph, f"{value.name}.half", halved(value.const_value.numpy()))

    def _cast(self, value: ir.Value, wanted: ir.DataType, before: ir.Node) -> ir.Value:
        short = "half" if wanted == _HALF else "single"
        source = value
        maker = value.producer()
        if maker is not None and maker.op_type == "Cast":
            # Booleans and integers are cast directly; the Cast to float32 is then removed as unused
            # unless something else reads it.
            original = maker.inputs[0]
            if original is not None and original.dtype not in (_FLOAT, _HALF):
                source = original
        name = f"{value.name}.to_{short}"
        convert = ir.node("Cast", [source], {"to": int(wanted)}, name=name)
        convert.outputs[0].name = f"{value.name}.{short}"
        convert.outputs[0].type = ir.TensorType(wanted)
        convert.outputs[0].shape = value.shape
        self.graph.insert_before(before, convert)
        return convert.outputs[0]


def halved(array: NDArray[np.floating]) -> NDArray[np.float16]:
    """Return a constant in float16.

    Finite values that are too large become the largest float16; infinities are kept. A single
    number that is too small becomes the smallest positive float16.
    """
    finite = np.isfinite(array)
    with np.errstate(over="ignore"):
        half = np.where(finite, np.clip(array, -LARGEST, LARGEST), array).astype(np.float16)
    # Such as an epsilon that keeps a divisor above zero.
    if array.size == 1 and not half.any() and array.any():
        half = np.copysign(np.float16(SMALLEST), array).astype(np.float16)
    return half.reshape(array.shape)


def _restore_output(graph: ir.Graph, index: int, output: ir.Value) -> None:
    """Let a graph output keep its name and float32 type, after a Cast."""
    name = output.name
    output.name = f"{name}.half"
    convert = ir.node("Cast", [output], {"to": int(_FLOAT)}, name=f"{name}.to_single")
    convert.outputs[0].name = name
    convert.outputs[0].type = ir.TensorType(_FLOAT)
    convert.outputs[0].shape = output.shape
    graph.insert_after(output.producer(), convert)  # type: ignore[arg-type]
    graph.outputs[index] = convert.outputs[0]
