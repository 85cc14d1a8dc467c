"""ONNX models as protobuf messages.

Apart from `model_io`, because onnx_ir takes half a second to import: scoring does without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from lpx.errors import LpxError


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
        raise unreadable(source, error) from error
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


def unreadable(source: str, error: Exception) -> LpxError:
    """The error for bytes that are not an ONNX model."""
    return LpxError(
        f"{source} is not a readable ONNX model",
        str(error).strip().splitlines()[0] if str(error).strip() else "damaged",
        "export it again with `lpx export`",
    )
