"""Calibration methods ranked by the error they cause on held-out faces."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.score import check_finite, joined
from lpx.calibration.scales import Scales
from lpx.card import ModelCard
from lpx.data.face_sets.face_set import FaceSet, Skipped
from lpx.engines.base import Prediction
from lpx.engines.build import make_graph
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.request import BuildRequest
from lpx.errors import LpxError
from lpx.graph.qdq.prepare import prepare_model
from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions
from lpx.metrics import auc, auc_difference, map_agreement, score_difference
from lpx.reporter import SILENT, Reporter

# More held-out faces at a time are no faster on a CPU, and the graph of every method holds the
# activations of this many.
_BATCH = 2


@dataclass(frozen=True)
class Evidence:
    """Errors that a calibration method causes on held-out faces, against the float32 model.

    Attributes:
        method: Calibration method.
        score_error_mean: Mean |score difference|.
        score_error_max: Largest |score difference|.
        map_error_mean: Mean |difference| of a patch's score.
        auc: AUC of the INT8 graph; None without two faces of each class.
        auc_loss: AUC of the float32 model less that of the INT8 graph, or None.
        auc_loss_low: Lower end of the 95 % interval of `auc_loss` (DeLong), or None.
        auc_loss_high: Upper end, or None.
    """

    method: str
    score_error_mean: float
    score_error_max: float
    map_error_mean: float
    auc: float | None = None
    auc_loss: float | None = None
    auc_loss_low: float | None = None
    auc_loss_high: float | None = None


class MethodRanking:
    """INT8 graphs of several calibration methods, compared with float32 on the same faces.

    Args:
        model: The float32 model.
        card: Its card.
        faces: Held-out faces.
        weights: Quantisation of the INT8 graphs' weights.
    """

    def __init__(
        self,
        model: bytes,
        card: ModelCard,
        faces: FaceSet,
        weights: WeightOptions = DEFAULT_WEIGHTS,
    ) -> None:
        self.model, self.card, self.faces = model, card, faces
        self.weights = weights
        self.skipped: list[Skipped] = []
        self.seconds_per_face = 0.0
        self.indices, self.reference = self._reference()

    def _reference(self) -> tuple[NDArray[np.int64], Prediction]:
        indices: list[NDArray[np.int64]] = []
        parts: list[Prediction] = []
        seconds = 0.0
        # Prepared as for the INT8 graphs, so that only quantisation differs.
        model, _ = prepare_model(
            self.model, "the exported model", requantise=self.weights.requantise
        )
        with closing(OnnxRuntimeEngine(model, self.card.input_size)) as engine:
            for batch in self.faces.stream(_BATCH, self.card.input_size, self.skipped):
                if not parts:
                    # The first call allocates memory, and would be timed with it.
                    engine.infer(batch.pixels)
                started = time.perf_counter()
                parts.append(engine.infer(batch.pixels))
                seconds += time.perf_counter() - started
                # NaN would make every method's error NaN, and the order of methods arbitrary.
                check_finite("the float32 model", parts[-1], self.faces, batch.indices)
                indices.append(batch.indices)
        if not parts:
            raise LpxError(
                f"no held-out face of {self.faces.name} can be read",
                f"{self.skipped[0].name}: {self.skipped[0].reason}",
                "use another set of `faces`",
            )
        order = np.concatenate(indices)
        self.seconds_per_face = seconds / len(order)
        return order, joined(parts)

    def rank(
        self, scales: Scales, methods: tuple[str, ...], reporter: Reporter = SILENT
    ) -> tuple[Evidence, ...]:
        """Measure each method on the held-out faces, and sort them by `best_first`."""
        engines = {}
        for method in methods:
            request = BuildRequest(
                "onnxruntime",
                "int8",
                scales,
                method,
                weights=self.weights,
            )
            graph, _ = make_graph(self.model, request, "onnxruntime")
            size = self.card.input_size
            # All methods score while the next faces are decoded.
            engines[method] = OnnxRuntimeEngine(graph, size, shares_cores=True)
        parts: dict[str, list[Prediction]] = {method: [] for method in methods}
        progress = reporter.progress("comparing calibration methods on held-out faces")
        for batch in self.faces.stream(_BATCH, self.card.input_size, []):
            for method, engine in engines.items():
                parts[method].append(engine.infer(batch.pixels))
            progress(int(batch.indices[-1]) + 1, len(self.faces.faces))
        # Faces at the end may be unreadable, and the bar has to reach its end.
        progress(len(self.faces.faces), len(self.faces.faces))
        return best_first([self._evidence(m, joined(parts[m])) for m in methods])

    def _evidence(self, method: str, prediction: Prediction) -> Evidence:
        error = score_difference(self.reference.score, prediction.score)
        maps = map_agreement(self.reference.patch_map, prediction.patch_map)
        labels = self.faces.labels()[self.indices]
        evidence = Evidence(method, error.mean, error.max, maps.mean_abs_difference)
        # An AUC needs two faces of each class for its variance; without labels the scores alone
        # decide.
        if min((labels == 0).sum(), (labels == 1).sum()) < 2:
            return evidence
        # Faces without a label have -1.
        known = labels >= 0
        scores = self.reference.score[known], prediction.score[known]
        d = auc_difference(labels[known], *scores)
        return replace(
            evidence,
            auc=auc(labels[known], scores[1]),
            # 0 - x rather than -x: a loss of nothing is 0.0, not -0.0.
            auc_loss=0 - d.estimate,
            auc_loss_low=0 - d.high,
            auc_loss_high=0 - d.low,
        )


def best_first(candidates: list[Evidence]) -> tuple[Evidence, ...]:
    """Sort by the mean score error, with methods that significantly lose AUC last.

    A loss is significant if its whole 95 % interval is above 0; such methods are sorted by the
    lower end of the interval.
    """
    # All other differences of AUC count as chance, gains included: an engine that follows the
    # float32 model has nothing to gain, so a gain is an error that happened to help on these faces.

    def place(candidate: Evidence) -> tuple[float, float]:
        low = candidate.auc_loss_low
        # A loss counts only if the whole interval is above 0.
        return 0.0 if low is None else max(low, 0.0), candidate.score_error_mean

    return tuple(sorted(candidates, key=place))
