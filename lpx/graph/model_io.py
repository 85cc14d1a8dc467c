"""ONNX models in and out of the form that passes work on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from lpx.errors import LpxError


def parse(data: bytes, source: str) -> ir.Model:
    """Read an ONNX model from bytes.

    Raises:
        LpxError: The bytes are no ONNX model.
    """
    proto = parse_proto(data, source)
    try:
        return ir.serde.deserialize_model(proto)
    except Exception as error:
        raise _unreadable(source, error) from error


def parse_proto(data: bytes, source: str) -> onnx.ModelProto:
    """Read an ONNX model from bytes, as a message.

    Raises:
        LpxError: The bytes are no ONNX model, or weights of it are in other files.
    """
    try:
        proto = onnx.load_model_from_string(data)
        if not proto.graph.output:
            # No bytes at all are a valid message, of an empty model.
            raise ValueError("it holds no graph")
    except Exception as error:
        # protobuf's error type differs between its implementations.
        raise _unreadable(source, error) from error
    for found in _tensors(proto):
        if found.data_location == onnx.TensorProto.EXTERNAL or found.external_data:
            raise LpxError(
                f"{source} keeps the weights {found.name[:60]!a} in another file",
                "lpx writes models in one file, and does not open files that a model names",
                "export it again with `lpx export`",
            )
    return proto


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


def _unreadable(source: str, error: Exception) -> LpxError:
    return LpxError(
        f"{source} is not a readable ONNX model",
        str(error).strip().splitlines()[0] if str(error).strip() else "damaged",
        "export it again with `lpx export`",
    )


def serialise(model: ir.Model) -> bytes:
    """The model as bytes, without what no output needs.

    ONNX's own checker looks at it first, with full type and shape inference.

    Raises:
        LpxError: The checker refuses the model (a bug of a pass, or of the exporter).
    """
    common.RemoveUnusedNodesPass()(model)
    proto = ir.serde.serialize_model(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise LpxError(
            "the transformed graph is not valid ONNX",
            str(error).strip().splitlines()[0],
            "please report this with the checkpoint's backbone and cut",
        ) from error
    data: bytes = proto.SerializeToString()
    return data


def tensor(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """A new initialiser holding a NumPy array."""
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
    """Whether a value is known before the model runs."""
    return value is not None and (value.is_initializer() or value.const_value is not None)


def name_nodes(model: ir.Model) -> None:
    """Give a unique name to every node that has none, or that of another: passes refer to it."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        node.name = name
        taken.add(name)
