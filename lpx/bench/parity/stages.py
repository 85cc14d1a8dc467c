"""Parity stage by stage: torch, ONNX in float32, the precision's graph, the engine.

If an engine loses AUC, the first stage that shows the loss says where to look: the export, the
precision's graph (scales, placement), or the runtime's own optimisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.parity import MARGIN, VERDICTS, Discrimination, ParityResult, compare
from lpx.engines.base import Engine, Prediction

# Key of the exported model's predictions in ONNX Runtime; no engine may have this name.
MODEL = "onnx"

Kind = Literal["onnx", "graph", "engine"]


@dataclass(frozen=True)
class Graphs:
    """Graphs that ONNX Runtime runs besides the engines.

    Attributes:
        model: The exported model; None if it was left out.
        graphs: Graphs that engines were built from, by candidate; not of engines that are graphs.
        missing: Reasons why a candidate has no such graph.
        digests: SHA-256 by the keys of `engines`.
    """

    model: Engine | None
    graphs: Mapping[str, Engine]
    missing: Mapping[str, str]
    digests: Mapping[str, str]

    def engines(self) -> dict[str, Engine]:
        """Return all of them, by the keys of their predictions."""
        engines = {graph_of(name): engine for name, engine in self.graphs.items()}
        return engines if self.model is None else {MODEL: self.model, **engines}


@dataclass(frozen=True)
class Stage:
    """A stage between the checkpoint and an engine.

    Attributes:
        kind: "onnx": the exported model; "graph": the precision's graph, both in ONNX Runtime;
            "engine": the engine itself.
        against_torch: Comparison with the checkpoint; None if the stage did not run.
        against_previous: Comparison with the last stage before it that ran.
        reason: Reason why it did not run; otherwise "".
    """

    kind: Kind
    against_torch: ParityResult | None
    against_previous: ParityResult | None
    reason: str = ""


def graph_of(name: str) -> str:
    """Return the key of the predictions of a candidate's graph."""
    return f"{name}:graph"


@dataclass(frozen=True)
class ComparisonTerms:
    """Terms on which predictions of the same faces are compared.

    Attributes:
        labels: int64 [N], 1 = fake.
        threshold: Operating point at which decisions may flip.
        margin: AUC that may be lost.
        groups: int64 [N], the same number for faces that depend on each other; None if none do.
        truth: Discrimination by the checkpoint; None to compute it.
    """

    labels: NDArray[np.int64]
    threshold: float
    margin: float = MARGIN
    groups: NDArray[np.int64] | None = None
    truth: Discrimination | None = None

    def compare(self, reference: Prediction, candidate: Prediction) -> ParityResult:
        """Compare two predictions; see `lpx.bench.parity.parity.compare`."""
        return compare(
            self.labels,
            reference,
            candidate,
            self.threshold,
            self.margin,
            self.groups,
            self.truth,
        )


@dataclass(frozen=True)
class StageScores:
    """What the stages of all candidates are compared by.

    Attributes:
        torch: Predictions of the checkpoint.
        predictions: Predictions of engines, graphs, and engines on the pixels of pipelines, by
            their keys.
        reasons: Reasons why others are missing, by the same keys.
        terms: Labels, threshold, margin and groups.
    """

    torch: Prediction
    predictions: Mapping[str, Prediction]
    reasons: Mapping[str, str]
    terms: ComparisonTerms


def stages_of(name: str, whole: ParityResult, scores: StageScores) -> tuple[Stage, ...]:
    """Compare the stages of a candidate, in order; the engine last.

    A stage that has neither predictions nor a reason does not exist for this candidate.

    Args:
        name: Name of the candidate.
        whole: Comparison of the engine with the checkpoint.
        scores: Predictions, with the keys `MODEL`, `graph_of(name)` and `name`.
    """
    keys: dict[str, Kind] = {MODEL: "onnx", graph_of(name): "graph", name: "engine"}
    before, terms = scores.torch, scores.terms
    stages = []
    for key, kind in keys.items():
        prediction = scores.predictions.get(key)
        if prediction is None:
            if key in scores.reasons:
                stages.append(Stage(kind, None, None, scores.reasons[key]))
            continue
        # Bootstraps take seconds: what was compared already is not compared again.
        against_torch = whole if kind == "engine" else terms.compare(scores.torch, prediction)
        against_previous = against_torch
        if before is not scores.torch:
            against_previous = terms.compare(before, prediction)
        stages.append(Stage(kind, against_torch, against_previous))
        before = prediction
    return tuple(stages)


def breaks_at(stages: tuple[Stage, ...]) -> Stage | None:
    """Return the first stage that does as badly as the engine; None if its parity holds."""
    ran = [(stage, stage.against_torch) for stage in stages if stage.against_torch is not None]
    if not ran:
        return None
    worst = VERDICTS.index(ran[-1][1].verdict)
    if VERDICTS[worst] == "holds":
        return None
    return next(stage for stage, parity in ran if VERDICTS.index(parity.verdict) >= worst)
