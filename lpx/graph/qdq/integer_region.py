"""The region around quantised convolutions that ONNX Runtime computes in integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import onnx_ir as ir

from lpx.graph.activations import is_activation, readers
from lpx.graph.nodes import (
    COMPUTE,
    SCORES,
    adds_branches,
    cuts_at_zero,
    producer_of,
    tensor_of,
)

# Operators besides convolutions that ONNX Runtime's CPU provider computes in integers between pairs
# (observed in the graphs that its optimiser writes).
_KERNELS = frozenset({"LeakyRelu", "Sigmoid", "Mul", "Concat", "AveragePool"})
# It computes these in integers if their input and output have the same scale...
_ONE_SCALE = frozenset({"DepthToSpace", "Split"})
# ... and moves a DequantizeLinear from before these to after them: they need no pair.
PASSES_ON = frozenset(
    {
        "MaxPool",
        "Transpose",
        "Reshape",
        "Slice",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Identity",
    }
)
# After these, no activation is left that would repay the rounding of an integer convolution.
_ENDS = (SCORES - {"Sigmoid"}) | {"Shape", "Size", "ArgMax"}

# Reason for a node that must read floats.
IN_FLOAT = "ONNX Runtime cannot run it, or what follows it, after an integer convolution"


class AddInputs(NamedTuple):
    """Indices of the inputs of an Add that get a Q/DQ pair, with the reason."""

    indices: tuple[int, ...]
    reason: str


class IntegerRegion:
    """The region around the quantised convolutions that ONNX Runtime computes in integers.

    Args:
        graph: Graph whose nodes are named.
        quantised: Names of the quantised convolutions.

    Attributes:
        outputs: Tensors that get a pair at their source, in graph order.
        convolutions: The quantised convolutions whose result is one of these.
        shared: (input, output) of nodes whose integer kernel needs the same scale for both.
        in_float: Nodes that must read floats, even of a tensor that others read through a pair; the
            convolution before them stays in float.
    """

    # An integer convolution ends in a QuantizeLinear, so a convolution runs in integers only if the
    # tensor after it (and after the ReLU fused into it) has a pair. It gets one if another
    # convolution can be reached from it: nodes between the two read integers if ONNX Runtime has a
    # kernel for them, and are otherwise computed in float between two pairs. The classifier, which
    # is in float, counts as a convolution here: on the demo model the pair before it costs nothing,
    # while without it the convolution before it would run in float.

    def __init__(self, graph: ir.Graph, quantised: set[str]) -> None:
        self.quantised = quantised
        self.in_float = _lead_to_failures(graph)
        self._wanted = self._reaching_convolutions(graph)
        for node in self.in_float:
            self._wanted.difference_update(node.inputs)
        self._read: set[ir.Value | None] = set()
        for node in graph:
            if node.name in quantised:
                self._read.add(node.inputs[0])
        # Tensors that exist as integers, and those of them that were computed as such.
        self._available: set[ir.Value | None] = set(self._read)
        self._made: set[ir.Value | None] = set()
        self._adds: set[ir.Node] = set()
        self.convolutions: set[ir.Node] = set()
        candidates: dict[ir.Node, list[ir.Value]] = {}
        for node in graph:
            self._visit(node, candidates)
        kept = self._kept(graph, candidates)
        self.outputs: list[str] = []
        self.shared: list[tuple[str, str]] = []
        for node in graph:
            if node not in kept:
                continue
            for value in candidates[node]:
                if str(value.name) not in self.outputs:
                    self.outputs.append(str(value.name))
                if _needs_one_scale(node):
                    self.shared.append((tensor_of(node, 0), str(value.name)))

    def judge_add(self, node: ir.Node) -> AddInputs:
        """Decide which inputs of an Add of two branches get Q/DQ."""
        if node in self._adds:
            return AddInputs((0, 1), "integer addition needs two integers")
        if node in self.in_float:
            return AddInputs((), IN_FLOAT)
        return AddInputs((), "no quantised convolution ends in it")

    def _reaching_convolutions(self, graph: ir.Graph) -> set[ir.Value | None]:
        """Return the activations from which a convolution, a pool or an integer Add is reached."""
        wanted: set[ir.Value | None] = set()
        for node in reversed(graph):
            read: Sequence[ir.Value | None] = ()
            if node.op_type == "Conv":
                read = node.inputs[:1]
            elif node.op_type not in COMPUTE:
                through = node.op_type not in _ENDS and not wanted.isdisjoint(node.outputs)
                starts = self._ends_convolution(node) or node.op_type == "MaxPool"
                if starts or through:
                    read = node.inputs
            wanted.update(filter(is_activation, read))
        return wanted

    def _ends_convolution(self, node: ir.Node) -> bool:
        """Return True for an Add of two branches of which one ends in a quantised convolution."""
        if not adds_branches(node):
            return False
        for producer in map(producer_of, node.inputs):
            if producer is not None and producer.name in self.quantised:
                return True
        return False

    def _visit(self, node: ir.Node, candidates: dict[ir.Node, list[ir.Value]]) -> None:
        """Record which tensors a node gives as integers; its inputs have been visited."""
        if node in self.in_float:
            return
        data = [v for v in node.inputs if is_activation(v)]
        if node.op_type in COMPUTE:
            if node.name in self.quantised and self._make(node, candidates, data):
                self.convolutions.add(node)
        elif adds_branches(node):
            ends = self._ends_convolution(node)
            joins = not self._made.isdisjoint(data) and node.outputs[0] in self._wanted
            if ends or joins:
                self._adds.add(node)
                self._make(node, candidates, [])
        elif node.op_type in PASSES_ON:
            if data and data[0] in self._available:
                self._available.update(node.outputs)
                if data[0] in self._made:
                    self._made.update(node.outputs)
        elif _needs_one_scale(node):
            outputs = [v for v in node.outputs if v in self._wanted and not v.is_graph_output()]
            if data and data[0] in self._available and outputs:
                candidates[node] = outputs
                self._available.update(outputs)
                self._made.update(outputs)
        elif node.op_type in _KERNELS and len(data) == sum(v is not None for v in node.inputs):
            # All inputs are activations: the kernels take no constants. Inputs that are floats
            # still get a pair if that is cheap.
            floats = [v for v in data if v not in self._available]
            cheap = node.op_type == "Mul" and all(map(is_gate, floats))
            if len(floats) < len(data) and (cheap or not floats):
                self._make(node, candidates, floats)

    def _make(
        self, node: ir.Node, candidates: dict[ir.Node, list[ir.Value]], inputs: list[ir.Value]
    ) -> bool:
        """Let a node end in a pair if a convolution is reached from it; return True if so."""
        value = _fused(node)
        if value not in self._wanted or value.is_graph_output():
            return False
        candidates[node] = [*(v for v in inputs if v not in self._available), value]
        self._available.update(candidates[node])
        self._made.add(value)
        return True

    def _kept(self, graph: ir.Graph, candidates: dict[ir.Node, list[ir.Value]]) -> set[ir.Node]:
        """Return the candidates that an integer kernel reads; for others, a pair only rounds."""
        kept: set[ir.Node] = set()
        read: set[ir.Value | None] = set(self._read)
        for node in reversed(graph):
            always = node in self.convolutions or node in self._adds
            needed = not read.isdisjoint(candidates.get(node, ()))
            if node in candidates and (always or needed):
                kept.add(node)
                read.update(node.inputs)
            elif node in self._adds or (
                node.op_type in PASSES_ON and not read.isdisjoint(node.outputs)
            ):
                read.update(node.inputs)
        return kept


def _lead_to_failures(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that fail after an integer convolution, and those on a path to one."""
    failing: set[ir.Node] = set()
    for node in reversed(graph):
        # A float convolution in between needs channels first, and so ends the path.
        leads = node.op_type not in COMPUTE and not failing.isdisjoint(readers(node))
        if leads or _fails_after_integers(node):
            failing.add(node)
    return failing


def _fails_after_integers(node: ir.Node) -> bool:
    """Return True if ONNX Runtime (1.32) fails on a node after an integer convolution."""
    # It computes integer convolutions with channels last, and moves the transposition past the
    # nodes that follow. A cubic Resize supports only channels first; for a Resize or a Pad that
    # names its axes, as CenterCropPad is expanded to, it permutes sizes that are not there.
    # QLinearAveragePool has no dilations, and with both `ceil_mode` and `count_include_pad` it
    # divides by the wrong count.
    attributes = node.attributes
    if node.op_type == "Resize":
        return "axes" in attributes or attributes.get_string("mode", "nearest") == "cubic"
    if node.op_type == "Pad":
        return len(node.inputs) > 3 and node.inputs[3] is not None
    if node.op_type == "AveragePool":
        dilated = any(step != 1 for step in attributes.get_ints("dilations", ()))
        partial = attributes.get_int("ceil_mode", 0) and attributes.get_int("count_include_pad", 0)
        return dilated or bool(partial)
    return node.op_type == "CenterCropPad"


def has_kernel(node: ir.Node) -> bool:
    """Return True if ONNX Runtime computes a node, or moves its values, in integers."""
    return node.op_type in _KERNELS | PASSES_ON or _needs_one_scale(node)


def passes_on(node: ir.Node) -> bool:
    """Return True if ONNX Runtime moves integers through a node, which then needs no pair."""
    return node.op_type in PASSES_ON


def _needs_one_scale(node: ir.Node) -> bool:
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    return node.op_type in _ONE_SCALE


def is_gate(value: ir.Value) -> bool:
    """Return True if a tensor has one number per channel: quantising it costs almost nothing."""
    sizes = list(value.shape or ())[2:]
    return len(sizes) == 2 and all(size == 1 for size in sizes)


def _fused(node: ir.Node) -> ir.Value:
    """Return the tensor after a node and the activation that its integer kernel fuses."""
    # The kernel clamps to its output's range, which is a ReLU if the range begins at 0. Other
    # activations are computed separately.
    value = node.outputs[0]
    consumers = value.consumers()
    if len(consumers) != 1 or value.is_graph_output() or not cuts_at_zero(consumers[0]):
        return value
    return consumers[0].outputs[0]
