"""Whole images and videos: real portraits, found, cut out, scored and drawn on."""

from __future__ import annotations

import csv
import shutil
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from lpx import pipeline
from lpx.data.crops import RECIPES
from lpx.data.cut_faces import cut_faces
from lpx.data.decode import fit, read_image
from lpx.data.demo_set import folder
from lpx.data.detect import FaceMesh, open_detector
from lpx.data.video_writer import VideoWriter
from lpx.engines import load
from lpx.errors import LpxError
from lpx.pipeline.file_scorer import FileScorer
from lpx.pipeline.predictions import Journal, picture_name
from lpx.render import encode_png

ENGINE = "onnxruntime-fp32"
PEOPLE = ("p000_00", "p001_00", "p002_00")


@lru_cache
def portrait(number):
    """uint8 RGB [216, 216, 3] of one of three people."""
    image = read_image(folder() / f"{PEOPLE[number]}.jpg")
    return cv2.resize(image, (216, 216), interpolation=cv2.INTER_AREA)


def write_video(path, picture, frames):
    """A picture [216, 216, 3] that moves over grey, at 25 Hz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = VideoWriter(path, 25, 320, 240)
    for index in range(frames):
        frame = np.full((240, 320, 3), 100, np.uint8)
        frame[12:228, 40 + index : 256 + index] = picture
        writer.write(frame)
    writer.close()


def photo(path, *numbers, size=(240, 640)):
    """A photograph of people beside each other, on grey."""
    image = np.full((*size, 3), 120, np.uint8)
    for place, number in enumerate(numbers):
        left = 40 + place * 300
        image[12:228, left : left + 216] = portrait(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(image))
    return image


def predict(workspace, path, **options):
    return pipeline.predict(workspace, Path(path), engine=ENGINE, **options)


def rows(path):
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def test_every_face_of_a_photograph_has_its_own_crops_score(workspace):
    image = photo(Path("two.png"), 0, 1)
    found = predict(workspace, "two.png")
    (file,) = found.files
    recipe = RECIPES["square-1.75-landmarks"]
    faces = cut_faces(image, open_detector().detect(image), FaceMesh(), recipe)
    crops = np.stack([fit(face.crop.pixels, 160) for face in faces])
    expected = load(workspace.engines / ENGINE).infer(crops).score
    assert [face.score for face in file.faces] == pytest.approx(expected.tolist(), abs=1e-4)
    assert file.score == max(face.score for face in file.faces)
    assert [face.face for face in file.faces] == [1, 2]
    (left, _, right, _), (next_left, *_) = (face.box for face in file.faces)
    assert 40 < left < right < 256 < next_left
    assert len(rows(found.frames)) == 2
    assert read_image(file.picture).shape[1] == 640


def test_videos_score_is_the_mean_of_its_frames(workspace):
    write_video(Path("clip.mp4"), portrait(0), frames=12)
    found = predict(workspace, "clip.mp4", frames=5)
    (file,) = found.files
    assert [face.frame for face in file.faces] == [0, 3, 6, 8, 11]
    assert file.score == pytest.approx(np.mean([face.score for face in file.faces]))
    assert [row["time_seconds"] for row in rows(found.frames)][1] == "0.120"
    capture = cv2.VideoCapture(str(file.picture))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 5
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(25 * 5 / 12, abs=0.01)
    seconds, frames = found.seconds()
    assert frames == 5
    assert min(seconds.decode, seconds.detect, seconds.crop, seconds.infer, seconds.draw) > 0


def test_all_frames(workspace):
    write_video(Path("clip.mp4"), portrait(0), frames=11)
    (file,) = predict(workspace, "clip.mp4", frames=None, overlay=False).files
    assert [face.frame for face in file.faces] == list(range(11))
    assert file.picture is None
    assert not list(Path("lpx-out/predictions").glob("*overlay*"))


def test_no_face_is_no_score(lpx, workspace):
    write_video(Path("v/empty.mp4"), np.zeros((216, 216, 3), np.uint8), frames=3)
    ran = lpx("predict", "v/empty.mp4")
    assert ran.code == 0
    assert "  -    none  empty.mp4  (3 frames, 3 without a face)" in ran.out
    (row,) = rows("lpx-out/predictions/scores.csv")
    assert (row["score"], row["verdict"], row["frames_without_face"]) == ("", "", "3")
    reasons = {row["reason"] for row in rows("lpx-out/predictions/frames.csv")}
    assert reasons == {"the detector found no face"}


@pytest.fixture
def mixed(workspace):
    photo(Path("in/a/x.png"), 0)
    shutil.copy("in/a/x.png", "in/a/x.jpg")
    write_video(Path("in/clip.mp4"), portrait(1), frames=3)
    Path("in/bad.mp4").write_bytes(b"no video")
    Path("in/bad.png").touch()
    return workspace


def test_folder_of_both_kinds(mixed):
    found = predict(mixed, "in")
    assert [file.name for file in found.files] == ["clip.mp4", "a/x.jpg", "a/x.png"]
    assert [file.kind for file in found.files] == ["video", "image", "image"]
    assert {skipped.name for skipped in found.skipped} == {"bad.mp4", "bad.png"}
    assert len({file.picture for file in found.files}) == 3
    assert all(file.picture.is_file() for file in found.files)
    notes = {row["file"]: row["note"] for row in rows(found.scores)}
    assert notes["bad.png"] == "not read: file is empty"


def test_second_run_scores_only_what_is_new_or_changed(mixed, monkeypatch):
    first = predict(mixed, "in")
    tables = (first.scores.read_bytes(), first.frames.read_bytes())
    scored = []
    real = FileScorer.score
    monkeypatch.setattr(
        FileScorer, "score",
        lambda self, file, *rest: scored.append(file.name) or real(self, file, *rest),
    )  # fmt: skip
    again = predict(mixed, "in")
    assert again.resumed == 3
    assert again.files == first.files
    assert (again.scores.read_bytes(), again.frames.read_bytes()) == tables
    assert scored == ["bad.mp4", "bad.png"]
    scored.clear()
    photo(Path("in/a/x.png"), 1)
    first.files[1].picture.unlink()
    assert predict(mixed, "in").resumed == 1
    assert {"a/x.png", "a/x.jpg"} < set(scored)
    assert predict(mixed, "in", frames=2).resumed == 0


def test_what_was_done_before_a_kill_is_kept(mixed, monkeypatch):
    real = FileScorer.score

    def score(self, file, *rest):
        if file.name == "a/x.png":
            raise KeyboardInterrupt
        return real(self, file, *rest)

    monkeypatch.setattr(FileScorer, "score", score)
    with pytest.raises(KeyboardInterrupt):
        predict(mixed, "in")
    assert [row["file"] for row in rows("lpx-out/predictions/scores.csv")][:2] == [
        "clip.mp4", "a/x.jpg",
    ]  # fmt: skip
    with Path("lpx-out/predictions/results.jsonl").open("a") as journal:
        journal.write('{"key": {"torn')
    monkeypatch.setattr(FileScorer, "score", real)
    assert predict(mixed, "in").resumed == 2
    assert predict(mixed, "in").resumed == 3


def test_crop_recipe_must_be_known(mixed, monkeypatch):
    model = pipeline.predicting.read_exported(mixed)
    object.__setattr__(model.card, "crop", "unknown")
    monkeypatch.setattr("lpx.pipeline.predicting.read_exported", lambda workspace: model)
    with pytest.raises(LpxError, match="--crop RECIPE"):
        predict(mixed, "in")
    assert predict(mixed, "in/a/x.png", crop="square-1.3").crop == "square-1.3"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["in/bad.mp4"], "in/bad.mp4 holds nothing that can be read"),
        (["in", "--frames", "0"], "--frames 0 is too small"),
        (["in", "--frames", "x"], "'x' is neither a number nor 'all'"),
        (["in", "--detector", "x"], "there is no face detector 'x'"),
        (["in", "--crop", "x"], "there is no crop recipe 'x'"),
        (["in", "--out", "in"], "in would hold both what is scored and its pictures"),
    ],
)
def test_what_cannot_be_done(lpx, mixed, arguments, said):
    ran = lpx("predict", *arguments)
    assert ran.code == 2
    assert said in ran.err
    assert not Path("lpx-out/predictions").exists()


def test_names_of_pictures_do_not_clash():
    names = ["x.png", "x.jpg", "x.PNG", "a/x.png", "x-png.jpg", "x", "x.y.png"]
    assert len({picture_name(name, ".png") for name in names}) == len(names)
    assert picture_name("a/x.jpg", ".png") == Path("a/x-jpg-overlay.png")


def test_faces_outside_the_image_are_left_out():
    image = portrait(0)
    (face,) = open_detector().detect(image)
    for shift in (500, -500):
        x0, y0, x1, y1 = face.box
        gone = type(face)((x0 + shift, y0, x1 + shift, y1), face.score, face.points)
        assert cut_faces(image, [gone], None, RECIPES["square-1.3"]) == ()
    with pytest.raises(ValueError, match="needs landmarks"):
        cut_faces(image, [face], None, RECIPES["aligned-1.3-256"])


def test_a_journal_of_rubbish_is_none(tmp_path):
    (tmp_path / "j").write_bytes(b'\xff\n[]\n{"result": 3}\nnull\n')
    assert Journal(tmp_path / "j", {}).find("x", tmp_path / "j") is None
