"""Calibration in parts gives the bytes of a calibration in one."""

from __future__ import annotations

import json
import shutil

import pytest

from lpx import Workspace
from lpx.errors import InvalidArgumentError, LpxError
from lpx.shards.part import FILE, read_part
from lpx.workspace import write_sealed
from tests.support.reporting import RecordingReporter, StoppingReporter

# Faces of the demo set, and of the smaller one that most tests use as it is faster.
LIMIT, FEW = 20, 12
FILES = ("scales.json", "calibration-faces.json")


def written(work):
    return {name: (work.root / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def whole(built, tmp_path_factory):
    """What an undivided calibration writes."""
    work = Workspace(tmp_path_factory.mktemp("whole") / "w")
    shutil.copytree(built.root, work.root)
    work.calibrate("demo", limit=LIMIT)
    return written(work)


def parts(work, count, faces="demo", limit=LIMIT):
    folders = []
    for index in range(count):
        part = work.shard(f"{index}/{count}").calibrate(faces, limit=limit)
        folders.append(part.folder)
    return folders


@pytest.fixture
def few(workspace, crops):
    """What an undivided calibration on some of the crops writes."""
    workspace.calibrate(crops, limit=FEW)
    found = written(workspace)
    unsettled(workspace)
    return found


def unsettled(work):
    """Remove what an earlier calibration wrote."""
    for name in FILES:
        (work.root / name).unlink(missing_ok=True)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_shards_give_the_bytes_of_one_calibration(workspace, whole, count):
    unsettled(workspace)
    folders = parts(workspace, count)
    assert not workspace.scales.exists()
    # In any order, from anywhere.
    result = workspace.merge(reversed(folders))
    assert written(workspace) == whole
    assert result.scales.faces.count == LIMIT
    assert result.seconds > 0


def test_times_are_not_in_the_file(whole):
    assert not {"seconds", "pass_seconds"} & json.loads(whole["scales.json"]).keys()


def test_a_shard_locks_nothing_and_writes_its_part_only(workspace, tree):
    before = tree(workspace.root)
    with workspace.lock():
        part = workspace.shard("1/2").calibrate("demo", limit=LIMIT)
    assert part.folder == workspace.root / "shards/calibrate/1-of-2"
    after = tree(workspace.root)
    new = {name for name in after if name not in before}
    assert all(name.startswith("shards") for name in new)
    assert {name: after[name] for name in before} == before


def test_an_interrupted_shard_is_refused_and_finished(workspace, crops, few):
    shard = workspace.shard("0/1")
    with pytest.raises(KeyboardInterrupt):
        shard.calibrate(crops, limit=FEW, reporter=StoppingReporter("calibrating", FEW))
    folder = workspace.root / "shards/calibrate/0-of-1"
    assert not read_part(folder).complete
    with pytest.raises(LpxError, match=r"part 0/1 in .* is not finished") as caught:
        workspace.merge(folder)
    assert "--shard 0/1" in caught.value.fix
    shard.calibrate(crops, limit=FEW)
    assert not list(folder.glob("progress*"))
    workspace.merge(folder)
    assert written(workspace) == few


def test_a_finished_shard_is_left_as_it_is(workspace, crops, tree):
    (folder,) = parts(workspace, 1, crops, FEW)
    before = tree(folder)
    reporter = RecordingReporter()
    workspace.shard("0/1").calibrate(crops, limit=FEW, reporter=reporter)
    assert any("nothing to do" in text for text in reporter.said)
    assert tree(folder) == before


@pytest.mark.parametrize("name", ["observed.npz", "contents.sha256"])
def test_an_altered_part_is_refused_and_repaired(workspace, crops, few, name):
    folders = parts(workspace, 2, crops, FEW)
    path = folders[1] / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(LpxError, match=r"part 1/2 in .* is damaged") as caught:
        workspace.merge(folders)
    assert caught.value.code == "damaged"
    reporter = RecordingReporter()
    workspace.shard("1/2").calibrate(crops, limit=FEW, reporter=reporter)
    assert any("made again" in text for text in reporter.said)
    workspace.merge(folders)
    assert written(workspace) == few


def test_another_model_is_refused(workspace, crops):
    (folder,) = parts(workspace, 1, crops, FEW)
    values = json.loads((folder / FILE).read_text())
    values["key"]["model"] = "0" * 64
    del values["checksum"]
    write_sealed(folder / FILE, values)
    with pytest.raises(LpxError, match="not of this workspace") as caught:
        workspace.merge(folder)
    assert "another model" in caught.value.why


def test_other_options_are_refused(workspace, crops):
    one = workspace.shard("0/2").calibrate(crops, limit=FEW)
    other = workspace.shard("1/2").calibrate(crops, limit=FEW, seed=1)
    with pytest.raises(LpxError, match="do not belong together") as caught:
        workspace.merge([one.folder, other.folder])
    assert "seed 1, not 0" in caught.value.why
    # The place of a part of another run is not taken.
    with pytest.raises(LpxError, match="holds another part") as caught:
        workspace.shard("0/2").calibrate(crops, limit=8)
    assert "limit 12, not 8" in caught.value.why
    assert "`out`" in caught.value.fix


def test_faces_with_other_files_are_refused(workspace, crops):
    part = workspace.shard("0/1").calibrate(crops, limit=6)
    for path in crops.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(LpxError, match=r"part 0/1 in .* saw other faces") as caught:
        workspace.merge(part.folder)
    assert "the first is" in caught.value.why


def test_a_finished_shard_whose_faces_changed_is_done_again(workspace, crops):
    """It would say that there is nothing to do, and every merge would refuse its part."""
    part = workspace.shard("0/1").calibrate(crops, limit=FEW)
    for path in crops.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"\0")
    reporter = RecordingReporter()
    workspace.shard("0/1").calibrate(crops, limit=FEW, reporter=reporter)
    assert not any("nothing to do" in text for text in reporter.said)
    assert any("files of its faces have changed" in text for text in reporter.said)
    assert workspace.merge(part.folder).scales.faces.count == FEW


def test_faces_may_have_another_place(workspace, crops, tmp_path):
    part = workspace.shard("0/1", out=tmp_path / "part").calibrate(crops, limit=6)
    moved = crops.rename(tmp_path / "moved")
    with pytest.raises(LpxError) as caught:
        workspace.merge(part.folder)
    assert caught.value.code == "not-found"
    assert workspace.merge(part.folder, faces=moved).scales.faces.count == 6


def test_unreadable_faces_of_a_whole_shard(workspace, crops):
    """A shard without a readable face is no error; a whole without one is."""
    for path in sorted(crops.rglob("*.png")):
        path.write_bytes(b"no picture")
    folders = []
    for index in range(2):
        folders.append(workspace.shard(f"{index}/2").calibrate(crops, limit=12).folder)
    with pytest.raises(LpxError, match="can be read"):
        workspace.merge(folders)


def test_coverage_is_refused(workspace):
    with pytest.raises(InvalidArgumentError, match='must be "stratified" or "random"') as caught:
        workspace.shard("0/2").calibrate("demo", select="coverage")
    assert caught.value.argument == "select"
