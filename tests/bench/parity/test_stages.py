from __future__ import annotations

import numpy as np
import pytest

from lpx.bench.parity.parity import compare
from lpx.bench.parity.stages import (
    MODEL,
    ComparisonTerms,
    StageScores,
    breaks_at,
    graph_of,
    stages_of,
)
from lpx.engines.base import Prediction

LABELS = np.arange(400) % 2


def prediction(scores):
    scores = np.asarray(scores, np.float32)
    return Prediction(scores, np.repeat(scores[:, None, None], 4, axis=1).reshape(-1, 2, 2))


RNG = np.random.default_rng(0)
GOOD = prediction(RNG.normal(1.5 * LABELS, 1.0))
BAD = prediction(RNG.permutation(GOOD.score))


def run(onnx, graph, engine, reasons=None):
    predictions = {MODEL: onnx, graph_of("x"): graph, "x": engine}
    predictions = {key: found for key, found in predictions.items() if found is not None}
    whole = compare(LABELS, GOOD, engine, 0.5)
    terms = ComparisonTerms(LABELS, 0.5)
    return stages_of("x", whole, StageScores(GOOD, predictions, reasons or {}, terms))


@pytest.mark.parametrize(
    ("stages", "first"),
    [
        ((GOOD, GOOD, GOOD), None),
        ((GOOD, GOOD, BAD), "engine"),
        ((GOOD, BAD, BAD), "graph"),
        ((BAD, BAD, BAD), "onnx"),
        ((GOOD, None, BAD), "engine"),
        # What the engine gets right again is not a loss.
        ((GOOD, BAD, GOOD), None),
    ],
)
def test_the_first_stage_that_breaks_is_named(stages, first):
    found = breaks_at(run(*stages))
    assert (found.kind if found else None) == first


def test_each_is_compared_with_torch_and_with_the_stage_before():
    onnx, graph, engine = run(GOOD, BAD, BAD)
    assert [s.kind for s in (onnx, graph, engine)] == ["onnx", "graph", "engine"]
    assert onnx.against_previous is onnx.against_torch
    assert graph.against_torch.verdict == graph.against_previous.verdict == "fails"
    assert engine.against_torch.verdict == "fails"
    assert engine.against_previous.auc_difference.estimate == 0
    assert engine.against_previous.score_difference.max == 0


def test_a_stage_that_did_not_run_gives_its_reason_and_is_stepped_over():
    onnx, graph, engine = run(GOOD, None, BAD, {graph_of("x"): "graph.onnx is not there"})
    assert (graph.against_torch, graph.against_previous) == (None, None)
    assert graph.reason == "graph.onnx is not there"
    assert engine.against_previous.verdict == "fails"
    assert onnx.against_torch.verdict == "holds"


def test_an_engine_of_onnx_runtime_has_no_graph_of_its_own():
    assert [stage.kind for stage in run(GOOD, None, GOOD)] == ["onnx", "engine"]
