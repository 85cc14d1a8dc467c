"""Identification of activations: float tensors on a path from or to a convolution or product.

A graph also computes sizes, indices and masks, as integers and booleans or as floats derived from
them. These must be exact: they are never observed, rounded to INT8 or converted to float16.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeGuard

import onnx_ir as ir

from lpx.graph.model_io import is_constant

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def is_activation(value: ir.Value | None) -> TypeGuard[ir.Value]:
    """Return True if a tensor is computed and float; one of unknown type is assumed to be."""
    if value is None or is_constant(value):
        return False
    return value.dtype is None or value.dtype in _FLOATS


def readers(node: ir.Node) -> list[ir.Node]:
    """Return the nodes that read an activation computed by `node`."""
    consumers: list[ir.Node] = []
    for value in node.outputs:
        if is_activation(value):
            consumers += value.consumers()
    return consumers


def makers(node: ir.Node) -> list[ir.Node]:
    """Return the nodes that compute an activation read by `node`."""
    producers = [value.producer() for value in node.inputs if is_activation(value)]
    return [producer for producer in producers if producer is not None]


def between(nodes: Iterable[ir.Node], avoiding: Collection[ir.Node] = ()) -> set[ir.Node]:
    """Return the nodes, and all others on a path of activations from one of them to another.

    Args:
        nodes: The nodes.
        avoiding: Nodes that end such a path.
    """
    ends = list(nodes)
    # On such a path is what can be reached both downstream and upstream.
    return _reached(ends, readers, avoiding) & _reached(ends, makers, avoiding)


def _reached(
    starts: list[ir.Node],
    neighbours: Callable[[ir.Node], list[ir.Node]],
    avoiding: Collection[ir.Node],
) -> set[ir.Node]:
    reached = set(starts)
    stack = list(starts)
    while stack:
        for node in neighbours(stack.pop()):
            if node not in reached and node not in avoiding:
                reached.add(node)
                stack.append(node)
    return reached
