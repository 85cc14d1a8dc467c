"""Rewriting of a graph for an older opset, so that older TensorRT releases can parse it.

ONNX's schemas show which operators changed between two opsets. Nodes of the others are kept; nodes
of changed operators are rewritten if the older schema can express them, and refused otherwise.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir

from lpx.errors import LpxError
from lpx.graph.model_io import tensor
from lpx.graph.nodes import optional_input

# Opset that TensorRT 8.6 (JetPack 6.0) parses.
OLDEST = 17

_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSumSquare"),
)
# Index of the input with the axes, which used to be an attribute.
_AXES_MOVED = dict.fromkeys(_REDUCTIONS, 1) | {"DFT": 2}
# Values of `mode` that had another name in older opsets.
_RENAMED = {"GridSample": {"linear": "bilinear", "cubic": "bicubic"}}
# Opset that added circular padding to Pad.
_WRAPS_FROM = 19
# Values of attributes that are newer than the attribute itself, with the opset that added them.
_NEW_VALUES = {
    "Pad": ("mode", {"wrap": _WRAPS_FROM}),
    "Resize": ("coordinate_transformation_mode", {"half_pixel_symmetric": 19}),
    "ScatterElements": ("reduction", {"max": 18, "min": 18}),
    "ScatterND": ("reduction", {"max": 18, "min": 18}),
}


def lower_opset(model: ir.Model, opset: int) -> None:
    """Lower a model of opset 18 to 20 to `opset`, in place.

    Before: default domain only, types of all tensors known. After: `opset_imports` has `opset`, and
    the graph computes the same.

    Raises:
        LpxError: The model uses an operator, or a form of one, that the older opset does not have.
    """
    current = model.graph.opset_imports[""]
    if current <= opset:
        return
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        if not node.domain:
            _Node(node, current, opset).lower()
    model.graph.opset_imports[""] = opset
    # The IR version of the release that brought the opset: older runtimes refuse newer ones.
    model.ir_version = min(model.ir_version, 8 if opset < 19 else 9)


class _Node:
    """A node that is being rewritten for an older opset."""

    def __init__(self, node: ir.Node, current: int, opset: int) -> None:
        self.node, self.opset = node, opset
        self.new = onnx.defs.get_schema(node.op_type, current)
        self.old = _schema(node.op_type, opset)

    def lower(self) -> None:
        """Rewrite the node.

        Raises:
            LpxError: The older opset cannot express it.
        """
        if self.old is None:
            self._expand()
        elif self.old.since_version != self.new.since_version:
            self._inputs(self.old)
            if self.node.op_type == "Pad" and self.opset < _WRAPS_FROM and self._wraps():
                return
            self._attributes(self.old)
            self._types(self.old)

    def refusal(self, what: str) -> LpxError:
        """Return the error for a form that the older opset does not have."""
        kind, name = self.node.op_type, self.node.name or self.node.outputs[0].name
        return LpxError(
            f"the graph uses {kind} in a form that opset {self.opset} does not have",
            f"node {name}: {what}",
            "export with `opset=20`",
            code="unsupported",
        )

    def _expand(self) -> None:
        """Replace an activation that the older opset lacks by its formula."""
        node = self.node
        if node.op_type == "Gelu":
            made = _gelu(node)
        elif node.op_type == "Mish":
            made = _mish(node)
        else:
            raise self.refusal(f"the operator was added in opset {self.new.since_version}")
        for step in made:
            step.outputs[0].shape = node.outputs[0].shape
        self._replace_by(made)

    def _replace_by(self, made: list[ir.Node]) -> None:
        """Replace the node by others, the last of which computes its output."""
        node, output = self.node, self.node.outputs[0]
        made[-1].outputs[0].shape = output.shape
        for index, step in enumerate(made):
            step.outputs[0].type = output.type
            step.name = f"{node.name}.step{index}"
            step.outputs[0].name = f"{output.name}.step{index}"
        graph = node.graph
        assert graph is not None
        graph.insert_before(node, made)
        output.replace_all_uses_with(made[-1].outputs[0], replace_graph_outputs=True)
        graph.remove(node, safe=True)
        # Only now are the names free, and nodes and tensors must keep theirs.
        made[-1].name, made[-1].outputs[0].name = node.name, output.name

    def _inputs(self, old: onnx.defs.OpSchema) -> None:
        """Turn inputs that were added later into attributes, or merge them into other inputs."""
        node = self.node
        moved = _AXES_MOVED.get(node.op_type)
        if moved is not None and moved >= old.max_input:
            self._axes_to_attribute(moved)
        if node.op_type == "Pad" and len(node.inputs) > 3:
            self._pads_of_all_axes()
        while len(node.inputs) > len(old.inputs) and node.inputs[-1] is None:
            node.resize_inputs(len(node.inputs) - 1)
        if len(node.inputs) > old.max_input:
            raise self.refusal(f"its input {self.new.inputs[len(old.inputs)].name} was added later")

    def _axes_to_attribute(self, index: int) -> None:
        node = self.node
        unmoved = node.attributes.pop("noop_with_empty_axes", None)
        given = optional_input(node, index)
        if given is None:
            if unmoved is not None and unmoved.as_int():
                raise self.refusal("it reduces no axis")
            if node.op_type == "DFT":
                # The older attribute has another default.
                node.attributes["axis"] = ir.AttrInt64("axis", -2)
            return
        if given.const_value is None:
            raise self.refusal("its axes are computed at run time")
        axes = [int(a) for a in given.const_value.numpy().reshape(-1)]
        node.replace_input_with(index, None)
        while node.inputs[-1] is None:
            node.resize_inputs(len(node.inputs) - 1)
        if node.op_type == "DFT":
            node.attributes["axis"] = ir.AttrInt64("axis", axes[0])
        elif axes:
            node.attributes["axes"] = ir.AttrInt64s("axes", axes)

    def _pads_of_all_axes(self) -> None:
        """Turn the pads of some axes into pads of all axes, with zeros for the others."""
        node = self.node
        data, pads, axes = node.inputs[0], node.inputs[1], node.inputs[3]
        assert data is not None
        assert pads is not None
        if axes is not None:
            if pads.const_value is None or axes.const_value is None or data.shape is None:
                raise self.refusal("its pads or axes are computed at run time")
            some = pads.const_value.numpy().reshape(2, -1)
            whole = np.zeros((2, len(data.shape)), np.int64)
            whole[:, axes.const_value.numpy().reshape(-1)] = some
            assert node.graph is not None
            name = f"{node.outputs[0].name}.pads"
            node.replace_input_with(1, tensor(node.graph, name, whole.reshape(-1)))
        node.resize_inputs(3)

    def _wraps(self) -> bool:
        """Replace a circular padding by Slice and Concat.

        Returns:
            False if the padding is not circular, or its pads are not known.
        """
        node = self.node
        mode, pads = node.attributes.get_string("mode", "constant"), node.inputs[1]
        if mode != "wrap" or pads is None or pads.const_value is None:
            return False
        before, after = pads.const_value.numpy().reshape(2, -1).tolist()
        if min(*before, *after) < 0:
            return False
        made: list[ir.Node] = []
        value = node.inputs[0]
        for axis, (front, behind) in enumerate(zip(before, after, strict=True)):
            # On each axis, values from the end are repeated in front, values from the start behind.
            parts = [value]
            if front > 0:
                made.append(_slice(node, value, -front, 2**31, axis))
                parts.insert(0, made[-1].outputs[0])
            if behind > 0:
                made.append(_slice(node, value, 0, behind, axis))
                parts.append(made[-1].outputs[0])
            if len(parts) > 1:
                made.append(ir.node("Concat", parts, {"axis": axis}))
                value = made[-1].outputs[0]
        if not made:
            # A Pad without pads: the output still needs a node that computes it.
            made = [ir.node("Identity", [value])]
        self._replace_by(made)
        return True

    def _attributes(self, old: onnx.defs.OpSchema) -> None:
        """Remove attributes that were added later if they state what the older operator does."""
        node = self.node
        if node.op_type == "Split" and "num_outputs" in node.attributes:
            self._split_sizes()
        mode = node.attributes.get("mode")
        if mode is not None and node.op_type in _RENAMED:
            word = _RENAMED[node.op_type].get(mode.as_string(), mode.as_string())
            node.attributes["mode"] = ir.AttrString("mode", word)
            if len(_shape(node) or ()) != 4:
                raise self.refusal("its input does not have four dimensions")
        for name in set(node.attributes) - set(old.attributes):
            if not _is_default(node.attributes[name], self.new.attributes[name]):
                raise self.refusal(f"its attribute {name} was added later")
            del node.attributes[name]
        name, since = _NEW_VALUES.get(node.op_type, ("", {}))
        if name in node.attributes:
            value = node.attributes[name].as_string()
            if since.get(value, 0) > self.opset:
                raise self.refusal(f"{name} {value} was added later")

    def _split_sizes(self) -> None:
        """Turn a number of equal parts, the last of which may be smaller, into their sizes."""
        node = self.node
        count = node.attributes.pop("num_outputs").as_int()
        axis = node.attributes.get_int("axis", 0)
        shape = _shape(node)
        whole = shape[axis] if shape is not None else None
        if not isinstance(whole, int):
            raise self.refusal("the size of what it splits is known only at run time")
        part = math.ceil(whole / count)
        sizes = np.full(count, part, np.int64)
        sizes[-1] = whole - part * (count - 1)
        assert node.graph is not None
        node.resize_inputs(2)
        node.replace_input_with(1, tensor(node.graph, f"{node.outputs[0].name}.sizes", sizes))

    def _types(self, old: onnx.defs.OpSchema) -> None:
        """Refuse types that the older operator does not support."""
        allowed = {c.type_param_str: set(c.allowed_type_strs) for c in old.type_constraints}
        pairs = ((self.node.inputs, old.inputs), (self.node.outputs, old.outputs))
        for values, formal in pairs:
            for index, value in enumerate(values):
                # The last parameter of a schema may be variadic.
                kind = formal[min(index, len(formal) - 1)].type_str
                if value is None or value.dtype is None or value.type is None:
                    continue
                own = f"tensor({value.dtype.name.lower()})"
                # A parameter without a type variable states its one type.
                if isinstance(value.type, ir.TensorType) and own not in allowed.get(kind, {kind}):
                    raise self.refusal(f"{value.name} is a {own}")


def _schema(kind: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(kind, opset)
    except onnx.defs.SchemaError:
        return None


def _is_default(attribute: ir.Attr, schema: onnx.defs.OpSchema.Attribute) -> bool:
    """Return True if an attribute states its default."""
    if attribute.name == "dilations":
        # The schema gives no default for it: it is 1 on every axis.
        return set(attribute.as_ints()) <= {1}
    if schema.default_value.type == onnx.AttributeProto.UNDEFINED:
        return False
    default = onnx.helper.get_attribute_value(schema.default_value)
    if isinstance(default, bytes):
        default = default.decode()
    return bool(attribute.value == default)


def _shape(node: ir.Node) -> ir.Shape | None:
    return node.inputs[0].shape if node.inputs[0] is not None else None


def _gelu(node: ir.Node) -> list[ir.Node]:
    """Return nodes for x / 2 (1 + erf(x / sqrt 2)), or its tanh approximation, as ONNX defines."""
    x = node.inputs[0]
    approximate = node.attributes.get_string("approximate", "none")
    steps: list[ir.Node] = []

    def then(kind: str, *inputs: ir.Value | float | None) -> ir.Value:
        values = [_constant(node, v) if isinstance(v, float) else v for v in inputs]
        steps.append(ir.node(kind, values))
        return steps[-1].outputs[0]

    if approximate == "tanh":
        cube = then("Mul", then("Mul", x, x), x)
        inner = then("Add", x, then("Mul", cube, 0.044715))
        bent = then("Tanh", then("Mul", inner, math.sqrt(2 / math.pi)))
    else:
        bent = then("Erf", then("Mul", x, math.sqrt(0.5)))
    then("Mul", then("Mul", x, 0.5), then("Add", bent, 1.0))
    return steps


def _mish(node: ir.Node) -> list[ir.Node]:
    """Return nodes for x tanh(log(1 + exp(x)))."""
    soft = ir.node("Softplus", [node.inputs[0]])
    bent = ir.node("Tanh", soft.outputs)
    return [soft, bent, ir.node("Mul", [node.inputs[0], bent.outputs[0]])]


def _slice(node: ir.Node, value: ir.Value | None, start: int, end: int, axis: int) -> ir.Node:
    return ir.node("Slice", [value, _limit(node, start), _limit(node, end), _limit(node, axis)])


def _limit(node: ir.Node, value: int) -> ir.Value:
    """Return a constant for the limits of a Slice, int64 [1]; equal ones are shared."""
    assert node.graph is not None
    name = f"{node.outputs[0].name}.at{value}"
    known = node.graph.initializers.get(name)
    return known if known is not None else tensor(node.graph, name, np.array([value]))


def _constant(node: ir.Node, value: float) -> ir.Value:
    """Return a constant of the type of a node's output."""
    assert node.graph is not None
    dtype = node.outputs[0].dtype or ir.DataType.FLOAT
    name = f"{node.outputs[0].name}.{value:.4g}"
    return tensor(node.graph, name, np.array(value, dtype.numpy()))
