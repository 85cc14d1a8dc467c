"""Layers of a plan with their actual precision, and checks of the precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from lpx.engines.manifest import UNKNOWN, Precision
from lpx.errors import LpxError, NotAsAskedError

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_WIDEST_FIRST = ("fp32", "bf16", "fp16", "fp8", "int8", "fp4", "int4")
_SHOWN = 12
_NARROWER: dict[str, frozenset[str]] = {
    "fp32": frozenset({"fp16", "bf16", "fp8", "int8", "int4", "fp4"}),
    "fp16": frozenset({"fp8", "int8", "int4", "fp4"}),
    "int8": frozenset({"int4", "fp4"}),
}


@dataclass(frozen=True)
class PlanLayer:
    """One layer of a plan.

    Attributes:
        name: TensorRT's name, usually the names of the ONNX nodes that are fused in it.
        type: TensorRT's type, such as "CaskConvolution", "correlation", "kgen", "Reformat".
        precision: "fp32", "fp16", "int8" or another data type: that of the factors in a convolution
            or matrix product, and of the first output in any other layer; "unknown" if TensorRT
            does not report it.
        convolution: True for a convolution, as far as its type, kernel or name shows.
        nodes: Names of the ONNX nodes that it computes, as far as TensorRT reports them.
        profile: Index of its optimisation profile.
        multiplies: True for a convolution or a matrix product.
    """

    name: str
    type: str
    precision: str
    convolution: bool
    nodes: tuple[str, ...] = ()
    profile: int = 0
    multiplies: bool = False

    @property
    def dla(self) -> bool:
        """True for a loadable of a DLA core, which contains many nodes of the graph."""
        return self.type.upper() == "DLA"


@dataclass(frozen=True)
class LayerTable:
    """All layers of a plan, once for each of its profiles.

    Attributes:
        rows: The layers.
        graph_convolutions: Names of the convolutions in the graph that the plan was built from;
            empty if the graph is not known.
    """

    rows: tuple[PlanLayer, ...]
    graph_convolutions: tuple[str, ...] = ()

    @property
    def convolutions(self) -> tuple[PlanLayer, ...]:
        """Convolutions of all profiles.

        They include 1x1 convolutions that TensorRT has turned into matrix products, if the graph is
        known.
        """
        names = frozenset(self.graph_convolutions)
        rows = []
        for row in self.rows:
            if row.convolution or (row.multiplies and not names.isdisjoint(row.nodes)):
                rows.append(row)
        return tuple(rows)

    @property
    def beside_dla(self) -> tuple[str, ...]:
        """Names of the layers that fall back to the GPU in a plan for a DLA core."""
        return tuple(row.name for row in self.rows if not row.dla)

    @property
    def unrecognised(self) -> tuple[str, ...]:
        """Names of the graph's convolutions whose precision the table does not show."""
        found = self.precision_of_nodes()
        return tuple(name for name in self.graph_convolutions if name not in found)

    def precision_of_nodes(self) -> dict[str, str]:
        """Return the precision of each ONNX node that a convolution or matrix product computes.

        Other layers are ignored, since pointwise layers, such as the scaling after an INT8
        convolution, carry the name of the convolution and have another precision. A node is left
        out if the layer is missing in a profile, or its precision is unknown. If several layers or
        profiles compute a node, the widest precision counts.
        """
        profiles: dict[str, set[int]] = {}
        precisions: dict[str, set[str]] = {}
        for row in self.rows:
            if row.multiplies or row.convolution:
                for node in row.nodes:
                    profiles.setdefault(node, set()).add(row.profile)
                    precisions.setdefault(node, set()).add(row.precision)
        count = len(self.profiles)
        widest = {}
        for node, known in precisions.items():
            if len(profiles[node]) == count and UNKNOWN not in known:
                widest[node] = _widest(known)
        return widest

    def count_convolutions(self) -> dict[str, int]:
        """Count convolutions per precision, most frequent first; unrecognised ones as "unknown".

        They are those of the graph, or of the first profile's layers if the graph is not known.
        """
        return dict(Counter(self._precisions()).most_common())

    def share_of_layers(self) -> dict[str, float]:
        """Return the share of layers per precision, in [0, 1], without unknown precisions."""
        return _share(row.precision for row in self.rows)

    @property
    def profiles(self) -> list[int]:
        """Indices of the profiles in ascending order; profile 0 alone if there are no layers."""
        return sorted({row.profile for row in self.rows}) or [0]

    def _precisions(self) -> list[str]:
        if self.graph_convolutions:
            known = self.precision_of_nodes()
            return [known.get(name, UNKNOWN) for name in self.graph_convolutions]
        first = min((row.profile for row in self.rows), default=0)
        precisions = []
        for row in self.convolutions:
            if row.profile == first:
                precisions.append(row.precision)
        return precisions


def _widest(precisions: Iterable[str]) -> str:
    """Return the widest of some precisions; one that has no rank is wider than all others."""

    def rank(precision: str) -> int:
        if precision in _WIDEST_FIRST:
            return _WIDEST_FIRST.index(precision)
        # A type of a later TensorRT, which must not pass for a narrow one.
        return -1

    return min(precisions, key=rank)


def _share(precisions: Iterable[str]) -> dict[str, float]:
    counts = Counter(precisions)
    # Otherwise the shares of known precisions would depend on how many layers are reported.
    del counts[UNKNOWN]
    return {precision: count / counts.total() for precision, count in counts.most_common()}


def of_graph(table: LayerTable, model: bytes) -> LayerTable:
    """Return a table with the names of the convolutions in the graph.

    Args:
        table: Layers of a plan.
        model: ONNX model that the plan was built from.
    """
    from lpx.graph.proto import parse_proto  # imports onnx, which is not needed to run a plan

    names = []
    for node in parse_proto(model, "the graph").graph.node:
        if node.op_type in _CONVOLUTIONS:
            # TensorRT's parser names a node that has no name after its first output.
            names.append(node.name or f"node_of_{node.output[0]}")
    return replace(table, graph_convolutions=tuple(names))


def note_on_unrecognised(table: LayerTable) -> str:
    """Return a note on convolutions that are missing in the table; "" if there are none."""
    if not (lacking := table.unrecognised):
        return ""
    listed = ", ".join(lacking[:_SHOWN])
    if len(lacking) > _SHOWN:
        listed += ", ..."
    return (
        f"the precision of {len(lacking)} of {len(table.graph_convolutions)} convolutions is not "
        f"verified: TensorRT's table does not show which layers compute them ({listed})"
    )


def assert_precision(table: LayerTable, asked: Precision) -> None:
    """Check that a plan has the requested precision, in each of its profiles.

    It has if at least one convolution computes in this precision, and none in a narrower one. All
    layers count if the graph is not known and the table has no convolutions.

    Args:
        table: Layers of the plan.
        asked: Requested precision.

    Raises:
        NotAsAskedError: No convolution has this precision, or one has a narrower one; lists the
            layers.
        LpxError: The table does not show the precision.
    """
    for profile in table.profiles:
        _assert_precision_in(table, asked, profile)


def _assert_precision_in(table: LayerTable, asked: Precision, profile: int) -> None:
    counted = table.convolutions
    # If the graph has convolutions, other layers prove nothing: copies have a precision, too.
    if not counted and not table.graph_convolutions:
        counted = table.rows
    rows = [row for row in counted if row.precision != UNKNOWN and row.profile == profile]
    where = ""
    if any(table.profiles):
        where = f" in profile {profile}"
    if not rows:
        raise LpxError(
            f"it is not known whether the plan computes in {asked.upper()}{where}",
            why="TensorRT's table of layers shows no precision for any of its convolutions",
            fix="build the plan with lpx, which sets detailed profiling verbosity",
        )
    present = {row.precision for row in rows}
    if asked in present and not present & _NARROWER[asked]:
        return
    lines = [f"{row.precision:<5} {row.type:<16} {row.name}" for row in rows[:_SHOWN]]
    if len(rows) > _SHOWN:
        lines.append(f"... and {len(rows) - _SHOWN} more")
    raise NotAsAskedError(
        f"{asked.upper()} was requested, but the plan computes in "
        f"{', '.join(sorted(p.upper() for p in present))}{where}",
        why="its layers are\n    " + "\n    ".join(lines),
        fix=_fix(asked),
    )


def assert_on_dla(table: LayerTable) -> None:
    """Check that some of a plan runs on the DLA core, in each of its profiles.

    Raises:
        NotAsAskedError: All layers of a profile run on the GPU; lists them.
    """
    profiles = table.profiles
    for profile in profiles:
        rows = [row for row in table.rows if row.profile == profile]
        if any(row.dla for row in rows):
            continue
        what = "the whole plan runs"
        fix = "build for the GPU, which runs INT8 faster than a plan that switches between the two"
        if len(profiles) > 1:
            what = f"all of profile {profile} runs"
            fix += "; or name one batch size"
        lines = [f"{row.type:<16} {row.name}" for row in rows[:_SHOWN]]
        raise NotAsAskedError(
            f"a DLA core was requested, but {what} on the GPU",
            why="its layers are\n    " + "\n    ".join(lines),
            fix=fix,
        )


def _fix(asked: Precision) -> str:
    if asked == "int8":
        return (
            "build FP16 instead: TensorRT may ignore Q/DQ pairs, and computes in floats if it has "
            "no INT8 kernel, or a faster float kernel. TensorRT for RTX has no INT8 convolutions "
            "for compute capability 7.5, and none at all in a plan for 7.5 and other GPUs: leave "
            "it out of `compute_capabilities`"
        )
    return f"the precision is in the graph: build the {asked.upper()} graph, not another one"
