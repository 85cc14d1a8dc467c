"""Small graphs, written as text, and where their Q/DQ pairs are."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from lpx.graph.model_io import serialise
from lpx.graph.qdq.insert_qdq import Range, Style, insert_qdq
from lpx.graph.qdq.placement import place

HEADER = '<ir_version: 9, opset_import: ["" : {opset}]>\n'


def graph(text: str, opset: int = 20, seed: int = 0, shapes: bool = True, **weights) -> ir.Model:
    """A model from the text of a graph; nodes are named after their first output.

    Args:
        text: A graph in ONNX's text format.
        opset: Opset of the model.
        seed: Seed of the weights that are given as a shape.
        shapes: Whether the text states the shapes of outputs; else they are inferred.
        weights: Initialisers: an array, or a shape to fill at random.
    """
    model = onnx.parser.parse_model(HEADER.format(opset=opset) + text)
    rng = np.random.default_rng(seed)
    for name, value in weights.items():
        if not isinstance(value, np.ndarray):
            fan_in = max(1, int(np.prod(value[1:])))
            value = (rng.standard_normal(value) / np.sqrt(fan_in)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    for node in model.graph.node:
        node.name = node.output[0]
    for output in model.graph.output if not shapes else ():
        output.type.tensor_type.ClearField("shape")
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    return ir.serde.deserialize_model(model)


def quantised(model: ir.Model, style: Style, *, ranges=None, **options) -> ir.Model:
    """`model` with Q/DQ where `place` puts it, with `assumed_range` where `ranges` names none."""
    placement = place(model, integer_outputs=style.at_source, **options)
    given = {name: assumed_range(model, name) for name in placement.tensors}
    insert_qdq(model, placement, given | (ranges or {}), style)
    return model


def assumed_range(model: ir.Model, name: str, peak: float = 8.0) -> Range:
    """[0, peak] after a Relu, else [-peak, peak]; channel means of zero."""
    values = {v.name: v for node in model.graph for v in (*node.inputs, *node.outputs) if v}
    maker = values[name].producer()
    rectified = maker is not None and maker.op_type == "Relu"
    return Range(0.0 if rectified else -peak, peak, (0.0,) * int(values[name].shape[1]))


def dequantised_inputs(model: ir.Model) -> set[str]:
    """`node.index` of every input that comes out of a DequantizeLinear."""
    return {
        f"{node.name}.{index}"
        for node in model.graph
        for index, value in enumerate(node.inputs)
        if value is not None
        and (producer := value.producer()) is not None
        and producer.op_type == "DequantizeLinear"
    }


def quantised_tensors(model: ir.Model) -> list[str]:
    """Name of every tensor that a QuantizeLinear reads, in graph order."""
    return [node.inputs[0].name for node in model.graph if node.op_type == "QuantizeLinear"]


def run(model: ir.Model, *inputs: np.ndarray) -> list[np.ndarray]:
    """Outputs of a checked model in ONNX Runtime, every node computed as it is written."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(serialise(model), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))
