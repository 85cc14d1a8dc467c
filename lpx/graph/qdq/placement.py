"""Which convolutions are quantised, and where Q/DQ goes: the rules, with their reasons.

The rules are TensorRT's guidance for explicit quantisation of convolutional networks: Q/DQ on the
inputs of a convolution and never between it and its epilogue; on the skip input of a residual Add
only, so that Conv+Add+ReLU stays one kernel; the head, where one logit decides, stays in float.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import onnx_ir as ir

from lpx.graph.activations import readers
from lpx.graph.model_io import is_constant
from lpx.graph.nodes import (
    ACTIVATIONS,
    COMPUTE,
    SCORES,
    adds_branches,
    name_of,
    only_reader,
    tensor_of,
)
from lpx.graph.qdq.integer_region import IN_FLOAT, IntegerRegion, has_kernel

MIN_CHANNELS = 16
"""Fewer channels do not fill an integer kernel's tile; the default of `min_channels`."""
_POINTWISE = ACTIVATIONS | {"LeakyRelu", "HardSwish", "Elu", "PRelu"}
_MOVES = frozenset(
    {
        "Reshape",
        "Transpose",
        "Slice",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Gather",
        "Identity",
        "Pad",
        "Split",
        "Expand",
    }
)


@dataclass(frozen=True)
class Decision:
    """Whether a node is quantised, and why."""

    node: str
    op_type: str
    quantised: bool
    reason: str


@dataclass(frozen=True)
class Placement:
    """Where Q/DQ pairs go.

    Attributes:
        convolutions: Names of the nodes that compute in INT8.
        uses: (tensor, node, input index) of every quantised activation input.
        outputs: Tensors that integer kernels of ONNX Runtime want quantised at their source, beside
            those in `uses`; empty in TensorRT's placement.
        decisions: One per node, in graph order.
        shared: Groups of tensors that have one scale.
        derived: Tensors of a group that take its scale over, and need not be observed.
        stored: Those of `convolutions` whose weights are stored as integers and that ONNX Runtime
            computes in float all the same: float nodes read their result.
        in_float: Nodes that read a tensor as it is, though others read it through a pair.
    """

    convolutions: tuple[str, ...]
    uses: tuple[tuple[str, str, int], ...]
    outputs: tuple[str, ...]
    decisions: tuple[Decision, ...]
    shared: tuple[tuple[str, ...], ...] = ()
    derived: frozenset[str] = frozenset()
    stored: frozenset[str] = frozenset()
    in_float: frozenset[str] = frozenset()

    @property
    def tensors(self) -> tuple[str, ...]:
        """Every activation that needs a scale, in graph order, once each."""
        return tuple(dict.fromkeys([use[0] for use in self.uses] + list(self.outputs)))

    @property
    def observed(self) -> tuple[str, ...]:
        """Those of `tensors` that calibration must have seen."""
        return tuple(name for name in self.tensors if name not in self.derived)


def place(
    model: ir.Model,
    *,
    depthwise: bool = True,
    integer_outputs: bool = False,
    min_channels: int = MIN_CHANNELS,
) -> Placement:
    """Decide where Q/DQ goes.

    Args:
        model: A float graph with batch norms folded and every node named.
        depthwise: Whether depthwise convolutions may be quantised.
        integer_outputs: Quantise convolution outputs and both inputs of an Add too. ONNX Runtime's
            integer kernels produce integers; TensorRT's convolutions fuse what follows instead.
        min_channels: Convolutions with fewer channels on either side stay in float.
    """
    decisions: list[Decision] = []
    chosen: list[ir.Node] = []
    uses: list[tuple[str, str, int]] = []
    for node in model.graph:
        if node.op_type in COMPUTE:
            quantised, reason = judge(node, depthwise, min_channels=min_channels)
            decisions.append(Decision(name_of(node), node.op_type, quantised, reason))
            if quantised:
                chosen.append(node)
                uses.append((tensor_of(node, 0), name_of(node), 0))
    names = {name_of(node) for node in chosen}
    depth = _depths(model.graph)
    region = IntegerRegion(model.graph, names) if integer_outputs else None
    for node in model.graph:
        if adds_branches(node):
            if region is not None:
                indices, reason = region.judge_add(node)
            else:
                indices, reason = _judge_add(node, names, depth)
            decisions.append(Decision(name_of(node), "Add", bool(indices), reason))
            uses += [(tensor_of(node, index), name_of(node), index) for index in indices]
    outputs = region.outputs if region is not None else []
    in_float = region.in_float if region is not None else set()
    pairs = {use[0] for use in uses} | set(outputs)
    if region is not None:
        nodes = {name_of(node): node for node in model.graph}
        decisions = [_noted(d, nodes[d.node], region, pairs) for d in decisions]
    judged = {decision.node for decision in decisions}
    for node in model.graph:
        if name_of(node) not in judged:
            quantised, reason = False, IN_FLOAT
            if node not in in_float:
                quantised, reason = _judge_other(node, names, pairs, integer_outputs)
            decisions.append(Decision(name_of(node), node.op_type, quantised, reason))
    order = {name_of(node): position for position, node in enumerate(model.graph)}
    decisions.sort(key=lambda decision: order[decision.node])
    uses.sort(key=lambda use: (order[use[1]], use[2]))
    pooled = [
        node for node in model.graph if pooled_alone(node, pairs) and tensor_of(node, 0) in pairs
    ]
    shared = [(tensor_of(node, 0), str(node.outputs[0].name)) for node in pooled]
    return Placement(
        convolutions=tuple(name_of(node) for node in chosen),
        uses=tuple(uses),
        outputs=tuple(outputs),
        decisions=tuple(decisions),
        shared=(*shared, *(region.shared if region is not None else ())),
        derived=frozenset(tensor_of(node, 0) for node in pooled),
        stored=frozenset(
            name_of(node)
            for node in chosen
            if region is not None and node not in region.convolutions
        ),
        in_float=frozenset(map(name_of, in_float)),
    )


def narrowest(node: ir.Node) -> int | None:
    """Channels on the narrower side of a convolution that a smaller `min_channels` would quantise.

    None for one that other rules leave in float.
    """
    if node.op_type not in COMPUTE or not judge(node, True, min_channels=1)[0]:
        return None
    outputs, inputs = (int(size) for size in node.inputs[1].shape[:2])  # type: ignore[union-attr, index, arg-type]
    groups = node.attributes.get_int("group", 1)
    # The rule is not about depthwise convolutions.
    return None if groups == outputs > 1 else min(outputs, inputs * groups)


def pooled_alone(node: ir.Node, names: Collection[str]) -> bool:
    """Whether a node is a MaxPool whose input can have its output's scale, and lose nothing.

    Rounding and clipping keep the order of values, so the largest of rounded values is the largest
    value, rounded. What the scale of the output clips at the input is in no output, then; if
    nothing else reads it, it need not be seen in calibration either.

    Args:
        node: Any node.
        names: Tensors that get a scale.
    """
    return node.op_type == "MaxPool" and node.outputs[0].name in names and only_reader(node)


def _noted(decision: Decision, node: ir.Node, region: IntegerRegion, pairs: set[str]) -> Decision:
    """A decision, with what ONNX Runtime makes of a convolution."""
    if decision.quantised and node.op_type == "Conv" and node not in region.convolutions:
        needed = any(reader in region.in_float for reader in readers(node))
        why = "a node that must read floats reads it" if needed else "only float nodes read it"
        note = f"{why}, so ONNX Runtime computes it in float with quantised weights"
    elif not decision.quantised and node.op_type == "Conv" and tensor_of(node, 0) in pairs:
        note = f"it reads {tensor_of(node, 0)} in 8 bits all the same"
    else:
        return decision
    return replace(decision, reason=f"{decision.reason}; {note}")


def judge(
    node: ir.Node, depthwise: bool, *, unbroken: bool = False, min_channels: int = MIN_CHANNELS
) -> tuple[bool, str]:
    """Whether a convolution or matrix product is quantised, and why.

    Args:
        node: One of `COMPUTE`.
        depthwise: Whether depthwise convolutions may be.
        unbroken: Let no rule about speed make a gap: for a DLA, which takes INT8 regions whole.
        min_channels: With fewer channels on either side it stays in float.
    """
    if not is_constant(node.inputs[1]):
        return False, "both operands are computed: no weight to quantise"
    if node.op_type != "Conv":
        return False, "not a convolution: the head's products are few, and scores drift"
    weight = node.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    if len(weight.shape) != 4:
        return False, "not a convolution over height and width"
    if any(v is not None and not is_constant(v) for v in node.inputs[2:]):
        return False, "the bias is computed: it cannot take up what rounding moves"
    outputs, inputs = int(weight.shape[0]), int(weight.shape[1])  # type: ignore[arg-type]
    groups = node.attributes.get_int("group", 1)
    if groups == outputs and groups > 1:
        if not depthwise:
            return False, "depthwise: this target pads its channels in INT8, which costs more"
        if outputs % 8 and not unbroken:
            return False, f"depthwise with {outputs} channels, not a multiple of 8"
        return True, f"depthwise with {outputs} channels"
    if groups > 1:
        inputs *= groups
    if outputs == 1:
        return False, "the classifier: one logit per unit decides the score"
    if inputs == 3:
        return False, "the RGB stem: 8 bits of pixels minus mean lose their last bits"
    if min(inputs, outputs) < min_channels and not unbroken:
        return False, f"{inputs} -> {outputs} channels, under {min_channels} (--min-channels)"
    return True, f"{inputs} -> {outputs} channels"


def _judge_other(
    node: ir.Node, quantised: set[str], pairs: set[str], at_source: bool
) -> tuple[bool, str]:
    """Whether a node reads a dequantised tensor, and why; for nodes that need no pair themselves.

    Args:
        node: Any node but `COMPUTE` and an Add of two branches.
        quantised: Names of the convolutions that are.
        pairs: Tensors that some node reads through a pair.
        at_source: Whether all readers of such a tensor do.
    """
    value = node.inputs[0] if node.inputs else None
    maker = value.producer() if value is not None else None
    if at_source and value is not None and value.name in pairs and not value.is_graph_output():
        reason = f"reads {value.name}, which is quantised at its source for all its readers"
        if not has_kernel(node):
            reason += f"; ONNX Runtime has no integer kernel for {node.op_type}"
        return True, reason
    epilogue = maker is not None and (maker.name in quantised or adds_branches(maker))
    if node.op_type in _POINTWISE and epilogue:
        return False, f"fused behind {maker.name}: nothing goes between them"  # type: ignore[union-attr]
    if node.op_type == "MaxPool":
        before = _behind_activations(maker)
        inside = before is not None and before.name in quantised and node.outputs[0].name in pairs
        if inside:
            return False, "between INT8 neighbours: the pair behind it can be moved to its front"
        return False, "not between INT8 neighbours: pooled in the type of what it reads"
    return False, float_reason(node)


def _behind_activations(node: ir.Node | None) -> ir.Node | None:
    """The node whose result reaches `node` through activations only."""
    while node is not None and node.op_type in ACTIVATIONS:
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    return node


def float_reason(node: ir.Node) -> str:
    """Why a node that is not a convolution, Add or pool stays in float."""
    if node.op_type == "Concat":
        return "left out: branches of different scales would be quantised again"
    if node.op_type in _MOVES:
        return "only moves values: a pair would save nothing, and has broken builds on Orin"
    if node.op_type in SCORES:
        return "pools or squashes scores, which drift in 8 bits"
    return f"{node.op_type} is computed in float"


def _depths(graph: ir.Graph) -> dict[ir.Value, int]:
    """Longest distance of each value from the inputs, in nodes."""
    depth: dict[ir.Value, int] = {}
    for node in graph:
        reached = 1 + max((depth.get(v, 0) for v in node.inputs if v is not None), default=0)
        depth |= dict.fromkeys(node.outputs, reached)
    return depth


def _judge_add(
    node: ir.Node, quantised: set[str], depth: dict[ir.Value, int]
) -> tuple[tuple[int, ...], str]:
    """Indices of the inputs that get Q/DQ for TensorRT, and why."""
    branches = [v for v in node.inputs if v is not None]
    producers = [v.producer() for v in branches]
    convolved = [p is not None and p.name in quantised for p in producers]
    if not any(convolved):
        return (), "no quantised convolution ends in it"
    # Only a convolution can take the Add into its epilogue; of two, the longer branch is the main.
    main = max((0, 1), key=lambda i: (convolved[i], depth.get(branches[i], 0)))
    kind = "identity" if _feeds(branches[1 - main], branches[main]) else "projection"
    return (1 - main,), f"{kind} skip only: the other branch's convolution fuses the Add"


def _feeds(value: ir.Value, later: ir.Value) -> bool:
    """Whether `later` is computed from `value`."""
    stack, seen = [later], set()
    while stack:
        current = stack.pop()
        if current is value:
            return True
        producer = current.producer()
        if producer is not None and producer not in seen:
            seen.add(producer)
            stack += [v for v in producer.inputs if v is not None]
    return False
