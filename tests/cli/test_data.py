"""`lpx data`, and the three lines on a public data set."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lpx import Workspace
from lpx.artefacts.model import open_faces, read_exported
from lpx.data.images.decode import read_image
from lpx.data.roots import DataPlaces
from tests.data.trees import ffpp_tree, write_video
from tests.support.reporting import RecordingReporter


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """FaceForensics++ of two pairs; one video shows nobody, one method is not there."""
    root = ffpp_tree(tmp_path_factory.mktemp("videos") / "data" / "FaceForensics++", frames=6)
    nobody = np.zeros((216, 216, 3), np.uint8)
    write_video(root / "original_sequences/youtube/c23/videos/000.mp4", nobody, 6)
    return root.parent


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("LPX_DATA", "LPX_FACE_STORE", "LPX_WORKSPACE", "LPX_FACES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_prepare_then_info(lpx, source, here, monkeypatch):
    monkeypatch.setenv("LPX_DATA", str(source))
    line = ("data", "prepare", "ffpp-c23", "--frames", 2, "--processes", 1)
    ran = lpx(*line)
    assert ran.code == 0, ran.err
    assert ran.err.startswith(
        "crop square-1.3: the default, as the workspace has no exported model"
    )
    out = ran.out.splitlines()
    assert out[0] == (
        "lpx-faces/ffpp-c23-square-1.3-2: 14 faces of 7 videos (1 more gave none), crop square-1.3"
    )
    assert out[1] == "without a face: 2 x no face was found"
    assert out[3].startswith("not on disk: 12 videos: manipulated_sequences/Face2Face/")
    assert out[-1].startswith("time: ")
    again = lpx(*line)
    assert again.out.splitlines()[0] == "nothing to do: 8 videos done before"
    values = json.loads(lpx(*line, "--json").out)
    assert (values["faces"], values["done_now"], len(values["skipped"])) == (14, 0, 2)
    assert values["skipped"][0]["video"] == "original_sequences/youtube/c23/videos/000"
    info = lpx("data", "info", "ffpp-c23", "--contact-sheet", "sheet.png")
    assert info.code == 0, info.err
    assert "train  real        real       1       1      2" in info.out
    assert info.out.endswith("written: sheet.png\n")
    assert read_image(here / "sheet.png").shape[1] == 12 * 96 + 20
    told = json.loads(lpx("data", "info", "lpx-faces/ffpp-c23-square-1.3-2", "--json").out)
    assert told["skipped_by_reason"] == {"no face was found": 2}
    assert sum(part["faces"] for part in told["parts"]) == 14


def test_videos_that_are_not_there(lpx, here):
    ran = lpx("data", "prepare", "ffpp-c23")
    assert ran.code == 2
    assert "error: FaceForensics++ (c23) was not found" in ran.err
    assert "--data-root" in ran.err
    assert "fill out the form" in ran.err
    assert lpx("data", "info", "ffpp-c23").code == 2
    assert "unknown video data set 'ffpp'" in lpx("data", "prepare", "ffpp").err


def test_the_three_lines_on_a_public_data_set(lpx, built, source, here):
    shutil.copytree(built.root, here / "lpx-out")
    places = ("--data-root", source, "--store", "faces")
    ran = lpx("build", "--int8", "--target", "onnxruntime", "--faces", "ffpp-c23", *places)
    assert ran.code == 0, ran.err
    assert (
        "ffpp-c23 (train) was not prepared yet: cutting its faces by square-1.75-landmarks "
        "(named by the model's card) into faces"
    ) in ran.err
    assert "faces of ffpp-c23, percentile" in ran.out
    ran = lpx("bench", "--dataset", "ffpp-c23", *places, "--latency-seconds", 0, "--json")
    assert ran.code in (0, 1), ran.err
    values = json.loads(ran.out)
    # All frames of the two reals and the two fakes of the last pair.
    assert (values["real"], values["fake"]) == (12, 12)
    assert values["dataset"]["split"] == "test"
    assert values["dataset"]["crop"] == "square-1.75-landmarks"
    # It is there now, also for who only has the faces.
    again = lpx("bench", "--dataset", "ffpp-c23", "--store", "faces", "--latency-seconds", 0)
    assert again.code in (0, 1)
    assert "not prepared" not in again.err
    # Faces that are cropped otherwise are refused.
    line = ("data", "prepare", "ffpp-c23", "--crop", "square-1.3", "--frames", 2, "--processes", 1)
    assert lpx(*line, *places).code == 0
    ran = lpx("bench", "--dataset", "faces/ffpp-c23-square-1.3-2", "--latency-seconds", 0)
    assert ran.code == 2
    assert "are cropped by square-1.3, the model was trained on square-1.75-landmarks" in ran.err
    assert "--crop square-1.75-landmarks" in ran.err
    # The card's recipe is what `prepare` takes by itself.
    ran = lpx("data", "prepare", "ffpp-c23", "--frames", 1, "--processes", 1, *places)
    assert "crop square-1.75-landmarks: named by the model's card" in ran.err


def test_bench_says_what_gave_no_face(lpx, built, tmp_path, here):
    shutil.copytree(built.root, here / "lpx-out")
    root = ffpp_tree(tmp_path / "data" / "FaceForensics++", frames=6)
    videos = root / "manipulated_sequences/Deepfakes/c23/videos"
    (videos / "003_002.mp4").write_bytes(b"")
    line = ("bench", "--dataset", "ffpp-c23", "--data-root", tmp_path / "data", "--store", "faces")
    ran = lpx(*line, "--latency-seconds", 0)
    assert ran.code in (0, 1), ran.err
    said = (
        "1 video could not be read and is left out: "
        "manipulated_sequences/Deepfakes/c23/videos/003_002 (file is empty)."
    )
    assert said in " ".join(ran.out.split())
    report = json.loads(Path("lpx-out/report.json").read_text())
    assert said in report["dataset"]["note"]
    for name in ("report.md", "report.html"):
        assert "003_002 (file is empty)" in Path("lpx-out", name).read_text().replace("\\_", "_")


def test_a_card_that_names_no_recipe_only_warns(lpx, built, source, here):
    shutil.copytree(built.root, here / "lpx-out")
    places = DataPlaces(source, here / "faces")
    assert (
        lpx(
            "data",
            "prepare",
            "ffpp-c23",
            "--crop",
            "square-1.3",
            "--processes",
            1,
            "--frames",
            1,
            "--data-root",
            source,
            "--store",
            "faces",
        ).code
        == 0
    )
    workspace = Workspace(here / "lpx-out")
    card = read_exported(workspace).card
    reporter = RecordingReporter()
    unknown = replace(card, crop="unknown")
    faces = open_faces(
        workspace, "ffpp-c23", "test", places=places, card=unknown, reporter=reporter
    )
    said = reporter.said
    assert len(faces.faces) == 4
    assert said[0].startswith("note: train.json: 1 pairs")
    assert said[1].startswith("warning: the faces of ffpp-c23 are cropped by square-1.3")


@pytest.mark.parametrize("command", ["prepare", "info"])
def test_help_fits_80_columns(lpx, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ran = lpx("data", command, "--help")
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "--json" in ran.out
