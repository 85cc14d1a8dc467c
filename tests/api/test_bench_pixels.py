"""`Workspace.bench` on faces that are resized as other pipelines do."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from lpx import Workspace
from lpx.api import bench as bench_api
from lpx.api.bench import BenchOptions, Host
from lpx.bench.report.document.report import read_report
from lpx.bench.report.headline import warnings
from lpx.data.face_sets.sets import open_set
from lpx.data.images.decode import fit
from lpx.data.pipelines.table import PIPELINES
from lpx.engines import load
from lpx.engines.base import Prediction
from lpx.errors import LpxError
from lpx.reporter import SILENT
from tests.support.costs import UNTIMED
from tests.support.reporting import RecordingReporter

FP32, INT8 = "onnxruntime-fp32", "onnxruntime-int8"
SIZE = 160


def bench(workspace, stages, dataset="demo", *, host=None, reporter=SILENT, **options):
    options = BenchOptions(**{"costs": UNTIMED, "stages": stages, **options})
    return bench_api.bench(workspace, dataset, options, reporter, host=host)


def changing(change):
    """A host whose engines' predictions are changed; `change` gets faces and prediction."""

    def load_changed(folder, **options):
        engine = load(folder, **options)
        infer = engine.infer
        engine.infer = lambda faces: change(faces, infer(faces))
        return engine

    return Host(load=load_changed)


def save(crops, change):
    """Replace the crops of a folder by what a change makes of them."""
    for number, path in enumerate(sorted(crops.rglob("*.png"))):
        image = change(cv2.imread(str(path)), number)
        assert cv2.imwrite(str(path), image)


def test_engines_score_the_pixels_of_the_pipeline(workspace):
    report = bench(workspace, ("pixels:deepstream", "pixels:triton"), limit=24)
    faces = open_set("demo", "test").first(24)
    images = [face.source.read() for face in faces.faces]
    own = np.stack([fit(image, SIZE) for image in images])
    assert [summary.pipeline for summary in report.pixels] == ["deepstream", "opencv-linear"]
    for candidate in report.candidates:
        assert candidate.stages == ()
        with load(workspace.engines / candidate.name) as engine:
            ours = engine.infer(own).score
            for row in candidate.pixels:
                pipeline = PIPELINES[row.pipeline]
                theirs = engine.infer(np.stack([pipeline.make(i, SIZE) for i in images])).score
                largest = np.abs(theirs - ours).max()
                found = row.against_engine.score_difference.max
                assert found == pytest.approx(largest, abs=1e-6)
                assert found > 0.005
    # FP32 is the checkpoint, but for rounding: what is lost, is lost by the pixels.
    (fp32,) = [candidate for candidate in report.candidates if candidate.name == FP32]
    for row in fp32.pixels:
        whole, alone = row.against_torch.auc_difference, row.against_engine.auc_difference
        assert whole.estimate == pytest.approx(alone.estimate, abs=1e-4)


def test_what_is_written_is_read_again(workspace):
    report = bench(workspace, ("onnx", "pixels:nv12"), limit=24)
    read = read_report(workspace.root)
    assert (read.pixels, read.candidates) == (report.pixels, report.candidates)
    assert [stage.kind for stage in report.candidates[0].stages] == ["onnx", "engine"]
    values = json.loads(report.json_path.read_text())
    assert values["pixels"][0]["faces_changed"] == 24
    assert 'id="pixels-table"' in report.html_path.read_text()
    assert "| nv12 |" in report.markdown_path.read_text()


def test_an_alias_is_named_for_what_it_is(workspace):
    told = RecordingReporter()
    bench(workspace, ("pixels:triton",), limit=8, reporter=told)
    assert "triton leaves resizing to its clients" in told.said[0]


def test_an_engine_that_is_lost_on_these_pixels_alone_fails(workspace):
    """Its scores are kept on lpx's own pixels, and reversed on others."""
    faces = open_set("demo", "test").first(200)
    own = {fit(face.source.read(), SIZE).tobytes() for face in faces.faces}

    def change(pixels, prediction):
        known = np.array([face.tobytes() in own for face in pixels])
        score = np.where(known, prediction.score, 1 - prediction.score)
        return Prediction(score.astype(np.float32), prediction.patch_map)

    options = {"limit": 200, "candidates": FP32, "host": changing(change)}
    assert bench(workspace, (), **options).verdict == "holds"
    report = bench(workspace, ("pixels:opencv-linear",), **options)
    assert report.engine_verdict == "holds"
    assert report.verdict == "fails"
    assert any("lost by the pixels of opencv-linear" in text for text in warnings(report))


def test_an_engine_that_breaks_on_these_pixels_is_not_passed_over(workspace):
    calls = []

    def change(pixels, prediction):
        calls.append(len(pixels))
        # Two engines score each batch, on lpx's pixels first.
        if len(calls) > 2:
            raise RuntimeError("no memory")
        return prediction

    report = bench(workspace, ("pixels:nv12",), limit=16, host=changing(change))
    assert report.failed == ()
    for candidate in report.candidates:
        (row,) = candidate.pixels
        assert (row.against_torch, row.verdict) == (None, "undecided")
        assert row.reason.startswith("RuntimeError: no memory (at faces ")


def test_an_interrupted_bench_resumes(workspace):
    stages = ("pixels:deepstream", "pixels:nv12")
    whole = bench(workspace, stages, limit=60).to_dict()
    calls = []

    class Killed(BaseException):
        pass

    def stop(pixels, prediction):
        calls.append(len(pixels))
        if len(calls) == 9:
            raise Killed
        return prediction

    with pytest.raises(Killed):
        bench(workspace, stages, limit=60, host=changing(stop))
    assert (workspace.root / "bench.partial").is_dir()
    calls.clear()

    def count(pixels, prediction):
        calls.append(len(pixels))
        return prediction

    again = bench(workspace, stages, limit=60, host=changing(count)).to_dict()
    # Two engines, on three kinds of pixels, four batches; eight calls were kept.
    assert len(calls) == 2 * 3 * 4 - 8
    for values in (whole, again):
        del values["memory"], values["environment"]
    assert again == whole
    assert not (workspace.root / "bench.partial").exists()


def test_recorded_scores_are_a_reference_too(workspace):
    whole = bench(workspace, ("pixels:deepstream",), limit=40)
    recorded = bench(workspace, ("pixels:deepstream",), limit=40, reference="recorded")
    assert recorded.reference.recorded is not None
    assert recorded.candidates[0].pixels == whole.candidates[0].pixels
    assert recorded.pixels == whole.pixels


def test_a_workspace_without_graphs_of_engines_has_no_stage_of_them(workspace):
    report = bench(workspace, ("graph",), limit=8)
    assert [stage.kind for stage in report.candidates[0].stages] == ["engine"]


def test_crops_of_the_models_size_say_nothing_of_a_resize(workspace, crops):
    save(crops, lambda image, number: cv2.resize(image, (SIZE, SIZE)))
    report = bench(workspace, ("pixels:opencv-linear", "pixels:deepstream"), "crops")
    linear, deepstream = report.pixels
    assert (linear.faces_changed, linear.faces_resized) == (0, 0)
    assert (deepstream.faces_changed, deepstream.faces_resized) == (16, 0)
    said = " ".join(warnings(report))
    assert "The pixels of opencv-linear are lpx's own on all of these faces" in said
    assert "the figures of deepstream say nothing about its resize" in said
    # Equal pixels have equal scores.
    for candidate in report.candidates:
        assert candidate.pixels[0].against_engine.score_difference.max == 0


def test_crops_of_any_size_and_grey_ones(workspace, crops):
    shapes = ((1, 1), (1, 300), (2, 3), (161, 161), (159, 7), (333, 500))

    def change(image, number):
        height, width = shapes[number % len(shapes)]
        image = cv2.resize(image, (width, height))
        return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if number % 2 else image

    save(crops, change)
    report = bench(workspace, [f"pixels:{name}" for name in PIPELINES], "crops")
    assert report.dataset.faces == 16
    for summary in report.pixels:
        assert summary.faces_changed > 0
        assert np.isfinite(summary.mean_difference)
    for candidate in report.candidates:
        assert all(row.against_torch is not None for row in candidate.pixels)


def test_unreadable_faces_are_left_out_of_the_facts(workspace, crops):
    (crops / "real" / "0.png").write_bytes(b"broken")
    report = bench(workspace, ("pixels:nv12",), "crops")
    assert report.dataset.faces == 15
    assert report.pixels[0].faces_resized == report.pixels[0].faces_changed == 15


def test_an_unknown_pipeline_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(LpxError, match="must name pipelines that lpx knows") as caught:
        Workspace(tmp_path / "empty").bench("demo", stages=("pixels:vic",))
    assert caught.value.code == "invalid-argument"
