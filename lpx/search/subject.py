"""What a search works on: the float graph, where the rules would quantise it, and the pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

import onnx_ir as ir

from lpx.calibration.scales import IMPORTED
from lpx.engines.build import placement_of, require_quantised, style_of
from lpx.engines.request import BuildRequest
from lpx.engines.work import multiply_accumulates
from lpx.errors import LpxError
from lpx.graph.layers import read_named
from lpx.graph.model_io import serialise
from lpx.graph.qdq.insert_qdq import Range, Style, insert_qdq, shared_ranges
from lpx.graph.qdq.placement import Placement
from lpx.graph.qdq.plan import LayerPlan, PrecisionPlan
from lpx.graph.qdq.prepare import prepare_model
from lpx.graph.resume import Part, behind, cut_before
from lpx.search.groups import Group, groups_of
from lpx.search.pieces import Piece, parts_of, pieces_of

_SOURCE = "the exported model"


@dataclass(frozen=True)
class Subject:
    """A model whose layers may be INT8 or float, in the dialect of a target.

    Attributes:
        data: The float graph, ONNX, as it is calibrated and quantised.
        request: Target, ranges, calibration method and weight options.
        dialect: Dialect of the target's INT8 graphs.
        placement: Every pair that the rules allow.
        ranges: Range of every tensor that has a pair.
        groups: Groups of layers, in graph order.
        pieces: Pieces of the placement, and of what plans can make of it.
    """

    data: bytes
    request: BuildRequest
    dialect: str
    placement: Placement
    ranges: dict[str, Range]
    groups: tuple[Group, ...]
    pieces: tuple[Piece, ...]

    @cached_property
    def graph(self) -> ir.Model:
        """The float graph; not to be changed."""
        return read_named(self.data, _SOURCE)

    @property
    def style(self) -> Style:
        """Form of the pairs, with weights that need no scale of their input."""
        return replace(style_of(self.dialect), stored_weights=False)

    @cached_property
    def float_digest(self) -> str:
        """SHA-256 of the float graph."""
        return hashlib.sha256(self.data).hexdigest()

    def digest(self, piece: Piece) -> str:
        """Return a SHA-256 of everything that the effect of a piece depends on, but the faces."""
        scales = self.request.scales
        assert scales is not None
        parts = (
            self.float_digest,
            scales.summary()["ranges_sha256"],
            self.request.method,
            self.dialect,
            repr(self.request.weights),
            repr(piece),
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def plan(self, int8: Collection[str], reasons: dict[str, str] | None = None) -> PrecisionPlan:
        """Return the plan that quantises some groups, and keeps the others in float.

        Args:
            int8: Names of groups.
            reasons: Why others stay in float, by the name of the group.
        """
        layers = {}
        for group in self.groups:
            layer = LayerPlan("float", (reasons or {}).get(group.name, ""))
            if group.name in int8:
                layer = LayerPlan("int8")
            layers.update(dict.fromkeys(group.members, layer))
        return PrecisionPlan(layers)

    def placement_of(self, int8: Collection[str]) -> Placement:
        """Return the placement of a plan, as a build makes it.

        Args:
            int8: Names of groups.

        Raises:
            LpxError: A group does not exist (code "not-found").
        """
        self._check_groups(int8)
        placement = placement_of(
            self.graph,
            self.request.target,
            self.dialect,
            self.request.weights.min_channels,
            self.plan(int8),
        )
        return _within(self.ranges, placement)

    def parts(self, int8: Collection[str]) -> tuple[str, ...]:
        """Return the names of the pieces that a plan consists of; arguments as `placement_of`."""
        return parts_of(self.placement_of(int8), self.pieces, self.style)

    def lowered(self, int8: Collection[str]) -> bytes:
        """Return the float32 graph of a plan with its pairs, ONNX; arguments as `placement_of`.

        For ONNX Runtime this is the graph of the engine; without groups, the float graph.
        """
        if not int8:
            return self.data
        placement = self.placement_of(int8)
        graph = read_named(self.data, _SOURCE)
        insert_qdq(graph, placement, self.ranges, style_of(self.dialect), self.request.weights)
        return serialise(graph)

    def _check_groups(self, names: Collection[str]) -> None:
        known = {group.name for group in self.groups}
        unknown = sorted(set(names) - known)
        if unknown:
            raise LpxError(
                f"the model has no group of layers called {unknown[0]}",
                f"it has {len(known)} groups, such as {min(known)}",
                "use the names of `Subject.groups`",
                code="not-found",
            )

    @cached_property
    def _behind(self) -> dict[tuple[Piece, tuple[str, ...]], Part]:
        return {}

    def behind(self, piece: Piece, outputs: tuple[str, ...]) -> Part:
        """Return the graph of a piece and of all layers behind it; made once.

        Its inputs are the float graph's tensors before the piece, see
        `lpx.graph.resume.cut_before`.

        Args:
            piece: The piece, which alone is quantised.
            outputs: Outputs of the graph.
        """
        if (piece, outputs) in self._behind:
            return self._behind[piece, outputs]
        graph = read_named(self.data, _SOURCE)
        before = {node.name for node in graph.graph}
        insert_qdq(graph, piece.placement(), self.ranges, self.style, self.request.weights)
        changed = [node for node in graph.graph if node.name not in before]
        for node in graph.graph:
            if node.name in piece.convolutions:
                changed.append(node)
                _store_rounded(node)
        self._behind[piece, outputs] = cut_before(graph, behind(graph, changed), outputs)
        return self._behind[piece, outputs]


def _store_rounded(node: ir.Node) -> None:
    """Replace the pair of a layer's weights by the rounded weights, which lie on its levels.

    ONNX Runtime would compute the pair again in each call, and run the layer as one whose weights
    may change.
    """
    value = node.inputs[1]
    for _ in ("DequantizeLinear", "QuantizeLinear"):
        assert value is not None
        producer = value.producer()
        assert producer is not None
        value = producer.inputs[0]
    node.replace_input_with(1, value)


def open_subject(
    model: bytes, request: BuildRequest, dialect: str, *, blocks: bool = False
) -> Subject:
    """Place the pairs, and take the placement apart.

    Args:
        model: The exported model, ONNX.
        request: INT8, with ranges of the model as `prepare_model` makes it.
        dialect: Dialect of the target's INT8 graphs.
        blocks: Take a residual block as one group.

    Raises:
        NotAsAskedError: The rules leave every layer in float.
        LpxError: The model is quantised already.
    """
    weights = request.weights
    data, _ = prepare_model(
        model, _SOURCE, equalised=weights.equalise, requantise=weights.requantise
    )
    graph = read_named(data, _SOURCE)
    placement = placement_of(graph, request.target, dialect, weights.min_channels)
    require_quantised(graph, placement, weights.min_channels)
    assert request.scales is not None, "a search needs ranges"
    ranges = request.scales.ranges(request.method)
    if request.scales.method == IMPORTED:
        placement = _within(ranges, placement)
    complete = {**ranges, **shared_ranges(placement, ranges)}
    groups = groups_of(graph, placement, multiply_accumulates(serialise(graph)), blocks=blocks)
    pieces = pieces_of(graph, placement, style_of(dialect), groups)
    return Subject(data, request, dialect, placement, complete, groups, pieces)


def _within(ranges: Collection[str], placement: Placement) -> Placement:
    """Leave tensors without a range in float: imported calibration caches lack some."""
    known = tuple(name for name in placement.outputs if name in ranges)
    return replace(placement, outputs=known)
