from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.data.datasets import open_videos
from lpx.data.detect import Mesh, open_detector
from lpx.data.face_sets.manifest import read_face_manifest, read_manifest_head
from lpx.data.face_sets.sets import open_set
from lpx.data.images.crops import crop
from lpx.data.images.decode import read_image
from lpx.data.images.video_file import Frame, read_frames
from lpx.data.prepare import cutting, journal, prepare, preparing, store, workers
from lpx.data.prepare.journal import open_journal
from lpx.data.prepare.record import UNREADABLE, CutFace, VideoRecord, source_sha256
from lpx.data.roots import DataPlaces
from lpx.errors import LpxError
from lpx.workspace import unwritable, write_bytes
from tests.conftest import environment
from tests.data.trees import ffpp_tree, portrait, scene, write, write_video

REALS = "original_sequences/youtube/c23/videos"
FAKES = "manipulated_sequences/Deepfakes/c23/videos"


def in_processes(count):
    return partial(workers.cut_videos, processes=count)


OPTIONS = {"methods": ("Deepfakes",), "frames": 3, "cut": in_processes(1)}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """FaceForensics++ of two pairs, with masks, whose videos have four frames."""
    return ffpp_tree(tmp_path_factory.mktemp("videos") / "ffpp", masks=True)


@pytest.fixture
def tree(source, tmp_path, monkeypatch):
    """A copy to be spoilt, in a current folder of its own."""
    for name in ("LPX_DATA", "LPX_FACE_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(source, tmp_path / "ffpp")
    return tmp_path / "ffpp"


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """What an undisturbed run leaves."""
    places = DataPlaces(source, tmp_path_factory.mktemp("whole"))
    return prepare("ffpp-c23", places=places, **OPTIONS)


def run(tree, **options):
    return prepare("ffpp-c23", places=DataPlaces(tree, Path("store")), **OPTIONS | options)


def contents(folder):
    """Every file of a prepared set but its journal, whose order is that of the work."""
    files = {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*.*")
        if p.is_file() and p.name != journal.FILE
    }
    assert not [name for name in files if Path(name).name.startswith(".")]
    return files


def lines_of(folder):
    return (folder / journal.FILE).read_bytes().count(b"\n")


def test_faces_are_cut_by_the_recipe_once_and_told_in_order(whole, source):
    assert whole.folder.name == "ffpp-c23-square-1.3-3"
    assert (whole.videos, whole.done_now, whole.faces) == (8, 8, 24)
    faces = read_face_manifest(whole.folder)
    assert (faces.name, faces.crop, len(faces.faces)) == ("ffpp-c23", "square-1.3", 24)
    assert faces.labels().tolist() == [1] * 12 + [0] * 12
    assert set(faces.identities()) == {"000", "001", "002", "003"}
    detector = open_detector()
    frames = list(read_frames(source / REALS / "000.mp4", 3))
    assert [frame.index for frame in frames] == [0, 2, 3]
    for frame in frames:
        # Lossless: the very pixels that the recipe cuts.
        path = whole.folder / "faces" / REALS / "000" / f"{frame.index:06d}.png"
        expected = crop("square-1.3", frame.pixels, detector.detect(frame.pixels)[0]).pixels
        assert np.array_equal(read_image(path), expected)
    details = faces.select("train").faces.details
    sizes = [read_image(face.source.path).shape[:2] for face in faces.select("train").faces]
    assert sizes == list(zip(details.height.tolist(), details.width.tolist(), strict=True))
    assert details.frame.tolist() == [0, 2, 3] * 4
    assert details.size_bytes.tolist() == [
        face.source.path.stat().st_size for face in faces.select("train").faces
    ]
    assert set(whole.seconds) == set(cutting.STAGES)
    assert whole.seconds["detect"] > 0
    assert whole.seconds["landmarks"] == 0


def test_the_manifest_says_how(whole):
    manifest = read_manifest_head(whole.folder)
    assert manifest.detector == "blazeface"
    assert manifest.several_faces == "mask-overlap where there is a mask, largest elsewhere"
    assert manifest.frames_per_video == 3
    assert manifest.skipped == ()
    assert manifest.missing == ()
    assert "officially 360" in manifest.note
    assert set(manifest.versions) == {"lpx", "opencv", "onnxruntime"}
    assert {count.split for count in manifest.counts} == {"train", "test"}


def test_a_second_run_does_nothing(whole, source):
    before = {p: p.stat().st_mtime_ns for p in whole.folder.rglob("*")}
    told = []
    places = DataPlaces(source, whole.folder.parent)
    again = prepare("ffpp-c23", places=places, **OPTIONS, progress=lambda *at: told.append(at))
    assert again.done_now == 0
    assert (again.faces, again.videos) == (24, 8)
    assert told == []
    assert {p: p.stat().st_mtime_ns for p in whole.folder.rglob("*")} == before


def test_several_processes_leave_the_same(tree, whole):
    told = []
    done = run(tree, cut=in_processes(2), progress=lambda *at: told.append(at))
    assert contents(done.folder) == contents(whole.folder)
    assert told == [(n, 8) for n in range(9)]


def test_splits_join_in_one_folder(tree, whole):
    first = run(tree, split="test")
    assert (first.videos, first.faces) == (4, 12)
    assert read_face_manifest(first.folder).splits() == ("test",)
    second = run(tree, split="train")
    assert (second.done_now, second.folder) == (4, first.folder)
    # The table does not know in how many runs it came about.
    table = next(whole.folder.glob("faces-*.npz"))
    assert (first.folder / table.name).read_bytes() == table.read_bytes()
    asked = read_manifest_head(first.folder).about["prepared"]
    assert [part["split"] for part in asked] == ["test", "train"]


@pytest.mark.parametrize("recipe", ["aligned-1.3-256", "square-1.75-landmarks"])
def test_recipes_with_landmarks_have_folders_of_their_own(tree, recipe):
    done = run(tree, crop=recipe, split="test")
    assert done.folder.name == f"ffpp-c23-{recipe}-3"
    assert done.faces == 12
    assert done.seconds["landmarks"] > 0
    assert read_face_manifest(done.folder).crop == recipe


class UnsureMesh:
    """Finds landmarks of no face."""

    def landmarks(self, *_):
        return Mesh(np.zeros((468, 2), np.float32), 0.49)


def cutter(folder=Path("set"), crop="square-1.3", **seams):
    return cutting.Cutter(cutting.Settings(folder, 3, crop, "blazeface"), **seams)


def test_a_frame_without_landmarks_is_skipped(tree):
    (video, *_) = open_videos("ffpp-c23", root=tree, methods=("Deepfakes",)).videos
    result = cutter(crop="aligned-1.3-256", mesh=UnsureMesh()).cut(video)
    assert result.record.faces == ()
    assert [reason for _, reason in result.record.skipped] == ["its landmarks are unsure"] * 3


def test_no_face_at_all_is_an_error_that_counts_reasons(tree):
    for path in tree.rglob("c23/videos/*.mp4"):
        write_video(path, np.zeros((216, 216, 3), np.uint8))
    with pytest.raises(LpxError, match="no face was found in 4 videos") as caught:
        run(tree, split="test")
    assert caught.value.why == "12 x no face was found"
    assert "centerface" in caught.value.fix


def test_what_gives_no_face_is_counted_and_named(tree):
    write_video(tree / REALS / "000.mp4", np.zeros((216, 216, 3), np.uint8))
    cut = tree / REALS / "001.mp4"
    cut.write_bytes(cut.read_bytes()[:2000])
    (tree / REALS / "002.mp4").write_bytes(b"")
    (tree / FAKES / "002_003.mp4").write_text("a text, and no video")
    done = run(tree)
    assert done.faces == 4 * 3
    assert done.reasons()["no face was found"] == 3
    unreadable = {one.video: one.reason for one in done.skipped if one.frame is None}
    assert set(unreadable) == {f"{REALS}/001", f"{REALS}/002", f"{FAKES}/002_003"}
    assert unreadable[f"{REALS}/002"] == "file is empty"
    assert set(read_manifest_head(done.folder).skipped) == set(done.skipped)
    assert [one.frame for one in done.skipped if one.video == f"{REALS}/000"] == [0, 2, 3]


def test_a_video_that_was_downloaded_again_is_done_again(tree, whole):
    path = tree / REALS / "001.mp4"
    good = path.read_bytes()
    path.write_bytes(good[:2000])
    assert run(tree).faces == 21
    path.write_bytes(good)
    done = run(tree)
    assert (done.done_now, done.faces) == (1, 24)
    assert contents(done.folder) == contents(whole.folder)


def test_a_crop_that_is_gone_is_made_again(tree, whole):
    done = run(tree)
    crops = sorted((done.folder / "faces").rglob("*.png"))
    crops[0].unlink()
    crops[-1].write_bytes(b"damaged")
    assert run(tree).done_now == 2
    assert contents(done.folder) == contents(whole.folder)


def test_an_avi_that_was_cut_off_gives_what_is_there_and_a_note(tree):
    (tree / REALS / "000.mp4").unlink()
    path = write_video(tree / REALS / "000.avi", portrait(0)[0], frames=12)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = run(tree)
    assert done.faces == 24
    damaged = read_manifest_head(done.folder).about["damaged"]
    assert list(damaged) == [f"{REALS}/000"]
    assert "names 12 frames" in damaged[f"{REALS}/000"]
    said = f"1 video seems incomplete; faces come from what can be read: {REALS}/000 (its header"
    assert said in open_set(str(done.folder), "all").note


def test_a_wrong_extension_does_not_matter(tree, whole):
    path = tree / REALS / "000.mp4"
    path.rename(path.with_suffix(".avi"))
    assert run(tree).faces == whole.faces


def test_names_in_other_scripts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "Zoë – видео 1"
    for part in ("method_A/a b", "original_videos"):
        write_video(tmp_path / "dfdcp" / part / f"{name}.mp4", portrait(0)[0])
    listed = {
        f"method_A/a b/{name}.mp4": {
            "label": "fake",
            "set": "test",
            "target_id": 1,
            "swapped_id": 2,
            "augmentations": [],
        },
        f"original_videos/{name}.mp4": {"label": "real", "set": "test", "augmentations": []},
    }
    write(tmp_path / "dfdcp" / "dataset.json", listed)
    done = prepare(
        "dfdcp",
        places=DataPlaces(Path("dfdcp"), Path("s")),
        frames=2,
        cut=in_processes(1),
        methods=("method_A",),
    )
    assert done.faces == 4
    faces = read_face_manifest(done.folder)
    assert all(name in face.video for face in faces.faces)
    assert {read_image(face.source.path).shape[2] for face in faces.faces} == {3}


def two_faces(index):
    """Two portraits of one size side by side, uint8 [240, 480, 3]; the left one is larger."""
    large = cv2.resize(portrait(0)[0], (230, 230))
    small = cv2.resize(portrait(2)[0], (170, 170))
    frame = np.full((240, 480, 3), 110, np.uint8)
    frame[5:235, 5:235] = large
    frame[40 + index : 210 + index, 280:450] = small
    return frame


def save(path, frames):
    size = frames[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, size)
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()


def test_of_several_faces_the_one_that_was_manipulated_is_taken(tree):
    frames = [two_faces(index) for index in range(4)]
    mask = np.zeros((240, 480, 3), np.uint8)
    mask[60:190, 300:430] = 255
    for stem in ("000_001", "001_000"):
        save(tree / FAKES / f"{stem}.mp4", frames)
    masks = tree / "manipulated_sequences" / "Deepfakes" / "masks" / "videos"
    # Masks may come in another size, and as many as there are frames.
    save(masks / "000_001.mp4", [cv2.resize(mask, (240, 120))] * 4)
    (masks / "001_000.mp4").unlink()
    done = run(tree, split="train")
    faces = read_face_manifest(done.folder)
    detector = open_detector()
    for stem, right in (("000_001", True), ("001_000", False)):
        rows = faces.columns.video.where((f"{FAKES}/{stem}",))
        widths = faces.faces.details.width[rows]
        boxes = [
            sorted(detector.detect(frame.pixels), key=lambda face: face.box[0])[-1 if right else 0]
            for frame in read_frames(tree / FAKES / f"{stem}.mp4", 3)
        ]
        expected = [crop("square-1.3", frames[0], box).pixels.shape[1] for box in boxes]
        assert widths.tolist() == expected
    assert read_manifest_head(done.folder).about["frames_with_several_faces"] == 6


def test_a_mask_of_another_length_is_read_at_the_same_frames():
    def frame(index):
        return Frame(index, np.zeros((4, 6, 3), np.uint8))

    masks = cutting._Masks(None, np.array([0, 2]), iter([frame(0), frame(2), frame(4)]))
    assert [masks.at(frame(i)) is not None for i in (0, 1, 2, 3, 4, 5)] == [
        True,
        False,
        True,
        False,
        True,
        False,
    ]


def test_frames_of_certain_numbers(source):
    path = source / REALS / "000.mp4"
    assert [f.index for f in read_frames(path, np.array([1, 3, 9]))] == [1, 3]


KILLED = """
import os, signal, sys
from functools import partial
from pathlib import Path
from lpx.data.prepare import cutting, prepare, workers
from lpx.data.roots import DataPlaces
from lpx.workspace import write_bytes
count = 0
def write(path, data, **how):
    global count
    count += 1
    if count == 11:
        path.write_bytes(data[:100])
        os.kill(os.getpid(), signal.SIGKILL)
    write_bytes(path, data, **how)
class Cutter(cutting.Cutter):
    def __init__(self, settings):
        super().__init__(settings, write=write)
workers.Cutter = Cutter
prepare("ffpp-c23", places=DataPlaces(Path("ffpp"), Path("store")), methods=("Deepfakes",),
        frames=3, cut=partial(workers.cut_videos, processes=1))
"""


def script(text, **options):
    return subprocess.Popen(
        [sys.executable, "-c", text],
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_run_that_was_killed_goes_on_and_leaves_the_same(tree, whole):
    killed = script(KILLED)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    folder = Path("store") / whole.folder.name
    assert lines_of(folder) == 1 + 3
    assert not (folder / "manifest.json").exists()
    # A line that was being written.
    with (folder / journal.FILE).open("ab") as stream:
        stream.write(b'12345678 {"video": "half a li')
    told = []
    done = run(tree, progress=lambda *at: told.append(at))
    assert told[0] == (3, 8)
    assert done.done_now == 5
    assert contents(folder) == contents(whole.folder)


GROUP = """
import os, signal, sys
from pathlib import Path
from lpx.data.prepare import journal, prepare, workers
from lpx.data.roots import DataPlaces
from lpx.cli import main
def append(self, record):
    print(*[child.pid for child in __import__("multiprocessing").active_children()], flush=True)
    {act}
if __name__ == "__main__":
    journal.VideoJournal.append = append
    # Whoever runs these tests in the background may have had it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["lpx", "data", "prepare", "ffpp-c23", "--data-root", "ffpp", "--store", "store",
                "--processes", "2", "--frames", "3", "--methods", "Deepfakes"]
    main.main()
"""


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("act", "code"),
    [
        ("os.killpg(0, signal.SIGINT)", 130),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ],
)
def test_no_worker_outlives_its_parent(tree, act, code):
    process = script(GROUP.format(act=act), start_new_session=True)
    out, err = process.communicate()
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert ("interrupted" in err) == (code == 130)
    pids = [int(pid) for pid in out.splitlines()[0].split()]
    assert len(pids) == 2
    for _ in range(100):
        if not any(map(is_running, pids)):
            break
        time.sleep(0.1)
    assert not any(map(is_running, pids))
    assert run(tree).faces == 24


def test_a_worker_that_is_killed_is_an_error_that_says_so(tree, whole):
    videos = open_videos("ffpp-c23", root=tree, methods=("Deepfakes",)).videos
    settings = cutting.Settings(tree.parent / "set", 3, "square-1.3", "blazeface")
    results = workers.cut_videos(settings, videos, 2)
    next(results)
    # Both workers have their next video by now.
    multiprocessing.active_children()[0].kill()
    with pytest.raises(LpxError, match="a worker died at video") as caught:
        list(results)
    assert any(video.name in caught.value.what for video in videos)
    assert "memory" in caught.value.why
    assert "`processes`" in caught.value.fix
    assert caught.value.code == "out-of-memory"
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("code", "said"), [(-11, "by signal 11"), (7, "with exit code 7")])
def test_a_decoder_that_crashes_names_the_video(code, said):
    worker = workers.CuttingProcess.__new__(workers.CuttingProcess)
    worker.process = type("Dead", (), {"exitcode": code, "join": lambda *_: None})()
    worker.video = type("V", (), {"name": "a/b"})()
    death = worker._death()
    assert death.what == "a worker died at video a/b"
    assert said in death.why
    assert "download it again" in death.fix


CRASH = """
import os, signal, sys
from pathlib import Path
from lpx.data.prepare import prepare, workers
from functools import partial
from lpx.data.roots import DataPlaces
class Cutter(workers.Cutter):
    def cut(self, video):
        if video.name.endswith(("youtube/c23/videos/000", "002_003")):
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().cut(video)
workers.Cutter = Cutter
if __name__ == "__main__":
    prepare("ffpp-c23", places=DataPlaces(Path("ffpp"), Path("store")), methods=("Deepfakes",),
            frames=3, cut=partial(workers.cut_videos, processes=2))
"""


def test_a_video_that_ends_its_process_stops_no_other(tree, whole):
    """Workers import the script, and with it what stands in for a damaged video."""
    Path("crash.py").write_text(CRASH)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler=0", "crash.py"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    manifest = read_manifest_head(Path("store") / whole.folder.name)
    assert {(one.video, one.reason) for one in manifest.skipped} == {
        (f"{REALS}/000", "reading it ended the process (signal 11)"),
        (f"{FAKES}/002_003", "reading it ended the process (signal 11)"),
    }
    assert sum(count.faces for count in manifest.counts) == 18
    # It may have been for lack of memory.
    again = run(tree)
    assert (again.done_now, again.faces) == (2, 24)
    assert contents(again.folder) == contents(whole.folder)


@pytest.mark.parametrize("error", ["opencv", "name"])
def test_a_video_that_cannot_be_cut_is_skipped_with_the_reason(tree, error):
    def read(path, frames):
        if error == "opencv":
            raise cv2.error("OpenCV: assertion failed\nsomewhere")
        return read_frames(path, frames)

    def write(path, data, **how):
        if error == "name":
            cause = OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            raise unwritable(path.parent, cause) from cause
        write_bytes(path, data, **how)

    (video, *_) = open_videos("ffpp-c23", root=tree, methods=("Deepfakes",)).videos
    ((frame, reason),) = cutter(read=read, write=write).cut(video).record.skipped
    assert frame is None
    said = {"opencv": "cannot be processed: OpenCV: assertion failed", "name": "name too long"}
    assert said[error].casefold() in reason.casefold()


def test_frames_without_a_mask_are_counted(tree):
    masks = tree / "manipulated_sequences" / "Deepfakes" / "masks" / "videos"
    save(masks / "000_001.mp4", [np.zeros((240, 320, 3), np.uint8)] * 3)
    done = run(tree, split="train")
    damaged = read_manifest_head(done.folder).about["damaged"]
    assert damaged == {f"{FAKES}/000_001": "1 of 3 frames have no mask"}


def test_what_gave_no_face_is_said_to_whoever_opens_the_set(tree):
    write_video(tree / REALS / "000.mp4", np.zeros((216, 216, 3), np.uint8))
    (tree / REALS / "002.mp4").write_bytes(b"")
    (tree / FAKES / "003_002.mp4").write_text("a text, and no video")
    folder = run(tree).folder
    places = DataPlaces(tree, Path("store"))
    test = open_set("ffpp-c23", "test", places=places).note
    train = open_set("ffpp-c23", "train", places=places).note
    assert "2 videos could not be read and are left out: " in test
    assert f"{FAKES}/003_002 (not a video that OpenCV can decode" in test
    assert f"{REALS}/002 (file is empty)" in test
    assert "gave no face" not in test
    assert "could not be read" not in train
    faceless = f"left out (3 x no face was found): {REALS}/000 (3)."
    assert f"3 frames of 1 video gave no face and are {faceless}" in train
    for note in (open_set(str(folder), "test").note, read_face_manifest(folder, "test").note):
        assert "2 videos could not be read" in note
        assert "gave no face" not in note
    everything = read_face_manifest(folder).note
    assert "2 videos could not be read" in everything
    assert "3 frames of 1 video gave no face" in everything


def test_a_mistake_in_a_worker_is_shown_with_its_trace():
    with pytest.raises(RuntimeError, match="Traceback"):
        workers._checked("a/b\nTraceback ...")


def test_a_disk_that_fills_leaves_no_half_video(tree):
    written = []

    def full(path, data, **how):
        if len(written) == 2:
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise unwritable(path, error) from error
        written.append(path)
        write_bytes(path, data, **how)

    (video, *_) = open_videos("ffpp-c23", root=tree, methods=("Deepfakes",)).videos
    with pytest.raises(cutting.DiskFullError):
        cutter(write=full).cut(video)
    # What was begun is removed: it would only take room.
    assert len(written) == 2
    assert not list(Path("set").rglob("*.png"))


@pytest.mark.parametrize("place", ["crops", "journal"])
def test_a_full_disk_says_what_to_free_and_the_next_run_goes_on(tree, whole, place):
    videos = open_videos("ffpp-c23", root=tree, methods=("Deepfakes",))
    folder = Path("store") / whole.folder.name
    settings = cutting.Settings(folder, 3, "square-1.3", "blazeface")
    head = {"name": "ffpp-c23", "crop": "square-1.3", "frames": 3, "detector": "blazeface"}

    def full_after_three(settings, todo):
        yield from workers.cut_videos(settings, todo[:3], 1)
        if place == "crops":
            raise cutting.DiskFullError
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with (
        pytest.raises(LpxError, match="is full") as caught,
        open_journal(folder, head) as held,
    ):
        preparing.cut_missing(
            settings, videos, held, progress=lambda *_: None, cut=full_after_three
        )
    assert caught.value.why == "3 of 8 videos are finished, and are kept"
    assert "GiB for the 5 videos left" in caught.value.fix
    done = run(tree)
    assert done.done_now == 5
    assert contents(folder) == contents(whole.folder)


def test_a_set_that_another_process_prepares_is_refused(tree, whole):
    with (
        open_journal(Path("store") / whole.folder.name, {"name": "x"}),
        pytest.raises(LpxError, match="is being prepared by another process"),
    ):
        run(tree)


def test_a_folder_that_was_prepared_otherwise_is_refused(tree):
    folder = run(tree, split="test").folder
    other = {"name": "ffpp-c23", "crop": "x", "frames": 3, "detector": "blazeface"}
    with (
        pytest.raises(LpxError, match="prepared with other settings") as caught,
        open_journal(folder, other),
    ):
        pass
    assert "'square-1.3', not 'x'" in caught.value.why


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frames": 0}, "frames must be >= 1"),
        ({"crop": "round"}, "crop must be one of"),
        ({"detector": "eyes"}, "detector must be one of"),
        ({"split": "tset"}, "split must be one of"),
        ({"methods": ("Deepfake",)}, "unknown method 'Deepfake'"),
    ],
)
def test_mistakes_are_told_before_any_work(tree, options, said):
    with pytest.raises(LpxError, match=said):
        run(tree, **options)
    assert not Path("store").exists()


def test_strict_wants_every_video(tree):
    (tree / REALS / "000.mp4").unlink()
    with pytest.raises(LpxError, match="missing below"):
        run(tree, strict=True)
    done = run(tree)
    assert done.missing == (f"{REALS}/000",)
    assert read_manifest_head(done.folder).missing == done.missing


def test_a_store_that_cannot_be_written(tree):
    Path("store").write_text("a file")
    with pytest.raises(LpxError, match="cannot be written") as caught:
        run(tree)
    assert caught.value.why == "there is a file where a folder is needed"
    assert caught.value.fix == "use another folder (`store`)"


def test_a_manifest_that_could_not_be_written_is_written_by_the_next_run(tree, whole):
    done = run(tree)
    for path in (done.folder / "manifest.json", *done.folder.glob("faces-*.npz")):
        path.unlink()
    (done.folder / "manifest.json").mkdir()
    with pytest.raises(LpxError, match="cannot be written"):
        run(tree)
    (done.folder / "manifest.json").rmdir()
    done = run(tree)
    assert done.done_now == 0
    assert contents(done.folder) == contents(whole.folder)


def record(name, **values):
    known = {
        "video": name,
        "label": 1,
        "method": "m",
        "identities": ("a", "b"),
        "split": "test",
        "source_sha256": "5" * 64,
        "faces": (CutFace(0, 10, 10, 99),),
        "skipped": ((1, "no"), (None, "n")),
        "note": "",
        "rule": "largest",
        "several": 0,
    }
    return VideoRecord(**known | values)


@given(st.lists(st.text(max_size=8), max_size=6), st.integers(0, 400))
def test_a_journal_cut_off_anywhere_keeps_what_was_whole(tmp_path_factory, names, cut):
    folder = tmp_path_factory.mktemp("journal")
    with open_journal(folder, {"name": "x"}) as held:
        for number, name in enumerate(names):
            held.append(record(name, several=number))
    path = folder / journal.FILE
    data = path.read_bytes()
    path.write_bytes(data[:cut])
    whole_lines = data[:cut].count(b"\n")
    with open_journal(folder, {"name": "x"}) as held:
        kept = names[: max(whole_lines - 1, 0)]
        assert held.records == {
            name: record(name, several=number) for number, name in enumerate(kept)
        }


def test_a_damaged_line_is_done_again_and_said(tmp_path):
    with open_journal(tmp_path, {"name": "x"}) as held:
        for name in "abc":
            held.append(record(name))
    path = tmp_path / journal.FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2].replace(b"99", b"98"), lines[3]]))
    with open_journal(tmp_path, {"name": "x"}) as held:
        assert (list(held.records), held.damaged) == (["a", "c"], 1)
        assert "1 line of journal.jsonl is damaged" in held.damage()
        held.append(record("b"))
    with open_journal(tmp_path, {"name": "x"}) as held:
        assert set(held.records) == {"a", "b", "c"}
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(LpxError, match=r"journal\.jsonl is damaged"):
        open_journal(tmp_path, {"name": "x"}).__enter__()
    assert path.read_bytes().count(b"\n") == 5


def test_a_video_of_the_same_size_and_time_is_another_video(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old video")
    before, digest = path.stat(), source_sha256(path)
    time.sleep(0.02)
    path.write_bytes(b"new video")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert source_sha256(path) not in (digest, UNREADABLE)
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in ("0.png", "1.png"):
        (folder / name).write_bytes(name.encode())
    digest = source_sha256(folder)
    (folder / "1.png").write_bytes(b"2.png")
    assert source_sha256(folder) not in (digest, UNREADABLE)
    assert source_sha256(tmp_path / "absent") == UNREADABLE


def test_folder_names_say_what_is_in_them():
    assert store.folder_name("ffpp-c23", "square-1.3", 32, "blazeface") == "ffpp-c23-square-1.3-32"
    assert store.folder_name("dfdc", "square-1.3", 8, "centerface").endswith("-8-centerface")
    assert "/" not in store.folder_name("x:../y/z.json", "square-1.3", 8, "blazeface")


def test_a_frame_dump_is_prepared_as_a_video_is(tree):
    (tree / REALS / "000.mp4").unlink()
    folder = tree / "original_sequences" / "youtube" / "c23" / "images" / "000"
    folder.mkdir(parents=True)
    for index in range(4):
        cv2.imwrite(str(folder / f"{index:04d}.png"), scene(portrait(0)[0], index)[..., ::-1])
    done = run(tree, split="train")
    assert (done.faces, done.missing) == (12, ())


def test_the_journal_is_json_lines(whole):
    lines = (whole.folder / journal.FILE).read_text().splitlines()
    head, *videos = map(json.loads, lines)
    assert len(head.pop("checksum")) == 16
    assert head == {
        "format": "lpx-journal/3",
        "name": "ffpp-c23",
        "crop": "square-1.3",
        "frames": 3,
        "detector": "blazeface",
    }
    assert len(videos) == 8
    assert len(lines) == 9
