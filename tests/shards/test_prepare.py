"""Preparing in parts gives the bytes of preparing in one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from lpx import Workspace
from lpx.data.face_sets.manifest import read_face_manifest
from lpx.data.prepare.journal import FILE as JOURNAL
from lpx.errors import LpxError
from lpx.shards import prepare as shards_prepare
from lpx.shards.part import FILE, read_part
from lpx.shards.prepare import CROPS
from lpx.workspace import write_sealed
from tests.data.trees import ffpp_tree
from tests.support.reporting import RecordingReporter, StoppingReporter

SET = "ffpp-c23"
OPTIONS = {"methods": ("Deepfakes",), "frames": 3, "processes": 1, "crop": "square-1.3"}
FOLDER = "ffpp-c23-square-1.3-3"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return ffpp_tree(tmp_path_factory.mktemp("videos") / "ffpp", masks=True)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """Every file of a set that was prepared in one, but its journal, whose order is the work's."""
    base = tmp_path_factory.mktemp("whole")
    work = Workspace(base / "w", data_root=source, face_store=base / "store")
    return contents(work.prepare_faces(SET, **OPTIONS).folder)


@pytest.fixture
def work(source, tmp_path, monkeypatch):
    for name in ("LPX_DATA", "LPX_FACE_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(source, tmp_path / "ffpp")
    return Workspace("w", data_root="ffpp", face_store="store")


def contents(folder):
    files = {}
    for path in Path(folder).rglob("*"):
        inside = path.relative_to(folder).as_posix()
        if path.is_file() and path.name != JOURNAL and not inside.startswith("shards/"):
            files[inside] = path.read_bytes()
    return files


def parts(work, count, out=None):
    folders = []
    for index in range(count):
        place = None if out is None else out / str(index)
        folders.append(
            work.shard(f"{index}/{count}", out=place).prepare_faces(SET, **OPTIONS).folder
        )
    return folders


@pytest.mark.parametrize("count", [1, 2, 7])
def test_shards_give_the_bytes_of_one_run(work, whole, count):
    folders = parts(work, count)
    assert folders[0] == Path("store") / FOLDER / "shards/prepare" / f"0-of-{count}"
    result = work.merge(folders)
    assert contents(result.folder) == whole
    assert result.videos == result.done_now == 8
    assert len(read_face_manifest(result.folder).faces) == result.faces
    # The parts are kept; without them the set is whole all the same.
    shutil.rmtree(result.folder / "shards")
    assert contents(result.folder) == whole


def test_merging_twice_or_after_an_interrupt_changes_nothing(work, whole):
    folders = parts(work, 3)
    with pytest.raises(KeyboardInterrupt):
        work.merge(folders, reporter=StoppingReporter("merging", 2))
    result = work.merge(folders)
    assert contents(result.folder) == whole
    journal = (result.folder / JOURNAL).read_bytes()
    assert contents(work.merge(folders).folder) == whole
    assert (result.folder / JOURNAL).read_bytes() == journal


def test_crops_are_linked_where_that_is_possible_and_copied_elsewhere(work, tmp_path):
    folders = parts(work, 1)
    crop = next(iter(folders[0].rglob("*.png")))
    folder = work.merge(folders).folder
    assert os.path.samefile(crop, folder / crop.relative_to(folders[0]))

    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    shards_prepare.place_crop(crop, tmp_path / "a" / "copy.png", link=refuse)
    assert (tmp_path / "a" / "copy.png").read_bytes() == crop.read_bytes()
    assert not os.path.samefile(crop, tmp_path / "a" / "copy.png")


def test_a_set_grows_by_parts(work, whole):
    """What was prepared before stays, and a local run finds the videos of parts done."""
    train = {**OPTIONS, "split": "train"}
    local = work.prepare_faces(SET, **train)
    folders = []
    for index in range(2):
        part = work.shard(f"{index}/2").prepare_faces(SET, **{**OPTIONS, "split": "test"})
        folders.append(part.folder)
    merged = work.merge(folders)
    assert merged.folder == local.folder
    faces = read_face_manifest(merged.folder)
    assert set(faces.splits()) == {"train", "test"}
    assert work.prepare_faces(SET, **{**OPTIONS, "split": "test"}).done_now == 0


def test_an_interrupted_shard_resumes(work, whole):
    shard = work.shard("0/1")
    with pytest.raises(KeyboardInterrupt):
        shard.prepare_faces(SET, **OPTIONS, reporter=StoppingReporter("preparing", 3))
    folder = Path("store") / FOLDER / "shards/prepare/0-of-1"
    with pytest.raises(LpxError, match="not finished"):
        work.merge(folder)
    reporter = RecordingReporter()
    shard.prepare_faces(SET, **OPTIONS, reporter=reporter)
    assert reporter.steps[0][1] == 3
    assert contents(work.merge(folder).folder) == whole


@pytest.mark.parametrize("change", ["flip", "cut", "remove", "crops", "journal"])
def test_an_altered_part_is_refused_and_repaired(work, whole, change):
    folders = parts(work, 2)
    path = next(iter(sorted(folders[1].rglob("*.png"))))
    if change in ("crops", "journal"):
        path = folders[1] / {"crops": CROPS, "journal": JOURNAL}[change]
    data = bytearray(path.read_bytes())
    if change == "remove":
        path.unlink()
    elif change == "cut":
        path.write_bytes(data[:-5])
    else:
        data[-9] ^= 1
        path.write_bytes(data)
    with pytest.raises(LpxError, match=r"part 1/2 in .* is damaged") as caught:
        work.merge(folders)
    assert caught.value.code == "damaged"
    assert not (Path("store") / FOLDER / "manifest.json").exists()
    work.shard("1/2").prepare_faces(SET, **OPTIONS)
    assert contents(work.merge(folders).folder) == whole


def test_a_damaged_part_costs_the_set_no_crops(work, whole):
    folders = parts(work, 1)
    folder = work.merge(folders).folder
    crop = next(iter(sorted(folders[0].rglob("*.png"))))
    placed = folder / crop.relative_to(folders[0])
    others = sorted(placed.parent.iterdir())
    # Links: both would change.
    placed.unlink()
    crop.unlink()
    with pytest.raises(LpxError, match="are missing or altered"):
        work.merge(folders)
    assert sorted(placed.parent.iterdir()) == [path for path in others if path != placed]


def test_a_crop_that_is_a_link_is_not_followed_into_the_set(work, tmp_path):
    folders = parts(work, 1)
    crop = next(iter(folders[0].rglob("*.png")))
    crop.rename(tmp_path / "elsewhere.png")
    crop.symlink_to(tmp_path / "elsewhere.png")
    folder = work.merge(folders).folder
    placed = folder / crop.relative_to(folders[0])
    assert placed.is_file()
    assert not placed.is_symlink()


def test_a_machine_that_lacks_a_video_is_refused(work):
    one = work.shard("0/2").prepare_faces(SET, **OPTIONS).folder
    next(iter(Path("ffpp").rglob("original*/**/*.mp4"))).unlink()
    other = work.shard("1/2").prepare_faces(SET, **OPTIONS).folder
    with pytest.raises(LpxError, match="do not belong together") as caught:
        work.merge([one, other])
    assert "other videos" in caught.value.why


def reseal(folder, change):
    values = json.loads((folder / FILE).read_text())
    del values["checksum"]
    change(values)
    write_sealed(folder / FILE, values)


def test_parts_that_overlap_are_named(work):
    folders = parts(work, 2)
    taken = read_part(folders[0]).about["videos"]
    reseal(folders[1], lambda values: values["about"].update(videos=taken))
    with pytest.raises(LpxError, match="parts 0/2 and 1/2 overlap") as caught:
        work.merge(folders)
    assert taken[0] in caught.value.why


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v["key"]["versions"].update(lpx="9.9"), "lpx 9.9"),
        (lambda v: v["key"]["settings"].update(name="../x"), "'../x' is unknown"),
        (lambda v: v["key"]["settings"].update(crop="../x"), "'../x' is unknown"),
        (lambda v: v["key"]["settings"].update(detector="/../x"), "'/../x' is unknown"),
        (lambda v: v["key"]["settings"].update(frames=0), "frames is 0"),
        (lambda v: v["key"]["run"].update(notes=[1]), "a text"),
        (lambda v: v["key"].pop("settings"), "missing fields: settings"),
        (lambda v: v["about"].update(videos=["../../x"]), "damaged"),
        (lambda v: v["about"].pop("videos"), "does not name its videos"),
    ],
)
def test_an_edited_part_leads_nowhere(work, change, said):
    (folder,) = parts(work, 1)
    reseal(folder, change)
    with pytest.raises(LpxError, match=said):
        work.merge(folder)
    assert not list(Path().glob("x*"))


def test_a_crashed_video_is_tried_again(work):
    """As a local run does: memory may have run out."""
    from lpx.data.prepare.cutting import crashed
    from lpx.data.prepare.preparing import open_preparation
    from lpx.data.roots import DataPlaces
    from lpx.reporter import SILENT
    from lpx.shards.shard import Shard

    options = {name: value for name, value in OPTIONS.items() if name != "processes"}
    preparation = open_preparation(SET, places=DataPlaces(Path("ffpp"), Path("store")), **options)
    folder = Path("part")

    def crash(settings, videos):
        for video in videos:
            yield crashed(settings, video, "signal 11")

    shards_prepare.prepare_part(folder, Shard(0, 1), preparation, SILENT, cut=crash)
    with pytest.raises(LpxError, match="no face was found"):
        work.merge(folder)
    shards_prepare.prepare_part(folder, Shard(0, 1), preparation, SILENT)
    assert work.merge(folder).faces > 0


def test_faces_that_are_not_merged_yet_are_no_face_set(work):
    from lpx.data.face_sets.sets import open_set

    parts(work, 2)
    with pytest.raises(LpxError, match="no readable manifest") as caught:
        open_set(f"store/{FOLDER}", "all")
    assert "lpx merge" in caught.value.fix


def test_a_video_that_cannot_be_read(work):
    path = next(iter(sorted(Path("ffpp").rglob("manipulated*/**/*.mp4"))))
    path.write_bytes(b"no video")
    whole = contents(work.prepare_faces(SET, **OPTIONS).folder)
    shutil.rmtree("store")
    assert contents(work.merge(parts(work, 2)).folder) == whole
