"""Export of a detector to a simplified, validated ONNX model with the model card inside."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import onnx
import onnx_ir as ir
import torch

from lpx.arguments import check_choice
from lpx.card import METADATA_KEY
from lpx.errors import LpxError, first_line, out_of_memory
from lpx.export.deployed import Deployed
from lpx.graph.batch_norms import FACTOR, OFFSET, expand_batch_norms
from lpx.graph.lower_opset import OLDEST, lower_opset
from lpx.graph.model_io import serialise
from lpx.models.checkpoint import Detector
from lpx.models.contract import FIXED_BATCH

OPSET = 20
# Loggers that report, at every export, things a user cannot change.
_LOUD = ("torch.onnx", "torch.export", "torch.fx.experimental.symbolic_shapes", "onnxscript")
INPUT = "faces"
OUTPUTS = ("score", "patch_map")
_PARAMETER = re.compile(rf"detector\.(.+)\.(?:weight|{FACTOR}|{OFFSET})")


def trace(detector: Detector) -> onnx.ModelProto:
    """Trace a detector to an ONNX graph of opset 20.

    Raises:
        LpxError: The exporter rejects the model, or its batch is fixed.
    """
    module = Deployed(detector.module, detector.card).eval()
    size = detector.card.input_size
    # Two faces: with a batch of one, the tracer would treat the batch as a constant.
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
        # The exporter wraps any failure in errors of its own. Running out of memory is not the
        # model's fault, so it must not be reported as a limit of the exporter.
        if short := out_of_memory(_innermost(error)):
            raise short from error
        raise LpxError(
            f"torch cannot export {detector.card.architecture} to ONNX",
            _reason(error),
            "usual causes are control flow that depends on data, and a batch size fixed in the "
            "code",
            code="unsupported",
        ) from error
    assert program is not None
    # The exporter may succeed with a fixed batch, which would fail only at the first other batch.
    _check_batch(program.model_proto, detector.card.architecture)
    return program.model_proto


def to_onnx(
    detector: Detector,
    opset: int = OPSET,
    *,
    tracer: Callable[[Detector], onnx.ModelProto] = trace,
) -> bytes:
    """Export a detector with preprocessing in the graph and a dynamic batch.

    Args:
        detector: Model and card.
        opset: ONNX opset, 17 to 20.
        tracer: Traces the detector to a graph of opset 20; `trace` by default.

    Returns:
        The ONNX model: input `faces` uint8 [N, H, W, 3] RGB, outputs `score` float32 [N] and
        `patch_map` float32 [N, h, w]; batch norms are folded, or a Mul and an Add; the card is in
        its metadata.

    Raises:
        LpxError: The exporter, the simplifier or the checker rejects the model.
        InvalidArgumentError: The opset is not supported.
    """
    check_choice("opset", opset, range(OLDEST, OPSET + 1))
    model = ir.serde.deserialize_model(_simplify(tracer(detector)))
    expand_batch_norms(model)
    # Named before the opset is lowered, so that names do not depend on the opset.
    _name_nodes(model)
    lower_opset(model, opset)
    model.metadata_props[METADATA_KEY] = detector.card.to_json()
    model.producer_name, model.graph.name = "lpx", "detector"
    return serialise(model)


def _reason(error: BaseException) -> str:
    """Return the first line of the error behind the exporter's own errors."""
    return first_line(_innermost(error))


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _check_batch(proto: onnx.ModelProto, architecture: str) -> None:
    """Refuse a graph for exactly two faces: the exporter may fall back to the batch it traced."""
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
                code="unsupported",
            )


def _simplify(proto: onnx.ModelProto) -> onnx.ModelProto:
    # onnxsim is a compiled library that only an export needs.
    import onnxsim

    with _quiet():
        simplified, valid = onnxsim.simplify(proto)
    if not valid:
        raise LpxError(
            "onnxsim changed the model's result",
            "the simplified and the original graph disagree on random input",
            "please report this with the checkpoint's backbone and cut",
        )
    result: onnx.ModelProto = simplified
    return result


def _name_nodes(model: ir.Model) -> None:
    """Give every node a unique name with its module's path, for decisions and errors."""
    for index, node in enumerate(model.graph):
        scope = _module_path(node)
        node.name = f"{node.op_type}_{index}" + (f":{scope}" if scope else "")


def _module_path(node: ir.Node) -> str:
    """Return the path of the detector's submodule that a node came from; "" if unknown."""
    # The exporter keeps the names of parameters, and the second input is the weight.
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return ""
    parameter = _PARAMETER.fullmatch(node.inputs[1].name or "")
    return parameter[1] if parameter else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress and its notes on packages that lpx does not use."""
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
        # Loggers belong to the whole process: those who use lpx as a library get their levels back.
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
