"""Pieces of a quantised graph, their shifts, and what is predicted from them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from lpx.bench.parity.score_store import ScoreStore
from lpx.calibration.methods import DEFAULT_METHOD
from lpx.calibration.observe import calibrate
from lpx.data.face_sets.demo import demo_set
from lpx.engines.build import placement_of, style_of
from lpx.engines.onnxruntime.cpu import PROVIDERS, session_options
from lpx.engines.request import BuildRequest
from lpx.errors import LpxError
from lpx.graph.layers import read_named, with_outputs
from lpx.graph.model_io import serialise
from lpx.graph.qdq.insert_qdq import insert_qdq
from lpx.graph.resume import logit_tensor
from lpx.reporter import SILENT
from lpx.search.plan_scorer import whole_logits
from lpx.search.predict import Predictor
from lpx.search.sensitivity import sensitivities
from lpx.search.shifts import FLOAT, logit_of, measure_shifts
from lpx.search.subject import open_subject
from lpx.search.survey import ShiftStore, survey
from tests.support.search_nets import NETS, SIZE, make_model

DIALECTS = {"onnxruntime": "onnxruntime", "strongly-typed": "tensorrt"}
FACES = 24


@pytest.fixture(scope="module")
def faces():
    return demo_set("test").first(FACES)


@pytest.fixture(scope="module", params=[(net, d) for net in NETS for d in DIALECTS])
def subject(request):
    net, dialect = request.param
    data = make_model(net)
    scales = calibrate(data, demo_set("train").first(8), SIZE)
    build = BuildRequest(DIALECTS[dialect], "int8", scales, DEFAULT_METHOD)
    return open_subject(data, build, dialect)


def store_of(folder, subject, pieces):
    digests = {piece.name: subject.digest(piece) for piece in pieces}
    return ScoreStore(folder, {}, {FLOAT: subject.float_digest, **digests})


@pytest.fixture(scope="module")
def shifts(subject, faces, tmp_path_factory):
    store = store_of(tmp_path_factory.mktemp("shifts") / "all", subject, subject.pieces)
    return measure_shifts(subject, subject.pieces, faces, SIZE, store)


def run_plan(subject, int8, faces):
    """Logits of a plan's graph, which TensorRT's dialects need unoptimised."""
    graph = read_named(subject.data, "the model")
    weights = subject.request.weights
    placement = placement_of(
        graph, subject.request.target, subject.dialect, weights.min_channels, subject.plan(int8)
    )
    insert_qdq(graph, placement, subject.ranges, style_of(subject.dialect), weights)
    options = session_options(vnni=None)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    logit = logit_tensor(subject.graph)
    output = logit or "score"
    data = with_outputs(serialise(graph), "the plan", [output])
    session = onnxruntime.InferenceSession(data, options, providers=PROVIDERS)
    parts = [
        session.run([output], {"faces": batch.pixels})[0].reshape(-1)
        for batch in faces.stream(4, SIZE, [])
    ]
    joined = np.concatenate(parts)
    return logit_of(joined) if logit is None else joined


def test_every_placement_is_a_set_of_pieces_none_of_them_twice(subject):
    """What a plan's pieces round is exactly what its placement rounds."""
    random = np.random.default_rng(0)
    pieces = {piece.name: piece for piece in subject.pieces}
    names = [group.name for group in subject.groups]
    for share in (0.0, 0.3, 0.5, 0.7, 1.0):
        int8 = {name for name in names if random.random() < share or share == 1.0}
        weights = subject.request.weights
        placement = placement_of(
            subject.graph,
            subject.request.target,
            subject.dialect,
            weights.min_channels,
            subject.plan(int8),
        )
        parts = [pieces[name] for name in subject.parts(int8)]
        layers = [name for piece in parts for name in piece.convolutions]
        assert sorted(layers) == sorted(placement.convolutions)
        if subject.style.at_source:
            tensors = [name for piece in parts for name in piece.outputs]
            assert sorted(tensors) == sorted(placement.tensors)
        else:
            uses = [use for piece in parts for use in piece.uses]
            assert sorted(uses) == sorted(placement.uses)


def test_a_layer_alone_shifts_scores_as_its_graph_does(subject, shifts, faces):
    if subject.style.at_source:
        pytest.skip("ONNX Runtime also rounds what a layer returns: several pieces, not one")
    for group in subject.groups:
        (name,) = (p for p in subject.parts({group.name}) if p.startswith("layer:"))
        if len(subject.parts({group.name})) > 1:
            continue
        real = run_plan(subject, {group.name}, faces) - shifts.logits
        assert np.abs(shifts.by_piece[name] - real).max() <= 1e-4 + 0.02 * np.abs(real).max()


def test_the_float_graph_has_no_shift(subject, shifts, faces):
    assert np.abs(run_plan(subject, (), faces) - shifts.logits).max() < 1e-4


def test_shifts_of_all_pieces_nearly_add_up_and_the_corrected_sum_is_exact(subject, shifts, faces):
    names = {group.name for group in subject.groups}
    whole = whole_logits(subject, faces, SIZE)
    plain = Predictor(subject, shifts)
    size = np.sqrt(((whole - shifts.logits) ** 2).mean())
    # Rounding behind a layer depends on the errors before it: sums are as large, not the same.
    predicted = np.sqrt(((plain.logits(names) - shifts.logits) ** 2).mean())
    assert 0.4 * size < predicted < 2.5 * size
    corrected = Predictor(subject, shifts, whole)
    assert np.allclose(corrected.logits(names), whole)
    assert np.allclose(corrected.logits(()), shifts.logits)


def test_an_interrupted_measurement_resumes_with_the_same_shifts(subject, shifts, faces, tmp_path):
    pieces = subject.pieces[:3]
    stop = {}

    def interrupt(done, total):
        if done >= 12 and not stop:
            stop["at"] = done
            raise KeyboardInterrupt

    # Chunks of one batch, so that some are done before the interruption.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpx.search.shifts._TENSOR_BYTES", 1)
        store = store_of(tmp_path / "s", subject, pieces)
        with pytest.raises(KeyboardInterrupt):
            measure_shifts(subject, pieces, faces, SIZE, store, interrupt)
        assert 0 < stop["at"] < FACES
        store = store_of(tmp_path / "s", subject, pieces)
        resumed = measure_shifts(subject, pieces, faces, SIZE, store)
    for piece in pieces:
        assert np.allclose(resumed.by_piece[piece.name], shifts.by_piece[piece.name], atol=1e-5)
    assert len(resumed.indices) == FACES


def test_groups_with_small_effects_are_matched_within_their_class(
    subject, shifts, faces, tmp_path, monkeypatch
):
    monkeypatch.setattr("lpx.search.survey._FEW", 1)
    monkeypatch.setattr("lpx.search.survey._EVERY", 2)
    monkeypatch.setattr("lpx.search.survey._SHARE", 0.5)
    found = survey(subject, faces, SIZE, ShiftStore(tmp_path, {}, print), SILENT)
    assert 0 < len(found.matched) < len(subject.pieces)
    assert list(found.shifts.indices) == list(range(FACES))
    assert np.array_equal(found.shifts.labels, faces.labels())
    rows = np.arange(FACES)
    measured = rows[rows // 4 % 2 == 0]
    for piece in subject.pieces:
        ours, exact = found.shifts.by_piece[piece.name], shifts.by_piece[piece.name]
        assert np.allclose(ours[measured], exact[measured], atol=1e-5)
        if piece.name not in found.matched:
            assert np.allclose(ours, exact, atol=1e-5)
            continue
        for label in (0, 1):
            known = ours[measured][faces.labels()[measured] == label]
            rest = np.setdiff1d(rows, measured)
            matched = ours[rest][faces.labels()[rest] == label]
            assert np.isin(matched, known).all()


def test_sensitivities_are_sorted_and_complete(subject, shifts):
    found = sensitivities(subject, shifts, Predictor(subject, shifts))
    assert sorted(one.group.name for one in found) == sorted(g.name for g in subject.groups)
    estimates = [one.auc_difference.estimate for one in found]
    assert estimates == sorted(estimates)
    assert all(one.group.multiply_accumulates > 0 for one in found)


def test_a_set_with_one_class_is_refused(subject, faces, tmp_path):
    real = faces.take(np.flatnonzero(faces.labels() == 0))
    store = store_of(tmp_path / "s", subject, subject.pieces[:1])
    with pytest.raises(LpxError, match="real faces only"):
        measure_shifts(subject, subject.pieces[:1], real, SIZE, store)


def test_residual_blocks_are_groups_on_request():
    data = make_model("pooled")
    scales = calibrate(data, demo_set("train").first(4), SIZE)
    request = BuildRequest("tensorrt", "int8", scales, DEFAULT_METHOD)
    subject = open_subject(data, request, "strongly-typed", blocks=True)
    blocks = {g.name: g.members for g in subject.groups if g.op_type == "residual block"}
    assert blocks == {
        "Add_c": ("Conv_a", "Conv_b"),
        "Add_g": ("Conv_d", "Conv_e", "Conv_f"),
    }
