"""Which convolutions are quantised, and where Q/DQ goes: the rules, with their reasons.

The rules are TensorRT's guidance for explicit quantisation of convolutional networks: Q/DQ on the
inputs of a convolution and never between it and its epilogue; on the skip input of a residual Add
only, so that Conv+Add+ReLU stays one kernel; the head, where one logit decides, stays in float.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import onnx_ir as ir

from lpx.graph.model_io import is_constant

MIN_CHANNELS = 16
"""Fewer channels do not fill an integer kernel's tile; the default of `min_channels`."""
ACTIVATIONS = frozenset({"Relu", "Clip"})
COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_POINTWISE = ACTIVATIONS | {"LeakyRelu", "HardSwish", "Elu", "PRelu"}
_MOVES = frozenset({
    "Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Gather", "Identity",
    "Pad", "Split", "Expand",
})  # fmt: skip
_SCORES = frozenset({
    "Sigmoid", "Softmax", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax",
    "ReduceLogSumExp", "ReduceSum", "TopK", "Exp", "Log",
})  # fmt: skip
# What ONNX Runtime's CPU provider computes in integers between pairs (seen in graphs as its
# optimiser leaves them), besides convolutions.
_KERNELS = frozenset({"LeakyRelu", "Sigmoid", "Mul", "Concat", "AveragePool"})
# It computes these in integers where their input and output have one scale...
_ONE_SCALE = frozenset({"DepthToSpace", "Split"})
# ... and moves a DequantizeLinear in front of these to behind them: they need no pair.
_PASSES_ON = frozenset({
    "MaxPool", "Transpose", "Reshape", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Identity",
})  # fmt: skip
# Behind these no activation is left that an integer convolution's rounding would be worth.
_ENDS = (_SCORES - {"Sigmoid"}) | {"Shape", "Size", "ArgMax"}


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
            computes in float all the same: only float nodes read their result.
    """

    convolutions: tuple[str, ...]
    uses: tuple[tuple[str, str, int], ...]
    outputs: tuple[str, ...]
    decisions: tuple[Decision, ...]
    shared: tuple[tuple[str, ...], ...] = ()
    derived: frozenset[str] = frozenset()
    stored: frozenset[str] = frozenset()

    @property
    def tensors(self) -> tuple[str, ...]:
        """Every activation that needs a scale, in graph order, once each."""
        return tuple(dict.fromkeys([use[0] for use in self.uses] + list(self.outputs)))

    @property
    def observed(self) -> tuple[str, ...]:
        """Those of `tensors` that calibration must have seen."""
        return tuple(name for name in self.tensors if name not in self.derived)


def place(
    model: ir.Model, *, depthwise: bool = True, integer_outputs: bool = False,
    min_channels: int = MIN_CHANNELS,
) -> Placement:  # fmt: skip
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
    region = _IntegerRegion(model.graph, names) if integer_outputs else None
    for node in model.graph:
        if adds_branches(node):
            if region is not None:
                indices, reason = region.judge_add(node)
            else:
                indices, reason = _judge_add(node, names, depth)
            decisions.append(Decision(name_of(node), "Add", bool(indices), reason))
            uses += [(tensor_of(node, index), name_of(node), index) for index in indices]
    outputs = region.outputs if region is not None else []
    stored: frozenset[str] = frozenset()
    if region is not None:
        stored = frozenset(name_of(node) for node in chosen if node not in region.convolutions)
        decisions = [_weights_only(d) if d.node in stored else d for d in decisions]
    pairs = {use[0] for use in uses} | set(outputs)
    if region is not None:
        reads = {
            name_of(node): tensor_of(node, 0) for node in model.graph if node.op_type == "Conv"
        }
        decisions = [
            replace(d, reason=f"{d.reason}; it reads {reads[d.node]} in 8 bits all the same")
            if not d.quantised and reads.get(d.node) in pairs else d
            for d in decisions
        ]  # fmt: skip
    judged = {decision.node for decision in decisions}
    for node in model.graph:
        if name_of(node) not in judged:
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
        tuple(name_of(node) for node in chosen),
        tuple(uses),
        tuple(outputs),
        tuple(decisions),
        (*shared, *(region.shared if region is not None else ())),
        frozenset(tensor_of(node, 0) for node in pooled),
        stored,
    )


class _IntegerRegion:
    """What ONNX Runtime computes in integers around the quantised convolutions.

    Its integer convolution ends in a QuantizeLinear, so a convolution runs in integers only where
    the tensor behind it (and behind the ReLU fused into it) has a pair. That tensor gets one
    wherever a convolution is reached from it: what stands between reads integers where ONNX Runtime
    has a kernel for it, and is computed in float between two pairs where it has not. A convolution
    in float, as the classifier is, counts too: on the demo model the pair in front of it costs
    nothing, while without it the convolution before would run in float.

    Args:
        graph: Every node named.
        quantised: Names of the quantised convolutions.

    Attributes:
        outputs: Tensors that get a pair at their source, in graph order.
        convolutions: The quantised convolutions whose result is among them.
        shared: (input, output) of nodes whose integer kernel wants one scale for both.
    """

    def __init__(self, graph: ir.Graph, quantised: set[str]) -> None:
        self.quantised = quantised
        self._wanted = self._reaching_convolutions(graph) - _into_cubic_resizes(graph)
        # Tensors that ONNX Runtime has as integers, and those of them that it computed so.
        self._read = {node.inputs[0] for node in graph if node.name in quantised}
        self._available: set[ir.Value | None] = set(self._read)
        self._made: set[ir.Value | None] = set()
        self._adds: set[ir.Node] = set()
        self.convolutions: set[ir.Node] = set()
        candidates: dict[ir.Node, list[ir.Value]] = {}
        for node in graph:
            self._visit(node, candidates)
        kept = self._kept(graph, candidates)
        found = [value for node in graph if node in kept for value in candidates[node]]
        self.outputs = list(dict.fromkeys(str(value.name) for value in found))
        one_scale = [node for node in graph if node in kept and _wants_one_scale(node)]
        self.shared = tuple(
            (tensor_of(node, 0), str(value.name))
            for node in one_scale for value in candidates[node]
        )  # fmt: skip

    def judge_add(self, node: ir.Node) -> tuple[tuple[int, ...], str]:
        """Indices of the inputs of an Add of branches that get Q/DQ, and why."""
        if node in self._adds:
            return (0, 1), "integer addition takes two integers"
        return (), "no quantised convolution ends in it"

    def _reaching_convolutions(self, graph: ir.Graph) -> set[ir.Value]:
        """Activations from which a convolution, a pool or an integer Add is reached."""
        wanted: set[ir.Value] = set()
        for node in reversed(graph):
            if node.op_type in COMPUTE:
                read = node.inputs[:1] if node.op_type == "Conv" else ()
            else:
                through = node.op_type not in _ENDS and any(v in wanted for v in node.outputs)
                starts = self._ends_convolution(node) or node.op_type == "MaxPool"
                read = node.inputs if starts or through else ()
            wanted.update(v for v in read if v is not None and _is_activation(v))
        return wanted

    def _ends_convolution(self, node: ir.Node) -> bool:
        """Whether a node is the Add of two branches, one of which ends in such a convolution."""
        if not adds_branches(node):
            return False
        makers = [value.producer() for value in node.inputs if value is not None]
        return any(maker is not None and maker.name in self.quantised for maker in makers)

    def _visit(self, node: ir.Node, candidates: dict[ir.Node, list[ir.Value]]) -> None:
        """Note which tensors a node gives as integers, its inputs being known."""
        data = [v for v in node.inputs if v is not None and _is_activation(v)]
        if node.op_type in COMPUTE:
            if node.name in self.quantised and self._make(node, candidates, data):
                self.convolutions.add(node)
        elif adds_branches(node):
            ends = self._ends_convolution(node)
            joins = any(v in self._made for v in data) and node.outputs[0] in self._wanted
            if ends or joins:
                self._adds.add(node)
                self._make(node, candidates, [])
        elif node.op_type in _PASSES_ON:
            if data and data[0] in self._available:
                self._available.update(node.outputs)
                self._made.update(node.outputs if data[0] in self._made else ())
        elif _wants_one_scale(node):
            outputs = [v for v in node.outputs if v in self._wanted and not v.is_graph_output()]
            if data and data[0] in self._available and outputs:
                candidates[node] = outputs
                self._available.update(outputs)
                self._made.update(outputs)
        elif node.op_type in _KERNELS and len(data) == sum(v is not None for v in node.inputs):
            known = [v in self._available for v in data]
            gates = [v for v in data if v not in self._available]
            if any(known) and (all(known) or (node.op_type == "Mul" and all(map(_gates, gates)))):
                self._make(node, candidates, gates)

    def _make(
        self, node: ir.Node, candidates: dict[ir.Node, list[ir.Value]], inputs: list[ir.Value]
    ) -> bool:
        """Let a node end in a pair, where a convolution wants its result; whether it does."""
        value = _fused(node)
        if value not in self._wanted or value.is_graph_output():
            return False
        candidates[node] = [*(v for v in inputs if v not in self._available), value]
        self._available.update(candidates[node])
        self._made.add(value)
        return True

    def _kept(
        self, graph: ir.Graph, candidates: dict[ir.Node, list[ir.Value]]
    ) -> set[ir.Node]:  # fmt: skip
        """Candidates that some integer kernel reads; a pair for float readers would only round."""
        kept: set[ir.Node] = set()
        read: set[ir.Value | None] = set(self._read)
        for node in reversed(graph):
            always = node in self.convolutions or node in self._adds
            needed = any(v in read for v in candidates.get(node, ()))
            if node in candidates and (always or needed):
                kept.add(node)
                read.update(node.inputs)
            elif node in self._adds or (
                node.op_type in _PASSES_ON and any(v in read for v in node.outputs)
            ):
                read.update(node.inputs)
        return kept


def _into_cubic_resizes(graph: ir.Graph) -> set[ir.Value]:
    """Activations that reach a cubic Resize with no convolution between.

    ONNX Runtime lays out integer convolutions with channels last and moves the transposition behind
    what follows; its cubic Resize then refuses to run, as it takes channels first alone (1.32).
    """
    found: set[ir.Value] = set()
    for node in reversed(graph):
        cubic = node.op_type == "Resize" and node.attributes.get_string("mode", "") == "cubic"
        through = node.op_type not in COMPUTE and any(v in found for v in node.outputs)
        if cubic or through:
            found.update(v for v in node.inputs if v is not None and _is_activation(v))
    return found


def _is_activation(value: ir.Value) -> bool:
    """Whether a value is computed from the input, and is no shape."""
    floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16, None)
    return not is_constant(value) and value.dtype in floats


def _wants_one_scale(node: ir.Node) -> bool:
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    return node.op_type in _ONE_SCALE


def _gates(value: ir.Value) -> bool:
    """Whether a value has one number for each channel: quantising it costs next to nothing."""
    sizes = list(value.shape or ())[2:]
    return len(sizes) == 2 and all(size == 1 for size in sizes)


def _fused(node: ir.Node) -> ir.Value:
    """The tensor behind a node and the activation that its integer kernel takes in.

    The kernel clamps at the ends of its output's range, which is what a ReLU does where the range
    begins at 0. An activation that may give less is computed apart.
    """
    value = node.outputs[0]
    consumers = value.consumers()
    if len(consumers) != 1 or value.is_graph_output() or not cuts_at_zero(consumers[0]):
        return value
    return consumers[0].outputs[0]


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


def cuts_at_zero(node: ir.Node) -> bool:
    """Whether a node is a ReLU, or a Clip whose lower limit is 0."""
    if node.op_type != "Clip":
        return node.op_type == "Relu"
    low = node.inputs[1] if len(node.inputs) > 1 else None
    if low is None or low.const_value is None:
        return False
    return float(low.const_value.numpy()) == 0


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


def only_reader(node: ir.Node) -> bool:
    """Whether nothing but `node` needs its first input."""
    value = node.inputs[0]
    return value is not None and len(value.uses()) == 1 and not value.is_graph_output()


def _weights_only(decision: Decision) -> Decision:
    note = "only float nodes read it, so ONNX Runtime computes it in float with quantised weights"
    return replace(decision, reason=f"{decision.reason}; {note}")


def name_of(node: ir.Node) -> str:
    """The node's name, which every node of a graph under a pass has."""
    assert node.name, "passes run on named nodes"
    return node.name


def adds_branches(node: ir.Node) -> bool:
    """Whether a node is the Add of two computed tensors."""
    return node.op_type == "Add" and not any(is_constant(v) for v in node.inputs)


def tensor_of(node: ir.Node, index: int) -> str:
    """Name of an input of a node."""
    value = node.inputs[index]
    assert value is not None
    assert value.name
    return value.name


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
        if node.op_type not in _KERNELS | _PASSES_ON and not _wants_one_scale(node):
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
    """Why a node that is no convolution, Add or pool stays in float."""
    if node.op_type == "Concat":
        return "left out: branches of different scales would be quantised again"
    if node.op_type in _MOVES:
        return "only moves values: a pair would save nothing, and has broken builds on Orin"
    if node.op_type in _SCORES:
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
