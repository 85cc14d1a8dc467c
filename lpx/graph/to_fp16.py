"""Turn the convolutional body to float16; preprocessing and aggregate stay in float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lpx.graph.model_io import is_constant, tensor

LARGEST = 65504.0
"""Largest finite float16."""


def to_fp16(model: ir.Model) -> None:
    """Convert in place.

    Before: a float32 graph. After: every node from the first to the last convolution (and matrix
    product) computes in float16, its weights and biases are float16, and a Cast stands where a
    tensor crosses between the two types. Inputs and outputs keep their types. Where there is no
    convolution, nothing changes.

    Preprocessing stays in float32 because pixels minus mean lose bits in half precision and
    TensorRT fuses it all the same; the aggregate, because a score averages many small numbers.
    """
    graph = model.graph
    body = _body(graph)
    cast: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(graph):
        half = node in body
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
                continue
            wanted = ir.DataType.FLOAT16 if half else ir.DataType.FLOAT
            # A tensor's type is that of its producer, which the loop has already turned.
            if value.dtype != wanted:
                node.replace_input_with(index, _converted(graph, node, value, wanted, cast))
        if half:
            for output in node.outputs:
                if output.dtype == ir.DataType.FLOAT:
                    output.type = ir.TensorType(ir.DataType.FLOAT16)
    for index, output in enumerate(graph.outputs):
        if output.dtype == ir.DataType.FLOAT16:
            _restore_output(graph, index, output)


def _body(graph: ir.Graph) -> set[ir.Node]:
    """Nodes that lie between (and with) the first and the last convolutions along some path."""
    compute = [n for n in graph if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    after = _reach(compute, lambda node: node.successors())
    before = _reach(compute, lambda node: node.predecessors())
    return after & before


def _reach(start: list[ir.Node], step: object) -> set[ir.Node]:
    seen = set(start)
    stack = list(start)
    while stack:
        for node in step(stack.pop()):  # type: ignore[operator]
            if node not in seen:
                seen.add(node)
                stack.append(node)
    return seen


def _converted(
    graph: ir.Graph, node: ir.Node, value: ir.Value, wanted: ir.DataType,
    cast: dict[tuple[ir.Value, ir.DataType], ir.Value],
) -> ir.Value:  # fmt: skip
    key = (value, wanted)
    if key in cast:
        return cast[key]
    if is_constant(value) and wanted == ir.DataType.FLOAT16:
        array = np.clip(value.const_value.numpy(), -LARGEST, LARGEST).astype(np.float16)  # type: ignore[union-attr]
        cast[key] = tensor(graph, f"{value.name}.half", array)
        return cast[key]
    short = "half" if wanted == ir.DataType.FLOAT16 else "single"
    convert = ir.node("Cast", [value], {"to": int(wanted)},
                      name=f"{value.name}.to_{short}")  # fmt: skip
    convert.outputs[0].name = f"{value.name}.{short}"
    convert.outputs[0].type = ir.TensorType(wanted)
    convert.outputs[0].shape = value.shape
    graph.insert_before(node, convert)
    cast[key] = convert.outputs[0]
    return cast[key]


def _restore_output(graph: ir.Graph, index: int, output: ir.Value) -> None:
    """A graph output keeps its name and float32 type, behind a Cast."""
    name = output.name
    output.name = f"{name}.half"
    convert = ir.node("Cast", [output], {"to": int(ir.DataType.FLOAT)},
                      name=f"{name}.to_single")  # fmt: skip
    convert.outputs[0].name = name
    convert.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    convert.outputs[0].shape = output.shape
    graph.insert_after(output.producer(), convert)  # type: ignore[arg-type]
    graph.outputs[index] = convert.outputs[0]
