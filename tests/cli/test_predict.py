from __future__ import annotations

import csv
import json
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from lpx.cli.options import host_code_option, workspace_option
from lpx.cli.predict import predict
from lpx.data.images.decode import fit
from lpx.engines import load


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
            "engines of lpx-out: onnxruntime-fp32, onnxruntime-int8",
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


def test_host_code_is_allowed_by_an_option():
    @click.command()
    @host_code_option
    @workspace_option
    def trusting(workspace):
        click.echo(workspace.allow_host_code)

    assert CliRunner().invoke(trusting).output == "False\n"
    assert CliRunner().invoke(trusting, ["--allow-host-code"]).output == "True\n"
    assert "allow_host_code" in [option.name for option in predict.params]
