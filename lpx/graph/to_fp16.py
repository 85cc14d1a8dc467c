"""Turn the convolutional body to float16; preprocessing and aggregate stay in float32.

What an operator takes in float16 is what ONNX's own schema of it says. The scales of a Resize, the
limits of a Range, and the type that a Cast or a ConstantOfShape makes are not its to choose: such
tensors stay as they are, and a Cast stands where a node of the body reads one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from lpx.graph.activations import between
from lpx.graph.model_io import is_constant, tensor
from lpx.graph.nodes import COMPUTE

LARGEST = 65504.0
"""Largest finite float16."""
SMALLEST = 2.0**-24
"""Smallest positive float16."""
_INNER = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def to_fp16(model: ir.Model) -> None:
    """Convert in place.

    Before: a float32 graph. After: every node from the first to the last convolution (and matrix
    product) computes in float16 where its operator can, its weights and biases are float16, and a
    Cast stands where a tensor crosses between the two types. Sizes, indices and masks, and what is
    computed from them alone, keep their types; so do inputs, outputs, and what stands in an If or a
    Loop. Where there is no convolution, nothing changes.

    Preprocessing stays in float32 because pixels minus mean lose bits in half precision and
    TensorRT fuses it all the same; the aggregate, because a score averages many small numbers.
    """
    graph = model.graph
    body = between(node for node in graph if node.op_type in COMPUTE)
    casts = _Casts(graph)
    turned: set[ir.Value] = set()
    for node in list(graph):
        inputs, outputs = _halves(node, model.opset_imports) if node in body else (set(), set())
        for reader, index, value in _reads(node):
            if reader is node and index in inputs:
                # A tensor's type is that of its producer, which the loop has already turned.
                if value.dtype == _FLOAT:
                    reader.replace_input_with(index, casts.of(value, _HALF, node))
            elif value in turned:
                reader.replace_input_with(index, casts.of(value, _FLOAT, node))
        for index in outputs:
            node.outputs[index].type = ir.TensorType(_HALF)
            turned.add(node.outputs[index])
    for index, output in enumerate(graph.outputs):
        if output in turned:
            _restore_output(graph, index, output)


def _halves(node: ir.Node, opsets: dict[str, int]) -> tuple[set[int], set[int]]:
    """Indices of the inputs that a node takes in float16, and of the outputs that follow them."""
    if any(a.type in _INNER for a in node.attributes.values()):
        return set(), set()
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return set(), set()
    able = {
        constraint.type_param_str
        for constraint in schema.type_constraints
        if "tensor(float16)" in constraint.allowed_type_strs
    }
    inputs = {
        index: kind
        for index, kind in enumerate(_kinds(schema.inputs, len(node.inputs)))
        if kind in able
        and (value := node.inputs[index]) is not None
        and value.dtype in (_FLOAT, _HALF)
    }
    kinds = set(inputs.values())
    outputs = {
        index
        for index, kind in enumerate(_kinds(schema.outputs, len(node.outputs)))
        if kind in kinds and node.outputs[index].dtype == _FLOAT
    }
    return set(inputs), outputs


def _kinds(formal: Sequence[onnx.defs.OpSchema.FormalParameter], count: int) -> list[str]:
    """The type variable of each input or output; the last formal one may stand for many."""
    return [formal[min(index, len(formal) - 1)].type_str for index in range(count)]


def _reads(node: ir.Node) -> Iterator[tuple[ir.Node, int, ir.Value]]:
    """What a node reads, and what the nodes of its inner graphs do."""
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
                inner += [each for graph in attribute.as_graphs() for each in graph]


class _Casts:
    """Tensors in the other type, each made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def of(self, value: ir.Value, wanted: ir.DataType, before: ir.Node) -> ir.Value:
        """A tensor in the type wanted, made before a node unless it is there already."""
        key = value, wanted
        if key not in self.made:
            constant = wanted == _HALF and is_constant(value)
            self.made[key] = self._constant(value) if constant else self._cast(*key, before)
        return self.made[key]

    def _constant(self, value: ir.Value) -> ir.Value:
        assert value.const_value is not None
        return tensor(self.graph, f"{value.name}.half", halved(value.const_value.numpy()))

    def _cast(self, value: ir.Value, wanted: ir.DataType, before: ir.Node) -> ir.Value:
        short = "half" if wanted == _HALF else "single"
        source = value
        maker = value.producer()
        if maker is not None and maker.op_type == "Cast" and maker.inputs[0] is not None:
            # Of truth values and integers; that Cast goes where nothing else reads it.
            source = maker.inputs[0] if maker.inputs[0].dtype not in (_FLOAT, _HALF) else value
        name = f"{value.name}.to_{short}"
        convert = ir.node("Cast", [source], {"to": int(wanted)}, name=name)
        convert.outputs[0].name = f"{value.name}.{short}"
        convert.outputs[0].type = ir.TensorType(wanted)
        convert.outputs[0].shape = value.shape
        self.graph.insert_before(before, convert)
        return convert.outputs[0]


def halved(array: NDArray[np.floating]) -> NDArray[np.float16]:
    """A constant in float16.

    What is too large for it becomes its largest number, infinities stay. A number by itself that is
    too small, such as the epsilon that keeps a divisor above zero, becomes its smallest.
    """
    finite = np.isfinite(array)
    with np.errstate(over="ignore"):
        half = np.where(finite, np.clip(array, -LARGEST, LARGEST), array).astype(np.float16)
    if array.size == 1 and not half.any() and array.any():
        half = np.copysign(np.float16(SMALLEST), array).astype(np.float16)
    return half.reshape(array.shape)


def _restore_output(graph: ir.Graph, index: int, output: ir.Value) -> None:
    """A graph output keeps its name and float32 type, behind a Cast."""
    name = output.name
    output.name = f"{name}.half"
    convert = ir.node("Cast", [output], {"to": int(_FLOAT)}, name=f"{name}.to_single")
    convert.outputs[0].name = name
    convert.outputs[0].type = ir.TensorType(_FLOAT)
    convert.outputs[0].shape = output.shape
    graph.insert_after(output.producer(), convert)  # type: ignore[arg-type]
    graph.outputs[index] = convert.outputs[0]
