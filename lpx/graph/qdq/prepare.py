"""The float model that is calibrated and quantised, from the one that was exported."""

from __future__ import annotations

from lpx.graph.model_io import name_nodes, parse, serialise
from lpx.graph.qdq.equalise import Pair, equalise
from lpx.graph.qdq.strip_qdq import require_float


def prepare(
    model: bytes, source: str, *, equalised: bool = False, requantise: bool = False
) -> tuple[bytes, tuple[Pair, ...]]:
    """See to it that a model is float, and equalise it where asked.

    Calibration must observe what this returns, with the same options as the build: equalisation
    changes the ranges of activations. The same model and options always give the same bytes, and
    a float model that is not to be equalised comes back as it is.

    Args:
        model: ONNX.
        source: What the model is called in errors.
        equalised: Equalise channels between convolutions (lpx.graph.qdq.equalise).
        requantise: Take out Q/DQ pairs that are there, instead of refusing.

    Returns:
        The model, and what equalisation did.

    Raises:
        LpxError: No ONNX model, or one that is quantised already.
    """
    graph = parse(model, source)
    removed = require_float(graph, source, requantise=requantise)
    name_nodes(graph)
    pairs = equalise(graph) if equalised else ()
    return (serialise(graph) if removed or equalised else model), pairs
