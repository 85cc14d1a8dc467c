"""Which tensors are activations: the floats that faces flow through.

Beside them a graph computes sizes, indices and masks, in integers and truth values, or in floats
that were made of such. These must come out exactly: they are never observed, rounded to INT8 or
converted to float16. They are recognised by what they lack: a path of floats from a convolution or
a matrix product.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeGuard

import onnx_ir as ir

from lpx.graph.model_io import is_constant

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def is_activation(value: ir.Value | None) -> TypeGuard[ir.Value]:
    """Whether a tensor is computed and in floats; one of unknown type is taken for such."""
    if value is None or is_constant(value):
        return False
    return value.dtype is None or value.dtype in _FLOATS


def readers(node: ir.Node) -> list[ir.Node]:
    """The nodes that read an activation which `node` makes."""
    made = [value for value in node.outputs if is_activation(value)]
    return [reader for value in made for reader in value.consumers()]


def makers(node: ir.Node) -> list[ir.Node]:
    """The nodes that make an activation which `node` reads."""
    read = [value.producer() for value in node.inputs if is_activation(value)]
    return [maker for maker in read if maker is not None]


def between(nodes: Iterable[ir.Node]) -> set[ir.Node]:
    """Some nodes, and all others on a path of activations from one of them to another."""
    ends = list(nodes)
    after, before = set(ends), set(ends)
    for found, step in ((after, readers), (before, makers)):
        stack = list(ends)
        while stack:
            for node in step(stack.pop()):
                if node not in found:
                    found.add(node)
                    stack.append(node)
    return after & before
