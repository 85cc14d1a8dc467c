"""Placement of Q/DQ pairs: the rules, with their reasons.

The rules follow TensorRT's guidance for explicit quantisation of convolutional networks: Q/DQ on
the inputs of a convolution and never between it and its epilogue; on a residual Add only on the
skip input, so that Conv+Add+ReLU stays one kernel; the head, where one logit decides the score,
stays in float.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

import onnx_ir as ir

from lpx.graph.activations import readers
from lpx.graph.model_io import is_constant
from lpx.graph.nodes import (
    ACTIVATIONS,
    COMPUTE,
    SCORES,
    adds_branches,
    name_of,
    nodes_by_name,
    only_reader,
    optional_input,
    producer_of,
    tensor_of,
)
from lpx.graph.qdq.integer_region import IN_FLOAT, AddInputs, IntegerRegion, has_kernel
from lpx.graph.qdq.plan import NO_PLAN, PrecisionPlan

# Default of `min_channels`: fewer channels do not fill an integer kernel's tile.
MIN_CHANNELS = 16
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
    """Decision to quantise a node, or not.

    Attributes:
        node: Name of the node.
        op_type: Its operator.
        quantised: True if it reads quantised tensors.
        reason: Reason for the decision.
    """

    node: str
    op_type: str
    quantised: bool
    reason: str


class Judgement(NamedTuple):
    """Judgement of a rule on a node, with its reason."""

    quantised: bool
    reason: str


@dataclass(frozen=True)
class Placement:
    """Places of Q/DQ pairs in a graph.

    Attributes:
        convolutions: Names of the nodes that compute in INT8.
        uses: (tensor, node, input index) of every quantised activation input.
        outputs: Tensors, besides those in `uses`, that integer kernels of ONNX Runtime need
            quantised at their source; empty in TensorRT's placement.
        decisions: One per node, in graph order.
        shared: Groups of tensors that share a scale.
        derived: Tensors that take the scale of their group, and need not be calibrated.
        stored: Those of `convolutions` that ONNX Runtime computes in float although their weights
            are stored as integers, because float nodes read their result.
        in_float: Nodes that read a tensor unquantised although others read it through a pair.
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
        """Activations that need a scale, in graph order."""
        return tuple(dict.fromkeys([use[0] for use in self.uses] + list(self.outputs)))

    @property
    def observed(self) -> tuple[str, ...]:
        """Those of `tensors` whose range calibration has to measure."""
        return tuple(name for name in self.tensors if name not in self.derived)


def place(
    model: ir.Model,
    *,
    depthwise: bool = True,
    integer_outputs: bool = False,
    min_channels: int = MIN_CHANNELS,
    plan: PrecisionPlan = NO_PLAN,
) -> Placement:
    """Decide where Q/DQ pairs go.

    Args:
        model: A float graph with batch norms folded and every node named.
        depthwise: Allow depthwise convolutions to be quantised.
        integer_outputs: Also quantise convolution outputs and both inputs of an Add. ONNX Runtime's
            integer kernels produce integers; TensorRT's convolutions fuse what follows instead.
        min_channels: Convolutions with fewer channels on either side stay in float.
        plan: Keeps further convolutions in float.
    """
    decisions: list[Decision] = []
    chosen: list[ir.Node] = []
    uses: list[tuple[str, str, int]] = []
    for node in model.graph:
        if node.op_type in COMPUTE:
            quantised, reason = judge_convolution(
                node, depthwise=depthwise, min_channels=min_channels, plan=plan
            )
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
    outputs: list[str] = []
    in_float: set[ir.Node] = set()
    if region is not None:
        outputs, in_float = region.outputs, region.in_float
    pairs = {use[0] for use in uses} | set(outputs)
    if region is not None:
        nodes = nodes_by_name(model.graph)
        decisions = [_noted(d, nodes[d.node], region, pairs) for d in decisions]
    # The other nodes last: what they read depends on where the pairs are.
    judged = {decision.node for decision in decisions}
    for node in model.graph:
        if name_of(node) not in judged:
            quantised, reason = False, IN_FLOAT
            if node not in in_float:
                quantised, reason = _judge_other(node, names, pairs, at_source=integer_outputs)
            decisions.append(Decision(name_of(node), node.op_type, quantised, reason))
    order = {name_of(node): position for position, node in enumerate(model.graph)}
    decisions.sort(key=lambda decision: order[decision.node])
    uses.sort(key=lambda use: (order[use[1]], use[2]))
    shared: list[tuple[str, ...]] = []
    derived: set[str] = set()
    for node in model.graph:
        if pooled_alone(node, pairs) and tensor_of(node, 0) in pairs:
            shared.append((tensor_of(node, 0), str(node.outputs[0].name)))
            derived.add(tensor_of(node, 0))
    stored: set[str] = set()
    if region is not None:
        shared += region.shared
        stored = names.difference(map(name_of, region.convolutions))
    return Placement(
        convolutions=tuple(name_of(node) for node in chosen),
        uses=tuple(uses),
        outputs=tuple(outputs),
        decisions=tuple(decisions),
        shared=tuple(shared),
        derived=frozenset(derived),
        stored=frozenset(stored),
        in_float=frozenset(map(name_of, in_float)),
    )


def narrowest(node: ir.Node) -> int | None:
    """Return the smaller number of channels of a convolution, input or output.

    None for a node that stays in float whatever `min_channels` is.
    """
    if node.op_type not in COMPUTE:
        return None
    if not judge_convolution(node, depthwise=True, min_channels=1).quantised:
        return None
    outputs, inputs = (int(size) for size in node.inputs[1].shape[:2])  # type: ignore[union-attr, index, arg-type]
    groups = node.attributes.get_int("group", 1)
    if groups == outputs > 1:
        # The rule does not apply to depthwise convolutions.
        return None
    return min(outputs, inputs * groups)


def pooled_alone(node: ir.Node, names: Collection[str]) -> bool:
    """Return True for a MaxPool whose input can use the scale of its output without loss.

    Args:
        node: Any node.
        names: Tensors that get a scale.
    """
    # Rounding and clipping preserve the order of values, so the maximum of rounded values is the
    # rounded maximum. Values that the output's scale clips at the input are then in no output
    # either; if nothing else reads the input, its range need not be calibrated.
    return node.op_type == "MaxPool" and node.outputs[0].name in names and only_reader(node)


def _noted(decision: Decision, node: ir.Node, region: IntegerRegion, pairs: set[str]) -> Decision:
    """Return a decision with a note on how ONNX Runtime will compute a convolution."""
    if decision.quantised and node.op_type == "Conv" and node not in region.convolutions:
        why = "only float nodes read it"
        if not region.in_float.isdisjoint(readers(node)):
            why = "a node that must read floats reads it"
        note = f"{why}, so ONNX Runtime computes it in float with quantised weights"
    elif not decision.quantised and node.op_type == "Conv" and tensor_of(node, 0) in pairs:
        note = f"it still reads {tensor_of(node, 0)} in 8 bits"
    else:
        return decision
    return replace(decision, reason=f"{decision.reason}; {note}")


def judge_convolution(
    node: ir.Node,
    *,
    depthwise: bool,
    unbroken: bool = False,
    min_channels: int = MIN_CHANNELS,
    plan: PrecisionPlan = NO_PLAN,
) -> Judgement:
    """Decide if a convolution or matrix product is quantised.

    Args:
        node: A node of `COMPUTE`.
        depthwise: Allow depthwise convolutions to be quantised.
        unbroken: Ignore rules that are only about speed: for a DLA, which runs INT8 regions as a
            whole.
        min_channels: A convolution with fewer channels on either side stays in float.
        plan: Keeps further ones in float; what the rules keep in float, it cannot quantise.
    """
    judgement = _by_rules(node, depthwise=depthwise, unbroken=unbroken, min_channels=min_channels)
    kept = plan.float_reason(name_of(node))
    if judgement.quantised and kept is not None:
        return Judgement(False, kept)
    if not judgement.quantised and plan.asks_int8(name_of(node)):
        return Judgement(
            False, f"{judgement.reason} (so the precision plan's INT8 is not followed)"
        )
    return judgement


def _by_rules(node: ir.Node, *, depthwise: bool, unbroken: bool, min_channels: int) -> Judgement:
    if not is_constant(node.inputs[1]):
        return Judgement(False, "both operands are computed: no weight to quantise")
    if node.op_type != "Conv":
        return Judgement(
            False, "not a convolution: the head has few products, and scores drift in 8 bits"
        )
    weight = node.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    if len(weight.shape) != 4:
        return Judgement(False, "not a convolution over height and width")
    if any(v is not None and not is_constant(v) for v in node.inputs[2:]):
        return Judgement(False, "the bias is computed: it cannot compensate rounding")
    outputs, inputs = int(weight.shape[0]), int(weight.shape[1])  # type: ignore[arg-type]
    groups = node.attributes.get_int("group", 1)
    if groups == outputs and groups > 1:
        if not depthwise:
            return Judgement(
                False, "depthwise: this target pads its channels in INT8, which costs more"
            )
        if outputs % 8 and not unbroken:
            return Judgement(False, f"depthwise with {outputs} channels, not a multiple of 8")
        return Judgement(True, f"depthwise with {outputs} channels")
    if groups > 1:
        inputs *= groups
    if outputs == 1:
        return Judgement(False, "the classifier: one logit per unit decides the score")
    if inputs == 3:
        return Judgement(
            False, "the RGB stem: pixels minus mean lose their lowest bits in 8-bit tensors"
        )
    if min(inputs, outputs) < min_channels and not unbroken:
        return Judgement(
            False, f"{inputs} -> {outputs} channels, under {min_channels} (min_channels)"
        )
    return Judgement(True, f"{inputs} -> {outputs} channels")


def _judge_other(
    node: ir.Node, quantised: set[str], pairs: set[str], *, at_source: bool
) -> Judgement:
    """Decide if a node without pairs of its own reads a dequantised tensor.

    Args:
        node: Any node but `COMPUTE` and an Add of two branches.
        quantised: Names of the quantised convolutions.
        pairs: Tensors that some node reads through a pair.
        at_source: True if all nodes read such a tensor through its pair.
    """
    value = optional_input(node, 0)
    maker = producer_of(value)
    if at_source and value is not None and value.name in pairs and not value.is_graph_output():
        reason = f"reads {value.name}, which is quantised at its source for all its readers"
        if not has_kernel(node):
            reason += f"; ONNX Runtime has no integer kernel for {node.op_type}"
        return Judgement(True, reason)
    if (
        node.op_type in _POINTWISE
        and maker is not None
        and (maker.name in quantised or adds_branches(maker))
    ):
        return Judgement(False, f"fused into {maker.name}: no pair may come between them")
    if node.op_type == "MaxPool":
        before = _before_activations(maker)
        inside = before is not None and before.name in quantised and node.outputs[0].name in pairs
        if inside:
            return Judgement(
                False, "between INT8 neighbours: TensorRT can move the pair after it to its input"
            )
        return Judgement(False, "not between INT8 neighbours: pools in the type of its input")
    return Judgement(False, float_reason(node))


def _before_activations(node: ir.Node | None) -> ir.Node | None:
    """Return the nearest node upstream, `node` itself included, that is not an activation."""
    while node is not None and node.op_type in ACTIVATIONS:
        node = producer_of(node.inputs[0])
    return node


def float_reason(node: ir.Node) -> str:
    """Return the reason why a node that is not a convolution, Add or pool stays in float."""
    if node.op_type == "Concat":
        return "not quantised: branches with different scales would be quantised twice"
    if node.op_type in _MOVES:
        return "only moves values: a pair would save nothing, and has broken builds on Orin"
    if node.op_type in SCORES:
        return "pools or squashes scores, which drift in 8 bits"
    return f"{node.op_type} is computed in float"


def _depths(graph: ir.Graph) -> dict[ir.Value, int]:
    """Return the longest distance of each value from the inputs, in nodes."""
    depth: dict[ir.Value, int] = {}
    for node in graph:
        longest = 0
        for value in node.inputs:
            if value is not None:
                longest = max(longest, depth.get(value, 0))
        depth |= dict.fromkeys(node.outputs, longest + 1)
    return depth


def _judge_add(node: ir.Node, quantised: set[str], depth: dict[ir.Value, int]) -> AddInputs:
    """Decide which inputs of an Add get Q/DQ for TensorRT."""
    branches = [v for v in node.inputs if v is not None]
    producers = [v.producer() for v in branches]
    convolved = [p is not None and p.name in quantised for p in producers]
    if not any(convolved):
        return AddInputs((), "no quantised convolution ends in it")
    # Only a convolution can fuse the Add into its epilogue; of two, that of the longer branch.
    main = max((0, 1), key=lambda i: (convolved[i], depth.get(branches[i], 0)))
    kind = "projection"
    if _feeds(branches[1 - main], branches[main]):
        kind = "identity"
    return AddInputs((1 - main,), f"{kind} skip only: the other branch's convolution fuses the Add")


def _feeds(value: ir.Value, later: ir.Value) -> bool:
    """Return True if `later` is computed from `value`."""
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
