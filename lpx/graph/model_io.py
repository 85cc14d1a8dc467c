"""Conversion between ONNX bytes and the `onnx_ir` models that passes work on."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from lpx.errors import LpxError, first_line
from lpx.graph.proto import parse_proto, unreadable


def parse(data: bytes, source: str) -> ir.Model:
    """Read an ONNX model from bytes.

    Raises:
        LpxError: The bytes are not an ONNX model.
    """
    proto = parse_proto(data, source)
    try:
        return ir.serde.deserialize_model(proto)
    except Exception as error:
        raise unreadable(source, error) from error


def serialise(model: ir.Model) -> bytes:
    """Return the model as bytes, without unused nodes.

    ONNX's checker validates it first, with full type and shape inference.

    Raises:
        LpxError: The checker rejects the model, because of a bug in a pass or in the exporter.
    """
    common.RemoveUnusedNodesPass()(model)
    proto = ir.serde.serialize_model(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise LpxError(
            "the transformed graph is not valid ONNX",
            first_line(error),
            "please report this with the checkpoint's backbone and cut",
        ) from error
    data: bytes = proto.SerializeToString()
    return data


def tensor(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Add an initialiser with the values of a NumPy array."""
    constant = ir.tensor(array, name=name)
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(constant.dtype),
        const_value=constant,
    )
    graph.register_initializer(value)
    return value


def is_constant(value: ir.Value | None) -> bool:
    """Return True if a value is known before the model runs."""
    return value is not None and (value.is_initializer() or value.const_value is not None)


def name_nodes(model: ir.Model) -> None:
    """Give every node a unique name, by which passes refer to it; unique names are kept."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        node.name = name
        taken.add(name)
