"""Logits of the graph of a plan, such as that with every group in INT8."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lpx.data.face_sets.face_set import FaceSet
from lpx.engines.onnxruntime.cpu import PROVIDERS, session_options
from lpx.engines.onnxruntime.failure import ort_errors
from lpx.graph.layers import with_outputs
from lpx.graph.resume import logit_tensor
from lpx.reporter import Progress
from lpx.search.shifts import logit_of
from lpx.search.subject import Subject

_BATCH = 8


class PlanScorer:
    """The graph of a plan in ONNX Runtime, which gives logits in place of scores.

    TensorRT's dialects run without ONNX Runtime's optimiser, which miscomputes them.

    Args:
        subject: The model.
        int8: Names of the groups in INT8.

    Raises:
        LpxError: A group does not exist.
    """

    def __init__(self, subject: Subject, int8: Collection[str]) -> None:
        logit = logit_tensor(subject.graph)
        self._from_score = logit is None
        self._output = "score" if logit is None else logit
        options = session_options(vnni=None)
        if subject.dialect != "onnxruntime":
            level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = level
        with ort_errors("ONNX Runtime cannot load a plan's graph", "please report this"):
            data = with_outputs(subject.lowered(int8), "the plan's graph", [self._output])
            self._session = onnxruntime.InferenceSession(data, options, providers=PROVIDERS)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the logits of faces, float64 [B].

        Args:
            pixels: uint8 RGB [B, S, S, 3].
        """
        with ort_errors("ONNX Runtime failed on a plan's graph", "please report this"):
            (values,) = self._session.run([self._output], {"faces": pixels})
        flat = values.reshape(len(pixels)).astype(np.float64)
        return logit_of(flat) if self._from_score else flat


def whole_logits(
    subject: Subject, faces: FaceSet, size: int, progress: Progress | None = None
) -> NDArray[np.float64]:
    """Return the logits of all readable faces with every group in INT8, float64 [N].

    Args:
        subject: The model.
        faces: The faces.
        size: Side of a face, pixels.
        progress: Receives the number of faces done, and their total.
    """
    scorer = PlanScorer(subject, {group.name for group in subject.groups})
    parts = []
    for batch in faces.stream(_BATCH, size, []):
        parts.append(scorer.logits(batch.pixels))
        if progress is not None:
            progress(int(batch.indices[-1]) + 1, len(faces.faces))
    return np.concatenate(parts)
