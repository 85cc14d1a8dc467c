from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lpx.data.face_sets.demo import folder
from lpx.data.images.decode import fit
from lpx.engines import Prediction, load


def test_one_image(lpx, workspace, crops):
    ran = lpx("predict", "--crops", "crops/real/0.png")
    assert ran.code == 0, ran.err
    first, last = ran.out.splitlines()
    score, verdict, name, _, picture = first.split()
    assert 0 <= float(score) <= 1
    assert verdict in ("real", "FAKE")
    assert (name, picture) == ("0.png", "lpx-out/predictions/0-png-overlay.png")
    assert last == "scores: lpx-out/predictions/scores.csv"
    assert "engine onnxruntime-int8, threshold 0." in ran.err


def test_picture_shows_face_and_heat_map_side_by_side(lpx, workspace, crops):
    lpx("predict", "--crops", "crops/real/0.png")
    picture = cv2.imread("lpx-out/predictions/0-png-overlay.png")
    face = cv2.imread("crops/real/0.png")
    size = picture.shape[0] - 28
    shown = picture[28:, :size].astype(int)
    assert np.abs(shown - cv2.resize(face, (size, size))).mean() < 10
    assert picture.shape[1] > 2 * size


def test_folder_with_scores_in_a_table(lpx, workspace, crops):
    ran = lpx(
        "predict",
        "--crops",
        "crops",
        "--engine",
        "onnxruntime-fp32",
        "--out",
        "a place/maps",
        "--json",
    )
    found = json.loads(ran.out)
    assert found["engine"] == "onnxruntime-fp32"
    assert found["scores"] == "a place/maps/scores.csv"
    rows = list(csv.DictReader(Path(found["scores"]).read_text().splitlines()))
    assert len(rows) == len(found["files"]) == 16
    for row, face in zip(rows, found["files"], strict=True):
        assert row["file"] == face["file"]
        assert float(row["score"]) == pytest.approx(face["score"], abs=1e-6)
        assert (row["verdict"] == "fake") == face["fake"] == (face["score"] >= found["threshold"])
        assert Path(face["picture"]).is_file()
    assert not Path("lpx-out/predictions").exists()


def test_scores_are_those_of_the_python_api(lpx, workspace, drawn, crops):
    found = json.loads(lpx("predict", "--crops", "crops/real", "--json").out)
    faces = np.stack([fit(real, 160) for real, _ in drawn])
    prediction = load("lpx-out/engines/onnxruntime-int8").infer(faces)
    assert [face["score"] for face in found["files"]] == prediction.score.tolist()


def test_torch_is_an_engine_even_before_anything_is_built(lpx, workspace, crops):
    for path in Path("lpx-out/engines").rglob("manifest.json"):
        path.unlink()
    assert (
        json.loads(lpx("predict", "--crops", "crops/fake", "--engine", "torch", "--json").out)[
            "engine"
        ]
        == "torch"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["lpx-out/model.json"], "lpx-out/model.json has no readable image or video"),
        (
            ["crops/real/0.png", "--engine", "x"],
            "engines that run here: torch, onnxruntime-fp32, onnxruntime-int8",
        ),
        (
            ["crops/real/0.png", "--out", "lpx-out/model.json"],
            "lpx-out/model.json cannot be written",
        ),
        (["crops/real/0.png", "--out", "lpx-out/model.json"], "--out DIR"),
        (["empty"], "empty holds no images"),
    ],
)
def test_what_cannot_be_done(lpx, workspace, crops, tree, arguments, said):
    Path("empty").mkdir()
    before = tree(".")
    ran = lpx("predict", "--crops", *arguments)
    assert ran.code == 2
    assert said in ran.err
    assert "fix: " in ran.err
    assert ran.out == ""
    assert tree(".") == before


def test_engine_that_returns_nan_is_refused(lpx, workspace, crops, monkeypatch):
    class Broken:
        def infer(self, faces):
            scores = np.full(len(faces), 0.5, np.float32)
            scores[2] = np.nan
            return Prediction(scores, np.full((len(faces), 20, 20), 0.5, np.float32))

        def close(self):
            pass

    monkeypatch.setattr("lpx.artefacts.select_engine.load", lambda folder, **options: Broken())
    ran = lpx("predict", "--crops", "crops/real")
    assert ran.code == 2
    assert "onnxruntime-int8 gives the score nan to face 2.png" in ran.err
    assert "--engine torch" in ran.err
    assert not Path("lpx-out/predictions").exists()


def test_host_code_is_allowed_where_the_user_says_so(lpx, workspace, crops, monkeypatch):
    from lpx.artefacts import select_engine

    seen, load = [], select_engine.load
    monkeypatch.setattr(
        select_engine, "load", lambda folder, **options: seen.append(options) or load(folder)
    )
    for more in ((), ("--allow-host-code",)):
        assert lpx("predict", crops, "--crops", "--no-overlay", *more).code == 0
    assert [options["allow_host_code"] for options in seen] == [False, True]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -5.0, 1.5])
def test_maps_that_are_not_of_probabilities_are_refused(lpx, workspace, crops, monkeypatch, bad):
    class Broken:
        def infer(self, faces):
            maps = np.full((len(faces), 20, 20), 0.5, np.float32)
            maps[0, 3, 4] = bad
            return Prediction(np.full(len(faces), 0.5, np.float32), maps)

        def close(self):
            pass

    monkeypatch.setattr("lpx.artefacts.select_engine.load", lambda folder, **options: Broken())
    for line in (["--crops", "crops/real"], [folder() / "p000_00.jpg"]):
        ran = lpx("predict", *line)
        assert ran.code == 2, ran.err
        assert "a map with values" in ran.err
