"""Export a deployed detector to a simplified, checked ONNX model that carries its card."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import onnx
import onnx_ir as ir
import torch

from lpx.card import METADATA_KEY
from lpx.errors import LpxError, first_line, out_of_memory
from lpx.export.deployed import Deployed
from lpx.graph.batch_norms import FACTOR, OFFSET, spell_out
from lpx.graph.lower_opset import OLDEST, lower_opset
from lpx.graph.model_io import serialise
from lpx.models.checkpoint import Detector
from lpx.models.contract import FIXED_BATCH

OPSET = 20
_LOUD = ("torch.onnx", "torch.export", "torch.fx.experimental.symbolic_shapes", "onnxscript")
INPUT = "faces"
OUTPUTS = ("score", "patch_map")
_PARAMETER = re.compile(rf"detector\.(.+)\.(?:weight|{FACTOR}|{OFFSET})")


def to_onnx(detector: Detector, opset: int = OPSET) -> bytes:
    """Export with preprocessing in the graph and a dynamic batch.

    Args:
        detector: Model and card.
        opset: ONNX opset, 17 to 20.

    Returns:
        The ONNX model: input `faces` uint8 [N, H, W, 3] RGB, outputs `score` float32 [N] and
        `patch_map` float32 [N, h, w]; batch norms folded, or a Mul and an Add; the card in its
        metadata.

    Raises:
        LpxError: The exporter, the simplifier or the checker refuses the model.
    """
    if not OLDEST <= opset <= OPSET:
        raise LpxError(
            f"opset {opset}", f"lpx exports opsets {OLDEST} to {OPSET}", f"--opset {OPSET}"
        )
    model = ir.serde.deserialize_model(_simplify(_trace(detector)))
    spell_out(model)
    _name_nodes(model)
    lower_opset(model, opset)
    model.metadata_props[METADATA_KEY] = detector.card.to_json()
    model.producer_name, model.graph.name = "lpx", "detector"
    return serialise(model)


def _trace(detector: Detector) -> onnx.ModelProto:
    module = Deployed(detector.module, detector.card).eval()
    size = detector.card.input_size
    # Two faces: a batch of one would let the tracer take the batch for a constant.
    faces = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (faces,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:
        # The exporter wraps whatever went wrong in errors of its own; all mean the same here.
        if short := out_of_memory(_innermost(error)):
            raise short from error
        raise LpxError(
            f"torch cannot export {detector.card.architecture} to ONNX",
            _reason(error),
            "control flow that depends on data, or a batch size fixed in the code, are the usual "
            "reasons",
        ) from error
    assert program is not None
    _check_batch(program.model_proto, detector.card.architecture)
    return program.model_proto


def _reason(error: BaseException) -> str:
    """The first line of the error that the exporter's own errors were raised from."""
    return first_line(_innermost(error))


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _check_batch(proto: onnx.ModelProto, architecture: str) -> None:
    """Refuse a graph for two faces: the exporter falls back to the batch that it traced."""
    for value in (*proto.graph.input, *proto.graph.output):
        batch = value.type.tensor_type.shape.dim[0]
        if batch.HasField("dim_value"):
            raise LpxError(
                f"{architecture} can only be exported for {batch.dim_value} faces at a time: a "
                "batch size is fixed in the code",
                "tracing two faces gives a graph for two (a number in reshape, view, expand or "
                "zeros, or Python that loops over faces, splits or unpacks them, or calls int(), "
                "len() or `if` on their number)",
                FIXED_BATCH,
            )


def _simplify(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    with _quiet():
        simplified, valid = onnxsim.simplify(proto)
    if not valid:
        raise LpxError(
            "onnxsim changed the model's result",
            "simplified and plain graph disagree on random input",
            "please report this with the checkpoint's backbone and cut",
        )
    result: onnx.ModelProto = simplified
    return result


def _name_nodes(model: ir.Model) -> None:
    """Give every node a name that says its place, unique: decisions and errors refer to it."""
    for index, node in enumerate(model.graph):
        scope = _module_path(node)
        node.name = f"{node.op_type}_{index}" + (f":{scope}" if scope else "")


def _module_path(node: ir.Node) -> str:
    """The submodule of the detector that a node came from, as the exporter recorded it."""
    name = node.inputs[1].name if len(node.inputs) > 1 and node.inputs[1] is not None else ""
    found = _PARAMETER.fullmatch(name or "")
    return found[1] if found else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its notes on packages that lpx does not use to itself."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
