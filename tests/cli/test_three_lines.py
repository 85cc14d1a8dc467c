"""The three lines of the README, typed one after the other in one folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

# The demo, with fewer faces to draw.
SMALLER = "from lpx.data.face_sets import demo; demo.PAIRS |= {'train': 8, 'test': 12}"


@pytest.fixture(scope="module")
def unpacked(shell, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "a folder"
    return shell("demo", "--unpack", folder, before=SMALLER), folder


@pytest.fixture(scope="module")
def exported(shell, unpacked):
    return shell("export", "ckpt.pt", cwd=unpacked[1], before=SMALLER)


@pytest.fixture(scope="module")
def built(shell, unpacked, exported):
    return shell("build", "--int8", cwd=unpacked[1], before=SMALLER)


@pytest.fixture(scope="module")
def benched(shell, unpacked, built):
    # The times themselves are not looked at: a few calls will do.
    line = ("bench", "--dataset", "demo", "--latency-seconds", 0.01)
    few = (
        "from lpx.bench.performance import cost_plan; from tests.support.costs import "
        "QuickPlan; cost_plan.CostPlan = QuickPlan"
    )
    return shell(*line, cwd=unpacked[1], before=f"{SMALLER}; {few}")


def test_unpack_writes_ordinary_files_and_says_what_to_type(unpacked):
    ran, folder = unpacked
    assert ran.code == 0
    assert ran.out.splitlines() == [
        f"{folder}: ckpt.pt, and 24 faces in real/ and fake/",
        f"next: cd '{folder}' && lpx export ckpt.pt && lpx build --int8 && "
        "lpx bench --dataset folder:.",
    ]
    assert len(list((folder / "real").glob("*.png"))) == 12
    assert len(list((folder / "fake").rglob("*.png"))) == 12
    assert (folder / "LICENSE.md").is_file()


def test_export_leaves_the_model_and_its_manifest(exported, unpacked):
    ran, made = exported, unpacked[1] / "lpx-out"
    assert ran.code == 0, ran.err
    assert "lpx-out/model.onnx: opset 20" in ran.out
    assert ran.out.endswith("next: lpx build --int8\n")
    assert {p.name for p in made.iterdir()} == {".lock", "model.onnx", "model.json", "reference.pt"}
    manifest = json.loads((made / "model.json").read_text())
    assert manifest["verification"]["max_score_difference"] < 1e-4
    assert manifest["checkpoint"] == "ckpt.pt"


def test_build_leaves_an_engine_with_its_manifest(built, unpacked):
    ran, made = built, unpacked[1] / "lpx-out"
    assert ran.code == 0, ran.err
    assert ran.out.endswith("next: lpx bench --dataset demo\n")
    (folder,) = (made / "engines").iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["precision"] == "int8"
    assert manifest["convolutions"]["int8"] > 10
    assert (folder / manifest["file"]).is_file()
    assert json.loads((made / "scales.json").read_text())["face_count"] == 16


def test_build_warns_that_the_demo_calibrated_it(built):
    said = "warning: calibrated on the demo faces, as no faces were named"
    assert built.err.count(said) == 1
    assert "note: calibrated on the demo faces" in built.out


def test_bench_prints_parity_and_latency_and_exits_by_the_verdict(benched, unpacked):
    ran, made = benched, unpacked[1] / "lpx-out"
    report = json.loads((made / "report.json").read_text())
    assert ran.code == (0 if report["verdict"] == "holds" else 1), ran.err
    assert "24 faces of demo (12 real, 12 fake)" in ran.out
    assert f"parity {report['verdict']}: " in ran.out
    assert "us/patch" in ran.out
    assert ran.out.endswith("report: lpx-out/report.html (and report.json, report.md)\n")
    assert "its AUC says nothing" in " ".join(ran.out.split())
    assert (made / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert f"AUC parity {report['verdict']}" in (made / "report.md").read_text()
    assert not (made / "bench.partial").exists()
    for entry in (report["reference"], *report["candidates"]):
        assert [row["batch"] for row in entry["latency_by_batch"]] == [1, 8]


def test_nothing_temporary_is_left(benched, unpacked):
    hidden = [path for path in unpacked[1].rglob(".*") if path.name != ".lock"]
    assert hidden == []


def test_nothing_but_results_goes_to_standard_output(exported, built, benched):
    for ran in (exported, built, benched):
        assert "done" not in ran.out
        assert "Traceback" not in ran.err


def test_unpacked_faces_are_the_demo_set(lpx, unpacked, benched, monkeypatch):
    monkeypatch.chdir(unpacked[1])
    of_demo = json.loads(Path("lpx-out/report.json").read_text())
    ran = lpx("bench", "--dataset", "folder:.", "--latency-seconds", 0, "--json")
    of_files = json.loads(ran.out)
    assert of_files["dataset"]["name"] == "folder:."
    assert of_files["faces"] == of_demo["faces"] == 24
    assert of_files["reference"]["auc"] == of_demo["reference"]["auc"]
