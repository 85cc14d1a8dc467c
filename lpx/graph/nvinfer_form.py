"""The form of a graph that DeepStream's nvinfer takes: float32 planes of pixels.

nvinfer hands every engine float32 pixels, whatever type its input has, into a buffer of the
input's own size: an engine with a uint8 input would be overrun fourfold. Whole numbers from 0 to
255 are exact in float32, so a graph that leaves out the cast from uint8 computes the same scores,
bit for bit.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lpx.errors import LpxError
from lpx.graph.model_io import parse, serialise, tensor

SCORE, PATCH_MAP = "score", "patch_map"
"""Names of a detector's outputs."""
_TO_PLANES = [0, 3, 1, 2]
_TO_PIXELS = [0, 2, 3, 1]


def for_nvinfer(graph: bytes, outputs: tuple[str, ...]) -> bytes:
    """Return a graph in the form that nvinfer takes.

    Before: `faces`, uint8 [N, S, S, 3]; `score`, float32 [N]; `patch_map`, float32 [N, h, w].
    After: `faces`, float32 [N, 3, S, S], whole numbers from 0 to 255; `score`, float32 [N, 1], as
    nvinfer takes the first dimension for the batch and reads the others as classes; `patch_map` is
    as it was. Everything between is kept, normalisation included.

    Args:
        graph: ONNX graph of a detector.
        outputs: `SCORE`, or `SCORE` and `PATCH_MAP`; the others are left out.

    Raises:
        LpxError: The graph does not begin with a cast to float32 (code "unsupported").
    """
    model = parse(graph, "the graph")
    _float_planes(model.graph)
    _score_as_column(model.graph)
    kept = [value for value in model.graph.outputs if value.name in outputs]
    model.graph.outputs.clear()
    model.graph.outputs.extend(kept)
    return serialise(model)


def _float_planes(graph: ir.Graph) -> None:
    """Replace the uint8 input, and the cast and transposition that follow, by float32 planes."""
    (pixels,) = graph.inputs
    assert pixels.shape is not None
    batch, height, width, channels = pixels.shape
    planes = ir.Value(
        name=pixels.name,
        shape=ir.Shape([batch, channels, height, width]),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    pixels.name = f"{pixels.name}.uint8"
    graph.inputs[0] = planes
    for cast, _ in tuple(pixels.uses()):
        # By the attribute: types of values between nodes need not be written in a graph.
        if cast.op_type != "Cast" or cast.attributes.get_int("to", 0) != ir.DataType.FLOAT:
            raise LpxError(
                f"the graph reads its uint8 input with {cast.op_type}",
                "DeepStream's nvinfer gives float32, which only takes the place of a cast to it",
                "let the network cast its input to float32 first, as those of lpx do",
                code="unsupported",
            )
        _replace(graph, cast, planes)


def _replace(graph: ir.Graph, cast: ir.Node, planes: ir.Value) -> None:
    """Let what reads the cast pixels read the planes instead."""
    pixels = cast.outputs[0]
    for reader, _ in tuple(pixels.uses()):
        if reader.op_type == "Transpose" and _permutation(reader) == _TO_PLANES:
            ir.convenience.replace_all_uses_with(reader.outputs[0], planes)
            graph.remove(reader, safe=True)
    if pixels.uses():
        # Something wants rows of pixels all the same.
        turn = ir.node("Transpose", [planes], {"perm": _TO_PIXELS}, name=cast.name)
        # Name of the cast's output, whose place it takes.
        turn.outputs[0].name = pixels.name
        turn.outputs[0].type = planes.type
        turn.outputs[0].shape = pixels.shape
        graph.insert_before(cast, turn)
        ir.convenience.replace_all_uses_with(pixels, turn.outputs[0])
    graph.remove(cast, safe=True)


def _permutation(node: ir.Node) -> list[int]:
    return list(node.attributes.get_ints("perm", []))


def _score_as_column(graph: ir.Graph) -> None:
    """Give the score a second dimension, of one class."""
    index, score = next(
        (index, value) for index, value in enumerate(graph.outputs) if value.name == SCORE
    )
    score.name = f"{SCORE}.flat"
    assert score.shape is not None
    axes = tensor(graph, f"{SCORE}.axes", np.array([1], np.int64))
    column = ir.node("Unsqueeze", [score, axes], name=f"{SCORE}.to_column")
    column.outputs[0].name = SCORE
    column.outputs[0].type = score.type
    column.outputs[0].shape = ir.Shape([score.shape[0], 1])
    # At the end, where every value has been computed.
    graph.append(column)
    graph.outputs[index] = column.outputs[0]
