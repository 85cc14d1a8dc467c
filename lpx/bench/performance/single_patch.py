"""Time of a single patch: a crop of exactly the receptive field through the network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx.numpy_helper

from lpx.card import ModelCard
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.errors import LpxError, out_of_memory

_MAP, _FACES = "patch_map", "faces"


@dataclass(frozen=True)
class SinglePatch:
    """A network that takes one receptive field.

    Attributes:
        engine: The network in ONNX Runtime, in the precision of the graph it was made from.
        size: Side of the crop: the receptive field, pixels.
        grid: Units (h, w) that it computes. More than one if the network pads: the one in the
            middle sees exactly the crop, the others see padding too.
    """

    engine: OnnxRuntimeEngine
    size: int
    grid: tuple[int, int]


def open_single_patch(graph: bytes, card: ModelCard) -> SinglePatch:
    """Open an engine of one patch, made from the graph of whole faces.

    Args:
        graph: ONNX, float or Q/DQ, for faces of the card's size.
        card: Model card.

    Raises:
        LpxError: The receptive field is unknown or the whole face, or the graph does not run at
            another size.
    """
    size = card.receptive_field
    if size is None or not card.strictly_local or size >= card.input_size:
        known = "unknown" if size is None else f"{size} px"
        raise LpxError(
            "the time of a single patch cannot be measured for this model",
            f"the receptive field is {known}, the face {card.input_size} px",
            "use the time per patch amortised over the face",
        )
    engine = OnnxRuntimeEngine(resize_input(graph, size), size)
    try:
        maps = engine.infer(np.zeros((1, size, size, 3), np.uint8)).patch_map
    except Exception as error:
        # ONNX Runtime's errors share no base class but Exception.
        engine.close()
        if short := out_of_memory(error):
            raise short from error
        raise LpxError(
            f"the graph does not run on a crop of {size} px",
            str(error).strip().splitlines()[0],
            "use the time per patch amortised over the face",
        ) from error
    return SinglePatch(engine, size, (maps.shape[1], maps.shape[2]))


def resize_input(graph: bytes, size: int) -> bytes:
    """Return the same network for crops of `size` pixels.

    Args:
        graph: ONNX whose input is "faces", uint8 [N, S, S, 3].
        size: The new S.
    """
    model = onnx.load_from_string(graph)
    # Shapes that were inferred for the old size would contradict the new one.
    del model.graph.value_info[:]
    (faces,) = (value for value in model.graph.input if value.name == _FACES)
    for place in (1, 2):
        faces.type.tensor_type.shape.dim[place].dim_value = size
    for value in model.graph.output:
        if value.name == _MAP:
            rows, columns = value.type.tensor_type.shape.dim[1:3]
            _free_flattening(model, rows.dim_value * columns.dim_value)
            rows.dim_param, columns.dim_param = "rows", "columns"
    made: bytes = model.SerializeToString()
    return made


def _free_flattening(model: onnx.ModelProto, units: int) -> None:
    """Change reshapes to [faces, units] so that they accept any number of units."""
    # The target is an initialiser in graphs as exported, and a Constant node in some others.
    targets = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    constants = [value for value in model.graph.initializer if value.name in targets]
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in targets:
            constants += [field.t for field in node.attribute if field.name == "value"]
    for constant in constants:
        if onnx.numpy_helper.to_array(constant).tolist() == [-1, units]:
            # In a target of Reshape 0 keeps the dimension, here the number of faces.
            freed = onnx.numpy_helper.from_array(np.array([0, -1], np.int64), constant.name)
            constant.CopyFrom(freed)
