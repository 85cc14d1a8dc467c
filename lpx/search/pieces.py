"""Errors that an INT8 graph adds to a float one, in pieces whose effects can be measured alone.

Rounding happens in two places: weights, and tensors. TensorRT's dialects round a tensor each time
a quantised layer reads it; a piece is a group's weights with the tensors that its layers read. ONNX
Runtime's rounds a tensor once, at its source, for all its readers. There, a piece is a group's
weights with the tensors that only its layers read; the other tensors are pieces of their own, and
so are, for plans with that group in float, those that a quantised layer before it makes.

Every placement of the same rules is a set of such pieces: to first order, its effect on the scores
is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lpx.graph.nodes import adds_branches, name_of, nodes_by_name, producer_of, tensor_of
from lpx.graph.qdq.insert_qdq import Style
from lpx.graph.qdq.placement import Placement
from lpx.search.groups import Group


@dataclass(frozen=True)
class Piece:
    """A part of a placement.

    Attributes:
        name: "layer:" and the group, "tensor:" and the tensor, or "read:", tensor, node and index.
        convolutions: Names of the layers whose weights are rounded.
        uses: (tensor, node, input index) that are rounded as this node reads them.
        outputs: Tensors that are rounded for all their readers.
    """

    name: str
    convolutions: tuple[str, ...] = ()
    uses: tuple[tuple[str, str, int], ...] = ()
    outputs: tuple[str, ...] = ()

    def placement(self) -> Placement:
        """Return the placement of this piece alone."""
        return Placement(self.convolutions, self.uses, self.outputs, decisions=())


def pieces_of(
    graph: ir.Model, placement: Placement, style: Style, groups: Sequence[Group]
) -> tuple[Piece, ...]:
    """Return the pieces of a placement, and those that plans of its groups may add.

    Args:
        graph: The float graph that it was made for.
        placement: Every pair that the rules allow.
        style: Form of its pairs.
        groups: Groups of its layers.
    """
    if style.at_source:
        return _at_source(graph, placement, groups)
    return _per_use(graph, placement, groups)


def parts_of(placement: Placement, pieces: Iterable[Piece], style: Style) -> tuple[str, ...]:
    """Return the names of the pieces that a placement consists of, in the order of `pieces`.

    Args:
        placement: Placement of a plan, whose groups are in INT8 as a whole or not at all.
        pieces: As `pieces_of` returns them.
        style: Form of the pairs.
    """
    quantised = set(placement.convolutions)
    rounded = set(placement.tensors) if style.at_source else set()
    read = set() if style.at_source else set(placement.uses)
    parts = []
    for piece in pieces:
        if piece.convolutions:
            taken = quantised.issuperset(piece.convolutions)
        else:
            taken = rounded.issuperset(piece.outputs) and read.issuperset(piece.uses)
        if taken:
            parts.append(piece.name)
            # Not once more: layers come before the tensors that are part of them.
            rounded.difference_update(piece.outputs)
            read.difference_update(piece.uses)
    return tuple(parts)


def _per_use(graph: ir.Model, placement: Placement, groups: Sequence[Group]) -> tuple[Piece, ...]:
    pieces = []
    for group in groups:
        uses = tuple(use for use in placement.uses if use[1] in group.members)
        pieces.append(Piece(f"layer:{group.name}", group.members, uses))
    nodes = nodes_by_name(graph.graph)
    quantised = set(placement.convolutions)
    for tensor, name, index in placement.uses:
        if not adds_branches(nodes[name]):
            continue
        pieces.append(_read(tensor, name, index))
        # The Add is fused into the layer of the other branch. If layers end both, a plan may leave
        # that one in float, and then it is this branch's layer that fuses it.
        makers = {getattr(producer_of(value), "name", None) for value in nodes[name].inputs}
        if makers <= quantised:
            pieces.append(_read(tensor_of(nodes[name], 1 - index), name, 1 - index))
    return tuple(pieces)


def _read(tensor: str, node: str, index: int) -> Piece:
    return Piece(f"read:{tensor}:{node}:{index}", (), ((tensor, node, index),))


def _at_source(graph: ir.Model, placement: Placement, groups: Sequence[Group]) -> tuple[Piece, ...]:
    pieces = []
    nodes = nodes_by_name(graph.graph)
    rounded = set(placement.tensors)
    inside: set[str] = set()
    for group in groups:
        outputs = []
        for member in group.members:
            tensor = tensor_of(nodes[member], 0)
            if tensor in rounded and _readers(nodes[member]) <= set(group.members):
                outputs.append(tensor)
        outputs = list(dict.fromkeys(outputs))
        inside.update(outputs)
        pieces.append(Piece(f"layer:{group.name}", group.members, (), tuple(outputs)))
    for tensor in placement.tensors:
        # Others are rounded only together with the layer that reads them.
        if tensor not in inside or tensor in placement.outputs:
            pieces.append(Piece(f"tensor:{tensor}", (), (), (tensor,)))
    return tuple(pieces)


def _readers(node: ir.Node) -> set[str]:
    """Return the names of all nodes that read the first input of a node."""
    value = node.inputs[0]
    assert value is not None
    return {name_of(reader) for reader in value.consumers()}
