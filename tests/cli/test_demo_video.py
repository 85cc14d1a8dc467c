"""`lpx demo --video`: a clip through `lpx predict`, in a workspace that may hold anything."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from lpx.api import clip_demo
from lpx.data.face_sets import demo_clip
from lpx.data.face_sets.demo_clip import clip_path, clip_spans
from lpx.data.images.video_file import read_frames
from lpx.data.images.video_writer import VideoWriter
from tests.support.limits import largest_file

FOLDER = "lpx-out/demo-video"


@pytest.fixture(scope="module")
def drawn_once(built, tmp_path_factory):
    """A workspace in which the demo has run."""
    from lpx import Workspace

    root = tmp_path_factory.mktemp("drawn") / "lpx-out"
    shutil.copytree(built.root, root)
    made = Workspace(root)
    return made, clip_demo.show_clip(made)


@pytest.fixture
def short(monkeypatch, tmp_path):
    """Shorten the clip to six frames, for tests that do not depend on what it shows."""
    parts = clip_spans()
    folder = tmp_path / "short"
    folder.mkdir()
    frames = [frame.pixels for frame in read_frames(clip_path(), 60)]
    chosen = [frames[i] for i in (0, 1, 2, 30, 31, 32)]
    writer = VideoWriter(folder / "clip.mp4", 10, chosen[0].shape[1], chosen[0].shape[0])
    for frame in chosen:
        writer.write(frame)
    writer.close()
    real, fake = parts[0], next(part for part in parts if part.fake)
    with (folder / "clip.csv").open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(demo_clip.HEADER)
        out.writerow((0, 2, 1, real.head, real.face, ""))
        out.writerow((3, 5, 2, fake.head, fake.face, fake.forgery))
    monkeypatch.setattr(demo_clip, "clip_folder", lambda: folder)


def test_says_what_is_true_and_what_the_detector_says(drawn_once):
    _, shown = drawn_once
    parts = clip_spans()
    assert shown.file.frames == parts[-1].last + 1
    assert [part for part, _ in shown.parts] == list(parts)
    rows = list(csv.DictReader(shown.predicted.frames.read_text().splitlines()))
    for part, row in shown.parts:
        inside = [r for r in rows if part.first <= int(r["frame"]) <= part.last]
        assert row.faces == len(inside) == part.last - part.first + 1
        assert row.called == sum(r["verdict"] == "fake" for r in inside)
        mean = sum(float(r["score"]) for r in inside) / len(inside)
        assert row.score == pytest.approx(mean, abs=1e-5)


def test_forged_parts_score_higher_than_real_ones(drawn_once):
    _, shown = drawn_once
    real = [row.score for part, row in shown.parts if not part.fake]
    fake = [row.score for part, row in shown.parts if part.fake]
    assert min(fake) > max(real)


def test_page_shades_what_is_forged(drawn_once):
    made, shown = drawn_once
    page = shown.file.timeline.read_text()
    assert shown.file.timeline.parent == made.root / "demo-video"
    assert page.count('class="fake band"') == sum(part.fake for part, _ in shown.parts)
    assert page.count("<li><img") == 8
    frames = list(read_frames(shown.file.picture, None))
    assert len(frames) == shown.file.frames


def test_the_last_lines_say_what_was_shown_and_what_not(lpx, workspace, short):
    ran = lpx("demo", "--video")
    assert ran.code == 0, ran.err
    assert "lpx predict clip.mp4 --frames all" in ran.err
    assert "exported by an earlier run" in ran.err
    *_, video, timeline, frames, shown, certain, limits = ran.out.splitlines()
    assert video == f"video: {FOLDER}/clip-mp4-overlay.mp4"
    assert timeline == f"timeline: {FOLDER}/clip-mp4-timeline.html"
    assert frames == f"frames: {FOLDER}/frames.csv"
    assert "a face was found in 6 of 6 frames" in shown
    assert "of 3 forged frames fake, and " in shown
    assert "2 scenes of 2 people" in certain
    assert "do not exist" in limits


def test_as_json(lpx, workspace, short):
    found = json.loads(lpx("demo", "--video", "--json").out)
    assert found["frames"] == 6
    assert [part["truth"] for part in found["parts"]] == ["real", "forged"]
    assert [part["first_frame"] for part in found["parts"]] == [0, 3]
    assert not found["reused"]
    assert Path(found["video"]).is_file()
    assert Path(found["timeline"]).is_file()


def test_a_second_run_says_what_it_uses_again(lpx, workspace, short):
    first = lpx("demo", "--video")
    kept = {path: path.stat().st_mtime_ns for path in Path(FOLDER).glob("clip*")}
    again = lpx("demo", "--video")
    assert (first.code, again.code) == (0, 0)
    assert "1 of 1 files were scored by an earlier run" in again.err
    assert again.out.count("(drawn by an earlier run)") == 2
    assert again.out.replace(" (drawn by an earlier run)", "") == first.out
    assert {path: path.stat().st_mtime_ns for path in Path(FOLDER).glob("clip*")} == kept
    Path(FOLDER, "clip-mp4-timeline.html").unlink()
    third = lpx("demo", "--video")
    assert third.out == first.out
    assert Path(FOLDER, "clip-mp4-timeline.html").is_file()


def test_builds_what_an_interrupted_run_left_out(lpx, workspace, short):
    shutil.rmtree("lpx-out/engines")
    ran = lpx("demo", "--video")
    assert ran.code == 0, ran.err
    assert "lpx build --int8 --faces demo" in ran.err
    assert "lpx export" not in ran.err


@pytest.mark.parametrize("left", ["", "model.onnx", "model.json"])
def test_exports_again_if_an_interrupted_run_left_no_whole_model(lpx, workspace, short, left):
    for name in {"model.onnx", "model.json"} - {left}:
        Path("lpx-out", name).unlink()
    ran = lpx("demo", "--video")
    assert ran.code == 0, ran.err
    assert "lpx export ckpt.pt" in ran.err
    assert "lpx build" not in ran.err


def test_what_a_killed_run_left_is_removed(lpx, workspace, short):
    Path(FOLDER).mkdir()
    for name in (".clip-mp4-overlay.ab12.mp4", ".clip-mp4-timelin.ab12.html"):
        Path(FOLDER, name).touch()
    assert lpx("demo", "--video").code == 0
    assert not [path for path in Path(FOLDER).iterdir() if path.name.startswith(".")]


def test_does_not_replace_a_model_of_the_users(lpx, workspace, short):
    path = Path("lpx-out/model.json")
    mine = json.dumps(json.loads(path.read_text()) | {"checkpoint_sha256": "0" * 64})
    path.write_text(mine)
    ran = lpx("demo", "--video")
    assert ran.code == 2
    assert "lpx-out has another model than this demo's" in ran.err
    assert "use another --workspace" in ran.err
    assert path.read_text() == mine
    assert not Path(FOLDER).exists()


def test_a_full_disk_is_an_error_that_leaves_no_half_video(lpx, workspace, short):
    # Less than the video of six frames takes.
    with largest_file(20_000):
        ran = lpx("demo", "--video")
    assert ran.code == 2
    assert "could not be drawn into lpx-out/demo-video" in ran.err
    assert "of 6 frames" in ran.err
    assert {path.name for path in Path(FOLDER).iterdir()} == {"scores.csv", "frames.csv"}
    assert lpx("demo", "--video").code == 0


def test_a_page_that_cannot_be_written_leaves_no_video_without_one(lpx, workspace, short):
    page = Path(FOLDER, "clip-mp4-timeline.html")
    page.mkdir(parents=True)
    ran = lpx("demo", "--video")
    assert ran.code == 2
    assert f"{page} cannot be written: Is a directory" in ran.err
    assert [path for path in Path(FOLDER).iterdir() if "clip" in path.name] == [page]


def test_a_folder_that_cannot_be_written_is_refused_before_the_export(lpx, tmp_path):
    (tmp_path / "file").touch()
    ran = lpx("demo", "--video", "-w", tmp_path / "file/w")
    assert ran.code == 2
    assert "cannot be written" in ran.err
    assert "lpx export" not in ran.err


def test_not_with_unpack(lpx):
    ran = lpx("demo", "--video", "--unpack", "x")
    assert ran.code == 2
    assert "mutually exclusive" in ran.err
    assert not Path("x").exists()
