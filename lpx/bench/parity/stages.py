"""Parity stage by stage: torch, ONNX in float32, the precision's graph, the engine.

Where an engine loses AUC, the first stage that shows the loss says where to look: the export, the
precision's graph (scales, placement), or what the runtime made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.parity import MARGIN, VERDICTS, Discrimination, ParityResult, compare
from lpx.engines.base import Engine, Prediction

MODEL = "onnx"
"""Key of the exported model's predictions, run by ONNX Runtime; no engine is called so."""

Kind = Literal["onnx", "graph", "engine"]


@dataclass(frozen=True)
class Graphs:
    """What is run besides the engines, by ONNX Runtime.

    Attributes:
        model: The exported model.
        graphs: Per candidate whose engine is not its graph: the graph that it was built from.
        missing: Per candidate: why there is no such graph.
        digests: SHA-256 per key of `engines`.
    """

    model: Engine
    graphs: Mapping[str, Engine]
    missing: Mapping[str, str]
    digests: Mapping[str, str]

    def engines(self) -> dict[str, Engine]:
        """All, by the keys of their predictions."""
        return {MODEL: self.model, **{graph_of(n): e for n, e in self.graphs.items()}}


@dataclass(frozen=True)
class Stage:
    """A stage on the way to an engine.

    Attributes:
        kind: "onnx": the exported model; "graph": the precision's graph, both in ONNX Runtime;
            "engine": the engine itself.
        against_torch: Compared with the checkpoint; None where it did not run.
        against_previous: Compared with the last stage before it that ran.
        reason: Why it did not run, else "".
    """

    kind: Kind
    against_torch: ParityResult | None
    against_previous: ParityResult | None
    reason: str = ""


def graph_of(name: str) -> str:
    """Key of the predictions of a candidate's graph."""
    return f"{name}:graph"


def stages_of(
    name: str,
    whole: ParityResult,
    labels: NDArray[np.int64],
    torch: Prediction,
    predictions: Mapping[str, Prediction],
    reasons: Mapping[str, str],
    threshold: float,
    margin: float = MARGIN,
    groups: NDArray[np.int64] | None = None,
    truth: Discrimination | None = None,
) -> tuple[Stage, ...]:
    """The stages of a candidate, in order; the engine last.

    Args:
        name: The candidate.
        whole: Of the engine against the checkpoint.
        labels: int64 [N], 1 = fake.
        torch: The checkpoint's predictions.
        predictions: By name of the candidate, `MODEL` and `graph_of(name)`.
        reasons: Why a stage that `predictions` lacks did not run, by the same keys; a stage that
            is in neither is none of this candidate's.
        threshold: Operating point at which verdicts may flip.
        margin: AUC that may be lost.
        groups: int64 [N], faces that depend on each other having one number.
        truth: How the checkpoint tells the classes apart; None where that is to be computed.
    """
    keys: dict[str, Kind] = {MODEL: "onnx", graph_of(name): "graph", name: "engine"}
    before = torch
    found = []
    for key, kind in keys.items():
        prediction = predictions.get(key)
        if prediction is None:
            if key in reasons:
                found.append(Stage(kind, None, None, reasons[key]))
            continue
        of_torch = (
            whole
            if kind == "engine"
            else compare(labels, torch, prediction, threshold, margin, groups, truth)
        )
        step = (
            of_torch
            if before is torch
            else compare(labels, before, prediction, threshold, margin, groups, truth)
        )
        found.append(Stage(kind, of_torch, step))
        before = prediction
    return tuple(found)


def breaks_at(stages: tuple[Stage, ...]) -> Stage | None:
    """The first stage that does as badly as the engine; None where the engine's parity holds."""
    ran = [(stage, stage.against_torch) for stage in stages if stage.against_torch is not None]
    if not ran:
        return None
    worst = VERDICTS.index(ran[-1][1].verdict)
    if VERDICTS[worst] == "holds":
        return None
    return next(stage for stage, found in ran if VERDICTS.index(found.verdict) >= worst)
