from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lpx import pipeline
from lpx.bench.score import Scored
from lpx.data.decode import fit
from lpx.data.face_set import Face, FaceSet
from lpx.data.sets import open_set
from lpx.engines import load
from lpx.engines.manifest import read_manifest
from lpx.errors import LpxError
from lpx.metrics import auc
from lpx.pipeline import benching, runnable


def bench(workspace, dataset="demo", **options):
    return pipeline.bench(workspace, dataset, latency_seconds=0, **options).report


def test_engines_in_python_give_what_bench_saw(workspace):
    report = bench(workspace, limit=24)
    faces = open_set("demo", "test").first(24)
    pixels = np.stack([fit(face.source.read(), 160) for face in faces.faces])
    int8, fp32 = (
        load(workspace.engines / f"onnxruntime-{p}").infer(pixels).score for p in ("int8", "fp32")
    )
    found = {entry["precision"]: entry for entry in report["candidates"]}
    assert found["int8"]["auc"] == auc(faces.labels(), int8)
    assert found["fp32"]["auc"] == auc(faces.labels(), fp32)
    # The FP32 engine is within 1e-4 of PyTorch, which is what bench compares with.
    assert found["int8"]["score_difference"]["max"] == pytest.approx(
        np.abs(int8 - fp32).max(), abs=2e-4
    )


def test_report_is_what_is_written(workspace):
    done = pipeline.bench(workspace, "demo", limit=8, latency_seconds=0)
    assert json.loads(done.json_path.read_text()) == json.loads(json.dumps(done.report))
    assert done.html_path.read_text().lstrip().lower().startswith("<!doctype html>")


def test_same_faces_give_the_same_report(workspace):
    first, second = (bench(workspace, limit=8) for _ in range(2))
    assert first == second


def test_calibrating_on_the_faces_that_are_benched_is_reported(workspace, crops):
    pipeline.build(workspace, ("int8",), target="onnxruntime", faces="crops")
    overlap = "onnxruntime-int8 was calibrated on the very faces it is measured on"
    with pytest.raises(LpxError, match=overlap) as caught:
        bench(workspace, "folder:crops")
    assert "--allow-overlap" in caught.value.fix
    allowed = bench(workspace, "folder:crops", allow_overlap=True)["warnings"]
    assert any(text.startswith(overlap) for text in allowed)
    # By another name they are the same faces still.
    absolute = bench(workspace, str(crops), allow_overlap=True)
    assert any(text.startswith(overlap) for text in absolute["warnings"])
    assert not any("calibrated" in text for text in bench(workspace, limit=8)["warnings"])


def test_calibrating_on_some_of_the_faces_that_are_benched_is_reported(workspace, crops):
    """As with a folder of more faces than --count."""
    pipeline.build(workspace, ("int8",), target="onnxruntime", faces="crops", count=10)
    said = (
        "onnxruntime-int8 was calibrated on 10 faces of folder:crops, the set it is measured on; "
        "its AUC on other faces may be lower"
    )
    with pytest.raises(LpxError, match="10 faces of folder:crops"):
        bench(workspace, "crops")
    assert said in bench(workspace, "crops", allow_overlap=True)["warnings"]
    assert said in bench(workspace, "crops", limit=8, allow_overlap=True)["warnings"]


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ([("Eve",), ()], []),
        ([("Ada", "Eve")], ["faces of Ada, who is also measured"]),
        ([("Cy",), ("Ada",), ("Cy", "Bo"), ()], ["faces of Ada and 2 more, who are also measured"]),
    ],
)
def test_shared_identities_are_reported(built, measured, said):
    manifest = read_manifest(built.engines / "onnxruntime-int8")
    calibration = manifest.calibration | {"identities": ["Ada", "Bo", "Cy"]}
    faces = FaceSet(
        "own", "test", "none",
        tuple(Face(f"{i}.png", i % 2, "", "", who, None) for i, who in enumerate(measured)),
    )  # fmt: skip
    labels = np.arange(100) % 2
    found = benching._warnings(
        [replace(manifest, calibration=calibration)], faces, Scored(labels, labels, {}, ())
    )
    assert [text.split("calibrated on ")[1].split(";")[0] for text in found] == said


def test_few_faces_are_warned_of(workspace, monkeypatch):
    (said,) = bench(workspace, limit=8)["warnings"]
    assert said.startswith("4 real and 4 fake faces are few")
    assert f"below some {benching.FEW_FACES} faces of each class" in said
    monkeypatch.setattr(benching, "FEW_FACES", 4)
    assert bench(workspace, limit=8)["warnings"] == []


def test_engines_that_do_not_run_here_are_named_and_left_out(workspace, monkeypatch):
    def can_run(manifest, machine):
        return manifest.precision == "int8", "no float here"

    monkeypatch.setattr(runnable, "can_run", can_run)
    report = bench(workspace, limit=8)
    assert [entry["name"] for entry in report["candidates"]] == ["onnxruntime-int8"]
    assert report["not_run"] == [{"name": "onnxruntime-fp32", "reason": "no float here"}]


def test_no_engine_that_runs_here_is_an_error_with_the_reasons(workspace, monkeypatch):
    monkeypatch.setattr(runnable, "can_run", lambda manifest, machine: (False, "no GPU"))
    with pytest.raises(LpxError, match="has no engine that runs here") as caught:
        bench(workspace, limit=8)
    assert caught.value.why == "onnxruntime-fp32: no GPU; onnxruntime-int8: no GPU"
    assert "--target onnxruntime" in caught.value.fix


def test_limit_spreads_over_the_set_and_keeps_both_classes(workspace):
    report = bench(workspace, limit=5)
    assert report["faces"] == 5
    assert min(report["real"], report["fake"]) >= 2
