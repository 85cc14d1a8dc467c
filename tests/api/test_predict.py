"""Images and videos of real portraits: faces are found, cut out, scored and drawn on."""

from __future__ import annotations

import csv
import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from lpx import Workspace
from lpx.api import predict as predict_api
from lpx.api.predict import PredictOptions
from lpx.card import METADATA_KEY
from lpx.data.detect import FaceMesh, open_detector
from lpx.data.face_sets.demo import folder
from lpx.data.images.crops import RECIPES
from lpx.data.images.cut_faces import cut_faces
from lpx.data.images.decode import fit, read_image
from lpx.data.images.video_file import read_frames
from lpx.data.images.video_writer import VideoWriter
from lpx.engines import load
from lpx.errors import LpxError
from lpx.healing.pick import pick_engine
from lpx.predict.journal import ScoreJournal
from lpx.predict.results import FacelessFrame, FaceScore, FileScore, moments, picture_name
from lpx.render.encode import encode_png
from lpx.reporter import SILENT
from lpx.workspace import read_sealed, sha256, write_sealed
from tests.conftest import environment
from tests.support.reporting import RecordingReporter, StoppingReporter

ENGINE = "onnxruntime-fp32"
PEOPLE = ("p000_00", "p001_00", "p002_00")


@lru_cache
def portrait(number):
    """uint8 RGB [216, 216, 3] of one of three people."""
    image = read_image(folder() / f"{PEOPLE[number]}.jpg")
    return cv2.resize(image, (216, 216), interpolation=cv2.INTER_AREA)


def write_video(path, picture, frames, rate_hz=25):
    """A picture [216, 216, 3] that moves over grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = VideoWriter(path, rate_hz, 320, 240)
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
    return workspace.predict(path, engine=ENGINE, **options)


def predict_with(workspace, path, *, reporter=SILENT, **arguments):
    """Predict with another way to open the engine or the face detector."""
    tools = {
        name: arguments.pop(name) for name in ("pick_engine", "open_detector") if name in arguments
    }
    options = PredictOptions(**{"engine": ENGINE} | arguments)
    return predict_api.predict(workspace, Path(path), options, reporter, **tools)


def picking(wrap):
    """A `pick_engine` that changes the engine by a function."""

    def pick(*arguments, **options):
        name, engine = pick_engine(*arguments, **options)
        return name, wrap(engine)

    return pick


class Altered:
    """An engine whose predictions are changed by a function of them and their number."""

    def __init__(self, engine, change):
        self.engine, self.change, self.count = engine, change, 0

    def infer(self, faces):
        prediction = self.engine.infer(faces)
        self.count += 1
        return self.change(prediction, self.count)

    def close(self):
        self.engine.close()


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


@pytest.mark.parametrize("crops", [True, False])
def test_notes_of_an_engine_are_warnings(workspace, crops):
    photo(Path("one.png"), 0)

    def noted(engine):
        engine.notes = ["built on another GPU"]
        return engine

    reporter = RecordingReporter()
    detector = None if crops else "blazeface"
    predict_with(
        workspace, "one.png", detector=detector, reporter=reporter, pick_engine=picking(noted)
    )
    assert "warning: built on another GPU" in reporter.said


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1), (1000, 50), (3000, 100)])
def test_pictures_of_every_shape_are_drawn(workspace, size):
    Path("odd.png").write_bytes(encode_png(np.full((*size, 3), 90, np.uint8)))
    (file,) = predict(workspace, "odd.png").files
    assert file.note == ""
    height, width = read_image(file.picture).shape[:2]
    assert width >= 320
    assert max(height, width) <= 1920 + 40


def test_a_narrow_video_is_drawn(workspace):
    writer = VideoWriter(Path("narrow.mp4"), 25, 32, 640)
    for _ in range(3):
        writer.write(np.full((640, 32, 3), 90, np.uint8))
    writer.close()
    (file,) = predict(workspace, "narrow.mp4").files
    frames = list(read_frames(file.picture, None))
    assert len(frames) == 3
    assert frames[0].pixels.shape[1] == 320


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


def test_each_video_has_a_page_of_its_scores_over_time(mixed):
    write_video(Path("in/b/clip.mp4"), portrait(0), frames=12)
    found = predict(mixed, "in", frames=5)
    pages = {file.name: file.timeline for file in found.files}
    assert pages == {
        "clip.mp4": Path("lpx-out/predictions/clip-mp4-timeline.html"),
        "b/clip.mp4": Path("lpx-out/predictions/b/clip-mp4-timeline.html"),
        "a/x.jpg": None,
        "a/x.png": None,
    }
    page = pages["b/clip.mp4"].read_text()
    for score, frame in [(face.score, face.frame) for face in found.files[-1].faces]:
        assert f"{frame / 25:.2f} s: {score:.3f}" in page
    assert page.count("<li><img") == 5
    assert 'href="clip-mp4-overlay.mp4"' in page
    pages["b/clip.mp4"].unlink()
    again = predict(mixed, "in", frames=5)
    assert again.resumed == 3
    assert pages["b/clip.mp4"].read_text() == page


def test_no_page_where_nothing_is_drawn(workspace):
    write_video(Path("clip.mp4"), portrait(0), frames=3)
    (file,) = predict(workspace, "clip.mp4", overlay=False).files
    assert file.timeline is None
    assert not list(Path("lpx-out").rglob("*.html"))


def test_the_page_of_a_video_without_a_face_says_so(lpx, workspace):
    write_video(Path("empty.mp4"), np.zeros((216, 216, 3), np.uint8), frames=3)
    ran = lpx("predict", "empty.mp4")
    assert "  timeline: lpx-out/predictions/empty-mp4-timeline.html" in ran.out
    assert (
        "No face was found in 3 frames"
        in Path("lpx-out/predictions/empty-mp4-timeline.html").read_text()
    )


def test_moments_are_the_highest_faces_of_frames(workspace):
    write_video(Path("clip.mp4"), portrait(0), frames=3)
    (file,) = predict(workspace, "clip.mp4").files
    first, *rest = file.faces
    lower = replace(first, score=first.score - 0.1)
    higher = replace(first, score=first.score + 0.1)
    changed = replace(
        file, faces=(lower, higher, first, rest[0]), faceless=(FacelessFrame(2, 0.08, "none"),)
    )
    assert [m.score for m in moments(changed)] == [higher.score, rest[0].score, None]
    assert [m.seconds for m in moments(changed)] == pytest.approx([0, 0.04, 0.08])


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


def test_second_run_scores_only_what_is_new_or_changed(mixed):
    # What is scored is also drawn, into a new file.
    def drawn(files):
        return {file.name: file.picture.stat().st_ino for file in files}

    def never(name, threads):
        class Unused:
            def detect(self, image):
                raise AssertionError("a file is scored again")

        return Unused()

    first = predict(mixed, "in")
    tables = (first.scores.read_bytes(), first.frames.read_bytes())
    pictures = drawn(first.files)
    again = predict_with(mixed, "in", open_detector=never)
    assert again.resumed == 3
    assert again.files == first.files
    assert (again.scores.read_bytes(), again.frames.read_bytes()) == tables
    photo(Path("in/a/x.png"), 1)
    first.files[1].picture.unlink()
    changed = predict(mixed, "in")
    assert changed.resumed == 1
    assert drawn(changed.files)["clip.mp4"] == pictures["clip.mp4"]
    assert changed.files[2].score != first.files[2].score
    assert predict(mixed, "in", frames=2).resumed == 0


def test_files_scored_before_a_kill_are_kept(mixed):
    # Before a/x.png, the last of five.
    with pytest.raises(KeyboardInterrupt):
        predict(mixed, "in", reporter=StoppingReporter("scoring", 4))
    assert [row["file"] for row in rows("lpx-out/predictions/scores.csv")][:2] == [
        "clip.mp4",
        "a/x.jpg",
    ]
    with Path("lpx-out/predictions/results.jsonl").open("a") as journal:
        journal.write('{"key": {"torn')
    assert predict(mixed, "in").resumed == 2
    assert predict(mixed, "in").resumed == 3


def test_a_rate_that_the_overlay_cannot_have_is_rounded(workspace):
    # Of 36 frames at 120 Hz 32 make 106.667 Hz, for which MPEG-4 has no room.
    write_video(Path("in/b.mp4"), portrait(0), frames=36, rate_hz=120)
    write_video(Path("in/c.mp4"), portrait(1), frames=3)
    found = predict(workspace, "in")
    assert [(file.name, file.note) for file in found.files] == [("b.mp4", ""), ("c.mp4", "")]
    capture = cv2.VideoCapture(str(found.files[0].picture))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 32
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(106.67, abs=0.01)


@pytest.mark.parametrize("rate_hz", [0.0, 1e-6, 23.976 * 32 / 301, 59.94, 106.6667, 240.0, 1e6])
def test_videos_of_any_rate_can_be_written(tmp_path, rate_hz):
    writer = VideoWriter(tmp_path / "a.mp4", rate_hz, 32, 16)
    for _ in range(5):
        writer.write(np.zeros((16, 32, 3), np.uint8))
    writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.close()
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 6
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(min(max(rate_hz, 0.1), 120), rel=0.01)


def test_a_video_that_does_not_fit_is_one_error_and_no_stream_of_warnings(tmp_path):
    code = """
import resource, numpy as np
from pathlib import Path
from lpx.data.images.video_writer import VideoWriter
from lpx.errors import LpxError
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
writer = VideoWriter(Path("a.mp4"), 25, 320, 240)
for _ in range(40):
    writer.write(np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8))
try:
    writer.close()
except LpxError as error:
    print(error.why)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "of 40 frames" in ran.stdout
    assert ran.stderr == ""


@pytest.mark.parametrize("letter", ["x", "视", "é"])
def test_names_that_leave_no_room_for_more_are_shortened(workspace, letter):
    stem = letter * (243 // len(letter.encode()))
    names = [f"{stem}-1.png", f"{stem}-2.png", f"{stem}-3.mp4", "z.png"]
    for number, name in enumerate(names[:2]):
        photo(Path("in", name), number)
    write_video(Path("clip.mp4"), portrait(1), frames=3)
    Path("clip.mp4").rename(Path("in", names[2]))
    photo(Path("in/z.png"), 2)
    found = predict(workspace, "in")
    assert sorted(file.name for file in found.files) == sorted(names)
    assert [file.note for file in found.files] == [""] * 4
    pictures = {file.picture.name for file in found.files}
    assert len(pictures) == 4
    assert all(file.picture.is_file() for file in found.files)
    assert "z-png-overlay.png" in pictures
    assert len([name for name in pictures if name.startswith(letter * 10)]) == 3
    assert predict(workspace, "in").resumed == 4
    assert len(predict(workspace, "in", detector=None, out=Path("crops")).files) == 3


def test_names_that_are_not_utf_8_have_a_picture_each(workspace):
    photo(Path("photo.png"), 0)
    Path("in").mkdir()
    for name in (b"a\xff.png", b"a\xfe.png"):
        shutil.copy("photo.png", os.path.join(b"in", name))
    found = predict(workspace, "in")
    assert {file.name for file in found.files} == {"a\\xff.png", "a\\xfe.png"}
    assert len({file.picture for file in found.files}) == 2
    assert all(file.picture.is_file() for file in found.files)
    assert len(rows(found.scores)) == 2


def test_a_path_that_is_too_long_is_shortened():
    name = "/".join(["d" * 200] * 18 + ["x.png"])
    short = picture_name(name, ".png")
    assert len(str(short)) < 255
    assert short != picture_name(name.replace("x", "y"), ".png")
    assert picture_name("ab" * 70 + "/x.png", ".png", longest=143).parts[0] == "ab" * 70
    parts = picture_name("ab" * 80 + "/x.png", ".png", longest=143).parts
    assert len(parts[0]) <= 143
    assert parts[1] == "x-png-overlay.png"


def test_video_that_cannot_be_drawn_is_scored_and_drawn_by_the_next_run(lpx, mixed):
    plain = predict(mixed, "in", overlay=False, out=Path("plain"))
    in_the_way = Path("lpx-out/predictions/clip-mp4-overlay.mp4")
    in_the_way.mkdir(parents=True)
    ran = lpx("predict", "in", "--engine", ENGINE)
    assert ran.code == 0
    assert (
        f"warning: clip.mp4: nothing was drawn: {in_the_way} cannot be written: Is a directory"
        in ran.err
    )
    assert "scored 3 of 5 files, 2 could not be read, 1 with a warning" in ran.out
    notes = {row["file"]: row for row in rows("lpx-out/predictions/scores.csv")}
    assert "nothing was drawn" in notes["clip.mp4"]["note"]
    assert notes["clip.mp4"]["picture"] == ""
    assert float(notes["clip.mp4"]["score"]) == pytest.approx(plain.files[0].score, abs=1e-6)
    assert not [p for p in Path("lpx-out/predictions").iterdir() if p.name.startswith(".")]
    in_the_way.rmdir()
    again = predict(mixed, "in")
    assert again.resumed == 2
    assert all(file.picture.is_file() for file in again.files)


def test_crops_that_cannot_be_drawn_are_scored(workspace, crops):
    workspace.predictions.mkdir()
    for folder_of_pictures in ("real", "fake"):
        (workspace.predictions / folder_of_pictures).touch()
    found = predict(workspace, "crops", detector=None)
    assert len(found.files) == 16
    for file in found.files:
        assert file.picture is None
        assert file.note.startswith("nothing was drawn: lpx-out/predictions/")
        assert file.note.endswith("cannot be written: there is a file where a folder is needed")


def test_an_image_that_opencv_fails_on_is_skipped(workspace):
    photo(Path("in/a.png"), 0)
    photo(Path("in/b-opencv.png"), 0, 1)
    two = read_image(Path("in/b-opencv.png"))

    class Failing:
        def __init__(self, name, threads):
            self.detector = open_detector(name, threads)

        def detect(self, image):
            if np.array_equal(image, two):
                raise cv2.error("OpenCV: assertion failed\nin somewhere.cpp")
            return self.detector.detect(image)

    found = predict_with(workspace, "in", open_detector=Failing)
    assert [file.name for file in found.files] == ["a.png"]
    assert [(skipped.name, skipped.reason) for skipped in found.skipped] == [
        ("b-opencv.png", "it cannot be processed: OpenCV: assertion failed")
    ]


def test_one_bad_file_never_stops_a_folder(lpx, workspace):
    write_video(Path("in/a.mp4"), portrait(0), frames=3)
    cut = Path("in/a.mp4").read_bytes()[:2000]
    Path("in/b-cut.mp4").write_bytes(cut)
    Path("in/b-empty.mp4").touch()
    Path("in/b-text.mov").write_text("text" * 99)
    Path("in/b-gone.png").symlink_to("nowhere.png")
    Path("in/b-loop.mp4").symlink_to("b-loop.mp4")
    Path("in/b-folder.mp4").mkdir()
    write_video(Path("in/b-folder.mp4/in.mp4"), portrait(1), frames=3)
    photo(Path("in/c.png"), 2)
    for _ in range(2):
        ran = lpx("predict", "in", "--engine", ENGINE)
        assert ran.code == 0, ran.err
        table = {row["file"]: row for row in rows("lpx-out/predictions/scores.csv")}
        scored = {name for name, row in table.items() if row["score"]}
        assert scored == {"a.mp4", "c.png", "b-folder.mp4/in.mp4"}
        assert {name for name, row in table.items() if row["note"].startswith("not read: ")} == {
            "b-cut.mp4",
            "b-empty.mp4",
            "b-text.mov",
            "b-gone.png",
            "b-loop.mp4",
        }
        assert "scored 3 of 8 files, 5 could not be read" in ran.out


def test_tables_are_written_before_an_error_that_ends_the_run(mixed):
    # The third call is for a/x.png, after those for the video and a/x.jpg.
    def nan_in_the_third(prediction, count):
        return replace(prediction, score=prediction.score * np.nan) if count == 3 else prediction

    pick = picking(lambda engine: Altered(engine, nan_in_the_third))
    with pytest.raises(LpxError, match=r"gives the score nan to a face in a/x\.png"):
        predict_with(mixed, "in", pick_engine=pick)
    table = {row["file"]: row["score"] for row in rows("lpx-out/predictions/scores.csv")}
    assert set(table) == {"clip.mp4", "a/x.jpg", "bad.mp4", "bad.png"}


def test_crops_with_a_score_of_nan_are_refused(workspace, crops):
    def broken(prediction, count):
        scores = prediction.score.copy()
        scores[2] = np.nan
        return replace(prediction, score=scores)

    pick = picking(lambda engine: Altered(engine, broken))
    with pytest.raises(LpxError) as refused:
        predict_with(workspace, "crops/real", detector=None, pick_engine=pick)
    assert f"{ENGINE} gives the score nan to face 2.png" in refused.value.what
    assert "--engine torch" in refused.value.fix
    assert not Path("lpx-out/predictions").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -5.0, 1.5])
def test_maps_of_other_values_than_probabilities_are_refused(workspace, crops, value):
    def broken(prediction, count):
        maps = prediction.patch_map.copy()
        maps[0, 3, 4] = value
        return replace(prediction, patch_map=maps)

    pick = picking(lambda engine: Altered(engine, broken))
    for detector, path in ((None, "crops/real"), ("blazeface", folder() / "p000_00.jpg")):
        with pytest.raises(LpxError, match="a map with values"):
            predict_with(workspace, path, detector=detector, pick_engine=pick)


@pytest.mark.parametrize("allowed", [False, True])
def test_host_code_is_loaded_only_if_the_workspace_allows_it(workspace, crops, allowed):
    seen = []

    def spy(place, **options):
        seen.append(options["allow_host_code"])
        return load(place)

    trusted = Workspace(workspace.root, allow_host_code=allowed)
    pick = partial(pick_engine, load=spy)
    predict_with(trusted, "crops", detector=None, overlay=False, pick_engine=pick)
    assert seen == [allowed]


def test_limit_takes_files_evenly(lpx, workspace, crops):
    for name in "abcde":
        photo(Path(f"in/{name}.png"), 0)
    found = predict(workspace, "in", limit=3)
    assert [file.name for file in found.files] == ["a.png", "c.png", "e.png"]
    assert len(predict(workspace, "in", limit=99).files) == 5
    assert len(predict(workspace, "crops", detector=None, limit=4).files) == 4
    ran = lpx("predict", "in", "--limit", 0)
    assert ran.code == 2
    assert "--limit must be >= 1 (got 0)" in ran.err


def slow_down(path, first):
    """Make a video's frames last three times as long from frame `first` on."""
    data = bytearray(path.read_bytes())
    # The table of durations (stts) has 8 bytes before its number of entries, and one entry
    # (frames, ticks). It grows by 8 bytes, and so do the boxes around it. All are behind the
    # pictures, whose places stay the same.
    table = data.index(b"stts")
    frames, ticks = struct.unpack_from(">2I", data, table + 12)
    entries = struct.pack(">5I", 2, first, ticks, frames - first, 3 * ticks)
    data[table + 8 : table + 20] = entries
    assert data.index(b"mdat") < table
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"):
        start = data.index(name) - 4
        struct.pack_into(">I", data, start, struct.unpack_from(">I", data, start)[0] + 8)
    # An edit list would cut the video to its former length.
    path.write_bytes(data.replace(b"edts", b"free"))


def test_times_of_a_variable_rate_are_those_of_the_video(workspace):
    """The mean rate would give other times."""
    write_video(Path("clip.mp4"), portrait(0), frames=12)
    slow_down(Path("clip.mp4"), 4)
    found = predict(workspace, "clip.mp4", frames=3, overlay=False)
    times = [face.time_seconds for face in found.files[0].faces]
    assert [face.frame for face in found.files[0].faces] == [0, 6, 11]
    # Four frames of 0.04 s, then frames of 0.12 s.
    assert times == pytest.approx([0, 0.4, 1.0], abs=0.002)
    assert [row["time_seconds"] for row in rows(found.frames)] == ["0.000", "0.400", "1.000"]


def change_card(workspace, **changed):
    """Change the card of the exported model, and build its engine again."""
    proto = onnx.load(workspace.model)
    (entry,) = (entry for entry in proto.metadata_props if entry.key == METADATA_KEY)
    card = json.loads(entry.value) | changed
    entry.value = json.dumps(card)
    workspace.model.write_bytes(proto.SerializeToString())
    manifest = workspace.root / "model.json"
    changed_values = {"card": card, "model_sha256": sha256(workspace.model)}
    write_sealed(manifest, read_sealed(manifest, "") | changed_values)
    shutil.rmtree(workspace.engines)
    workspace.build("fp32", target="onnxruntime")


def test_crop_recipe_must_be_known(mixed):
    change_card(mixed, crop="unknown")
    with pytest.raises(LpxError, match="choose a recipe"):
        predict(mixed, "in")
    assert predict(mixed, "in/a/x.png", crop="square-1.3").crop == "square-1.3"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["n" * 300], "n cannot be read"),
        (["n" * 300, "--crops"], "n cannot be read"),
        (["in/bad.mp4"], "in/bad.mp4 has no readable image or video"),
        (["in", "--frames", "0"], "--frames must be >= 1 (got 0)"),
        (["in", "--frames", "x"], "'x' is neither a number nor 'all'"),
        (["in", "--detector", "x"], "--detector must be one of blazeface, centerface"),
        (["in", "--crop", "x"], "--crop must be one of square-1.3"),
        (["in", "--out", "in"], "in would contain both the scored files and their pictures"),
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
    assert ScoreJournal(tmp_path / "j", {}).find("x", tmp_path / "j") is None


@pytest.mark.parametrize(
    "change",
    [
        {"score": 5.0},
        {"score": "0.9"},
        {"fake": False},
        {"frames": -1},
        {"kind": "photo"},
        {"faces": [{}]},
        {"more": 1},
        {"picture": 3},
        {"name": []},
    ],
)
def test_a_journal_gives_no_result_that_no_engine_gives(tmp_path, change):
    file, path = tmp_path / "a.png", tmp_path / "results.jsonl"
    file.write_bytes(b"x")
    settings = {"threshold": 0.5}
    result = FileScore(
        "a.png", "image", 0.9, True, 1, (FaceScore(0, None, 1, None, None, 0.9, True),)
    )
    ScoreJournal(path, settings).add(result, file)
    assert ScoreJournal(path, settings).find("a.png", file) == result
    entry = json.loads(path.read_text())
    entry["result"] |= change
    path.write_text(json.dumps(entry) + "\n")
    assert ScoreJournal(path, settings).find("a.png", file) is None
