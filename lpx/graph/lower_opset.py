"""Rewrite a graph for an older opset, so that older TensorRT releases parse it."""

from __future__ import annotations

import onnx_ir as ir

from lpx.errors import LpxError

OLDEST = 17
"""What TensorRT 8.6 (JetPack 6.0) parses."""

# Operators that mean the same from opset 17 to 20; read off the ONNX changelog.
_UNCHANGED = frozenset({
    "Add", "AveragePool", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "DequantizeLinear",
    "Div", "Exp", "Flatten", "Gather", "Gemm", "GlobalAveragePool", "GlobalMaxPool",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "MatMul", "MaxPool", "Mul",
    "QuantizeLinear", "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Squeeze", "Sub",
    "Tanh", "TopK", "Transpose", "Unsqueeze",
})  # fmt: skip
# From opset 18 their axes are an input, before it an attribute.
_AXES_MOVED = frozenset({"ReduceMean", "ReduceMax", "ReduceMin"})


def lower_opset(model: ir.Model, opset: int) -> None:
    """Lower a model of opset 18..20 to `opset` in place.

    Before: default domain only. After: `opset_imports` names `opset`, and every operator means the
    same there.

    Raises:
        LpxError: The model uses an operator that differs between the two.
    """
    current = model.graph.opset_imports[""]
    if current <= opset:
        return
    for node in model.graph:
        if opset >= 18 or node.op_type in _UNCHANGED:
            continue
        if node.op_type not in _AXES_MOVED:
            raise LpxError(
                f"the graph uses {node.op_type}, which opset {opset} does not know in this form",
                f"lpx lowers only the operators of convolutional detectors (node {node.name})",
                "export with --opset 20",
            )
        _axes_to_attribute(node)
    model.graph.opset_imports[""] = opset
    # The checker wants an IR version no newer than what tools of that opset read.
    model.ir_version = min(model.ir_version, 8 if opset < 19 else 9)


def _axes_to_attribute(node: ir.Node) -> None:
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return
    axes = node.inputs[1].const_value
    if axes is None:
        raise LpxError(
            f"{node.name}: the axes of {node.op_type} are computed at run time",
            "below opset 18 they must be constant",
            "export with --opset 20",
        )
    node.resize_inputs(1)
    node.attributes.pop("noop_with_empty_axes", None)
    node.attributes["axes"] = ir.AttrInt64s("axes", [int(a) for a in axes.numpy()])
