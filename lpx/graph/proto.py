"""ONNX models as messages, for whoever only looks something up in one.

onnx_ir, which passes work on, brings sympy with it and takes half a second to import: `lpx predict`
does without.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import onnx
from onnx import numpy_helper

from lpx.errors import LpxError

MAX_CONSTANT_VALUES = 1 << 28
"""Values that a node may make of constants alone: 1 GiB of float32."""
_SMALL = 64


def parse_proto(data: bytes, source: str) -> onnx.ModelProto:
    """Read an ONNX model from bytes, as a message.

    Raises:
        LpxError: The bytes are not an ONNX model, some weights are in other files or claim more
            values than there are, or a constant is beyond `MAX_CONSTANT_VALUES`.
    """
    try:
        proto = onnx.load_model_from_string(data)
        if not proto.graph.output:
            # No bytes at all are a valid message, of an empty model.
            raise ValueError("it contains no graph")
    except Exception as error:
        # protobuf's error type differs between its implementations.
        raise unreadable(source, error) from error
    for found in _tensors(proto):
        if found.data_location == onnx.TensorProto.EXTERNAL or found.external_data:
            raise LpxError(
                f"{source} keeps the weights {found.name[:60]!a} in another file",
                "lpx writes models in one file, and does not open files that a model names",
                "export it again with `lpx export`",
            )
        if any(size < 0 for size in found.dims) or math.prod(found.dims) > _most_values(found):
            raise unreadable(
                source, ValueError(f"the weights {found.name[:60]!a} claim more values than it has")
            )
    if grown := _first_grown(proto.graph, {}):
        raise LpxError(
            f"{source}: the node {grown[:60]!a} makes a constant of more than "
            f"{MAX_CONSTANT_VALUES >> 20} Mi values",
            "it would take gigabytes of memory before a face is looked at",
            "export a model without such constants",
        )
    return proto


def _most_values(tensor: onnx.TensorProto) -> int:
    """How many values the bytes of a tensor can hold: the smallest types pack two into a byte."""
    return 2 * int(tensor.ByteSize())


def _first_grown(graph: onnx.GraphProto, outer: dict[str, onnx.TensorProto]) -> str:
    """The first node that makes a constant beyond the limit out of a few numbers; "" for none."""
    known = outer | {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            known.update((node.output[0], a.t) for a in node.attribute if a.HasField("t"))
        if _values_made(node, known) > MAX_CONSTANT_VALUES:
            return str(node.name or node.op_type)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if found := _first_grown(inner, known):
                    return found
    return ""


def _values_made(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> float:
    """Values that a node makes of constants; 0 where it does not, or where it is not known."""
    given = [known.get(name) for name in node.input]
    if node.op_type == "Range" and len(given) == 3 and None not in given:
        start, end, step = (_numbers(tensor)[0] for tensor in given if tensor is not None)
        return (end - start) / step if step else 0.0
    place = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}.get(node.op_type)
    if place is None or len(given) <= place or (shape := given[place]) is None:
        return 0.0
    return math.prod(_numbers(shape))


def _numbers(tensor: onnx.TensorProto) -> list[float]:
    """The numbers of a small tensor; [0] of any other."""
    if 0 < math.prod(tensor.dims) <= _SMALL or not tensor.dims:
        with suppress(Exception):  # damaged ones fail in any way, where they are used too
            return [float(value) for value in numpy_helper.to_array(tensor).reshape(-1)] or [0.0]
    return [0.0]


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """All tensors of a model: initialisers, constants, and those of subgraphs and functions."""
    rest = [message]
    while rest:
        one = rest.pop()
        if isinstance(one, onnx.TensorProto):
            yield one
            continue
        for descriptor, value in one.ListFields():
            if descriptor.message_type is not None:
                rest.extend([value] if hasattr(value, "ListFields") else value)


def unreadable(source: str, error: Exception) -> LpxError:
    """The error for bytes that are not an ONNX model."""
    return LpxError(
        f"{source} is not a readable ONNX model",
        str(error).strip().splitlines()[0] if str(error).strip() else "damaged",
        "export it again with `lpx export`",
    )
