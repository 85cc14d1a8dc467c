"""Reading ONNX models as protobuf messages, for code that only looks something up.

onnx_ir, on which passes work, imports sympy and takes half a second to import: `lpx predict` does
not need it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import onnx
from onnx import numpy_helper

from lpx.errors import LpxError

# Values that a node may create from constants alone: 1 GiB of float32.
MAX_CONSTANT_VALUES = 1 << 28
# Values of a tensor that is read to compute a shape: shapes have few dimensions.
_SMALL = 64


def parse_proto(data: bytes, source: str) -> onnx.ModelProto:
    """Read an ONNX model from bytes, as a protobuf message.

    Raises:
        LpxError: The bytes are not an ONNX model, weights are in other files or claim more values
            than there are, or a node creates a constant larger than `MAX_CONSTANT_VALUES`.
    """
    try:
        proto = onnx.load_model_from_string(data)
        if not proto.graph.output:
            # Zero bytes are a valid message: that of an empty model.
            raise ValueError("it contains no graph")
    except Exception as error:
        # protobuf's error type differs between its implementations.
        raise unreadable(source, error) from error
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise LpxError(
                f"{source} keeps the weights {tensor.name[:60]!a} in another file",
                "lpx writes models in one file, and does not open files that a model names",
                "export it again with `lpx export`",
                code="unsupported",
            )
        negative = any(size < 0 for size in tensor.dims)
        if negative or math.prod(tensor.dims) > _max_values(tensor):
            message = f"the weights {tensor.name[:60]!a} claim more values than it has"
            raise unreadable(source, ValueError(message))
    if node := _oversized_constant(proto.graph, {}):
        raise LpxError(
            f"{source}: the node {node[:60]!a} makes a constant of more than "
            f"{MAX_CONSTANT_VALUES >> 20} Mi values",
            "it would take gigabytes of memory before the first face",
            "export a model without such constants",
        )
    return proto


def _max_values(tensor: onnx.TensorProto) -> int:
    # The smallest types, INT2 and UINT2, pack four values into a byte.
    return 4 * int(tensor.ByteSize())


def _oversized_constant(graph: onnx.GraphProto, outer: dict[str, onnx.TensorProto]) -> str:
    """Return the first node that expands a few numbers to a constant beyond the limit, or ""."""
    known = outer | {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    known[node.output[0]] = attribute.t
        if _values_made(node, known) > MAX_CONSTANT_VALUES:
            return str(node.name or node.op_type)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if name := _oversized_constant(inner, known):
                    return name
    return ""


def _values_made(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> float:
    """Return the number of values a node creates from constants; 0 if it does not or is unknown."""
    given = [known.get(name) for name in node.input]
    constants = [tensor for tensor in given if tensor is not None]
    if node.op_type == "Range" and len(given) == len(constants) == 3:
        start, end, step = (_numbers(tensor)[0] for tensor in constants)
        if step:
            return (end - start) / step
        return 0.0
    place = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}.get(node.op_type)
    if place is None or len(given) <= place or (shape := given[place]) is None:
        return 0.0
    return math.prod(_numbers(shape))


def _numbers(tensor: onnx.TensorProto) -> list[float]:
    """Return the numbers of a small tensor; [0] of any other."""
    if 0 < math.prod(tensor.dims) <= _SMALL or not tensor.dims:
        # A damaged tensor may raise anything; it fails again, and is reported, when it is used.
        with suppress(Exception):
            return [float(value) for value in numpy_helper.to_array(tensor).reshape(-1)] or [0.0]
    return [0.0]


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Yield all tensors of a model: initialisers, constants, those of subgraphs and functions."""
    rest = [message]
    while rest:
        one = rest.pop()
        if isinstance(one, onnx.TensorProto):
            yield one
            continue
        for descriptor, value in one.ListFields():
            if descriptor.message_type is not None:
                # A message, or a list of them.
                if hasattr(value, "ListFields"):
                    rest.append(value)
                else:
                    rest.extend(value)


def unreadable(source: str, error: Exception) -> LpxError:
    """Return the error for bytes that are not an ONNX model."""
    message = str(error).strip() or "damaged"
    return LpxError(
        f"{source} is not a readable ONNX model",
        message.splitlines()[0],
        "export it again with `lpx export`",
        code="damaged",
    )
