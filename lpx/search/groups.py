"""Groups of layers that a search quantises, or leaves in float, together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from lpx.graph.nodes import adds_branches, name_of, nodes_by_name, producer_of
from lpx.graph.qdq.placement import Placement


@dataclass(frozen=True)
class Group:
    """Convolutions that are quantised together, each with the activation fused into it.

    Attributes:
        name: Name of the convolution, or of the Add that ends a residual block.
        members: Names of the convolutions, in graph order.
        op_type: "Conv", "depthwise Conv", or "residual block".
        weights: Shape of the weights of the only convolution, [O, I, kh, kw]; () for a block.
        multiply_accumulates: Multiply-accumulates for one face.
        parameters: Number of weights.
    """

    name: str
    members: tuple[str, ...]
    op_type: str
    weights: tuple[int, ...]
    multiply_accumulates: int
    parameters: int


def groups_of(
    graph: ir.Model, placement: Placement, work: Mapping[str, int], *, blocks: bool = False
) -> tuple[Group, ...]:
    """Return the groups of a placement, in graph order.

    Args:
        graph: The float graph that the placement was made for.
        placement: Placement of every pair that the rules allow.
        work: Multiply-accumulates of each convolution for one face, by the name of the node.
        blocks: Join the convolutions of a residual block, its projection included.
    """
    nodes = nodes_by_name(graph.graph)
    block_of = _blocks(graph.graph, placement.convolutions) if blocks else {}
    members: dict[str, list[str]] = {}
    for name in placement.convolutions:
        members.setdefault(block_of.get(name, name), []).append(name)
    groups = []
    for name, joined in members.items():
        shapes = [_shape(nodes[one]) for one in joined]
        block = name in block_of.values()
        kind = _kind(nodes[joined[0]])
        groups.append(
            Group(
                name=name,
                members=tuple(joined),
                op_type="residual block" if block else kind,
                weights=() if block else shapes[0],
                multiply_accumulates=sum(work.get(one, 0) for one in joined),
                parameters=sum(map(_size, shapes)),
            )
        )
    return tuple(groups)


def _kind(node: ir.Node) -> str:
    outputs = _shape(node)[0]
    depthwise = node.attributes.get_int("group", 1) == outputs > 1
    return "depthwise Conv" if depthwise else node.op_type


def _shape(node: ir.Node) -> tuple[int, ...]:
    weight = node.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    return tuple(int(size) for size in weight.shape)  # type: ignore[arg-type]


def _size(shape: Iterable[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _blocks(graph: ir.Graph, convolutions: Iterable[str]) -> dict[str, str]:
    """Return the name of the residual block of each convolution that is in one."""
    wanted = set(convolutions)
    block_of: dict[str, str] = {}
    for node in graph:
        if not adds_branches(node):
            continue
        first, second = (_upstream(value) for value in node.inputs)
        # What both branches are computed from was there before the block.
        for inside in first ^ second:
            name = name_of(inside)
            # An inner block keeps its convolutions.
            if name in wanted:
                block_of.setdefault(name, name_of(node))
    return block_of


def _upstream(value: ir.Value | None) -> set[ir.Node]:
    """Return the nodes that a value is computed from."""
    reached: set[ir.Node] = set()
    stack = [producer_of(value)]
    while stack:
        node = stack.pop()
        if node is None or node in reached:
            continue
        reached.add(node)
        stack += [producer_of(one) for one in node.inputs]
    return reached
