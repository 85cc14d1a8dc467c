"""Scores of a graph with every group in INT8, with which predictions are corrected."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lpx.data.face_sets.face_set import FaceSet
from lpx.engines.build import style_of
from lpx.engines.onnxruntime.cpu import PROVIDERS, session_options
from lpx.engines.onnxruntime.failure import ort_errors
from lpx.graph.layers import read_named, with_outputs
from lpx.graph.model_io import serialise
from lpx.graph.qdq.insert_qdq import insert_qdq
from lpx.graph.resume import logit_tensor
from lpx.reporter import Progress
from lpx.search.shifts import logit_of
from lpx.search.subject import Subject

_BATCH = 8


def whole_logits(
    subject: Subject, faces: FaceSet, size: int, progress: Progress | None = None
) -> NDArray[np.float64]:
    """Return the logits of all readable faces with every group in INT8, float64 [N].

    The graph runs in ONNX Runtime. TensorRT's dialects run without its optimiser, which miscomputes
    them.

    Args:
        subject: The model.
        faces: The faces.
        size: Side of a face, pixels.
        progress: Receives the number of faces done, and their total.
    """
    graph = read_named(subject.data, "the exported model")
    logit = logit_tensor(graph)
    output = "score" if logit is None else logit
    style, weights = style_of(subject.dialect), subject.request.weights
    insert_qdq(graph, subject.placement, subject.ranges, style, weights)
    options = session_options(vnni=None)
    if not style.stored_weights:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    parts = []
    with ort_errors("ONNX Runtime failed on the INT8 graph", "please report this with the model"):
        data = with_outputs(serialise(graph), "the INT8 graph", [output])
        session = onnxruntime.InferenceSession(data, options, providers=PROVIDERS)
        for batch in faces.stream(_BATCH, size, []):
            (values,) = session.run([output], {"faces": batch.pixels})
            parts.append(values.reshape(len(batch.indices)).astype(np.float64))
            if progress is not None:
                progress(int(batch.indices[-1]) + 1, len(faces.faces))
    joined = np.concatenate(parts)
    return logit_of(joined) if logit is None else joined
