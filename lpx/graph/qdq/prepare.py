"""Preparation of an exported model for calibration and quantisation."""

from __future__ import annotations

from typing import NamedTuple

from lpx.graph.model_io import name_nodes, parse, serialise
from lpx.graph.qdq.equalise import Pair, equalise
from lpx.graph.qdq.strip_qdq import require_float


class PreparedModel(NamedTuple):
    """A float model to calibrate and quantise.

    Attributes:
        model: ONNX.
        pairs: Equalisation of each convolution; empty if the model was not equalised.
    """

    model: bytes
    pairs: tuple[Pair, ...]


def prepare_model(
    model: bytes, source: str, *, equalised: bool = False, requantise: bool = False
) -> PreparedModel:
    """Make sure that a model is float, and optionally equalise it.

    Calibration and build must use the result, with the same options: equalisation changes the
    ranges of activations. The same model and options always give the same bytes, and a float model
    that is not equalised is returned unchanged.

    Args:
        model: ONNX.
        source: Name of the model for errors.
        equalised: Equalise channels between convolutions (lpx.graph.qdq.equalise).
        requantise: Remove Q/DQ pairs of the model instead of refusing it.

    Raises:
        LpxError: It is not an ONNX model, or it is quantised already.
    """
    graph = parse(model, source)
    removed = require_float(graph, source, requantise=requantise)
    name_nodes(graph)
    pairs: tuple[Pair, ...] = ()
    if equalised:
        pairs = equalise(graph)
    if removed or equalised:
        model = serialise(graph)
    return PreparedModel(model, pairs)
