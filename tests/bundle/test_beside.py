"""A bundle used as a workspace is unpacked once beside itself; nothing of the user's is lost."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

import lpx
from lpx.bundle.beside import has_own_files, workspace_of
from lpx.bundle.manifest import from_bytes
from lpx.errors import LpxError
from lpx.workspace import WorkspaceFolder
from tests.support.reporting import RecordingReporter

FOLDER = Path("detector.lpx.d")


@pytest.fixture
def place(workspace):
    """A new current folder with a bundle, and nothing of its workspace."""
    workspace.pack("detector.lpx")
    Path("lpx-out").rename("packed")
    return Path("detector.lpx")


def pack_again():
    """Write another bundle of the same name: with one engine."""
    lpx.Workspace("packed").pack("detector.lpx", engines="onnxruntime-int8")


def test_it_is_unpacked_once(place):
    work = lpx.Workspace(place)
    assert work.root == FOLDER
    assert work.engine_names() == ("onnxruntime-fp32", "onnxruntime-int8")
    before = (FOLDER / "model.onnx").stat()
    assert lpx.Workspace(str(place)).root == FOLDER
    assert (FOLDER / "model.onnx").stat().st_ino == before.st_ino
    assert [path.name for path in Path().glob("*lpx.d*")] == [FOLDER.name]


def test_results_are_kept_while_the_bundle_is_the_same(place, crops):
    lpx.Workspace(place).predict(crops, detector=None)
    assert lpx.Workspace(place).predictions.joinpath("scores.csv").is_file()


def test_a_new_bundle_takes_the_place_of_the_old(place):
    lpx.Workspace(place)
    pack_again()
    heard = RecordingReporter()
    work = lpx.Workspace(place, reporter=heard)
    assert work.engine_names() == ("onnxruntime-int8",)
    assert heard.said == ["detector.lpx has changed: unpacking it again into detector.lpx.d"]
    # Everything in the old folder came with the old bundle.
    assert [path.name for path in Path().glob("*.d*")] == [FOLDER.name]
    assert list(Path().glob(".detector*")) == []


@pytest.mark.parametrize("own", ["report.json", "engines/mine/manifest.json", "model.onnx"])
def test_what_the_user_made_is_kept_under_a_number(place, own):
    for number in (1, 2):
        lpx.Workspace(place)
        (FOLDER / own).parent.mkdir(exist_ok=True)
        (FOLDER / own).write_text(f"mine {number}")
        if number == 1:
            pack_again()
        else:
            lpx.Workspace("packed").pack("detector.lpx")
        heard = RecordingReporter()
        lpx.Workspace(place, reporter=heard)
        kept = Path(f"detector.lpx.d.{number}")
        assert (kept / own).read_text() == f"mine {number}"
        assert f"are kept in {kept}" in heard.said[-1]
    assert lpx.Workspace(place).engine_names() == ("onnxruntime-fp32", "onnxruntime-int8")


def test_a_file_of_the_same_size_is_found_by_its_digest(place):
    root = lpx.Workspace(place).root
    members = from_bytes((root / "bundle.json").read_bytes()).members
    assert not has_own_files(root, members)
    data = bytearray((root / "scales.json").read_bytes())
    data[-3] ^= 1
    (root / "scales.json").write_bytes(data)
    assert has_own_files(root, members)


def test_what_libraries_cache_is_no_result(place):
    root = lpx.Workspace(place).root
    members = from_bytes((root / "bundle.json").read_bytes()).members
    for name in ("timing-caches/x", "engines/onnxruntime-int8/cache/x", ".lock"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"")
    (root / "engines/onnxruntime-int8/kernels.cache").write_bytes(b"")
    assert not has_own_files(root, members)
    # The same names elsewhere are somebody's.
    (root / "predictions/cache").mkdir(parents=True)
    (root / "predictions/cache/x.png").write_bytes(b"")
    assert has_own_files(root, members)


@pytest.mark.parametrize("leads_to", ["a folder", "a file of the bundle", "nothing"])
def test_a_link_is_somebodys(place, tmp_path, leads_to):
    root = lpx.Workspace(place).root
    members = from_bytes((root / "bundle.json").read_bytes()).members
    link = root / "scales.json"
    target = tmp_path / "elsewhere"
    if leads_to == "a folder":
        link = root / "more"
        target.mkdir()
    elif leads_to == "a file of the bundle":
        link.rename(target)
    else:
        link.unlink()
    link.symlink_to(target)
    assert has_own_files(root, members)
    pack_again()
    assert lpx.Workspace(place).engine_names() == ("onnxruntime-int8",)
    assert Path("detector.lpx.d.1", link.name).is_symlink()


def test_what_is_in_its_place_is_not_touched(place, tree):
    FOLDER.mkdir()
    (FOLDER / "notes.txt").write_text("mine")
    before = tree(".")
    with pytest.raises(LpxError, match="is not the workspace of a bundle") as caught:
        lpx.Workspace(place)
    assert "lpx unpack detector.lpx -w FOLDER" in caught.value.fix
    assert tree(".") == before


def test_a_file_is_in_its_place(place):
    FOLDER.write_text("mine")
    with pytest.raises(LpxError, match=r"cannot be unpacked into detector\.lpx\.d") as caught:
        lpx.Workspace(place)
    assert caught.value.code == "unwritable"
    assert FOLDER.read_text() == "mine"


def test_an_empty_folder_in_its_place_is_used(place):
    FOLDER.mkdir()
    assert lpx.Workspace(place).engine_names()


def test_a_name_that_leaves_no_room_for_the_folder(place):
    # File systems take 255 bytes: the bundle is there, and its folder cannot be.
    long = place.rename("a" * 250 + ".lpx")
    with pytest.raises(LpxError) as caught:
        lpx.Workspace(long)
    assert caught.value.code == "unwritable"
    assert caught.value.why.endswith("File name too long")
    assert f"lpx unpack {long} -w FOLDER" in caught.value.fix


def test_a_read_only_place_serves_what_was_unpacked_there(place):
    lpx.Workspace(place)
    os.chmod(".", 0o555)
    try:
        assert lpx.Workspace(place).engine_names()
    finally:
        os.chmod(".", 0o755)


def test_a_damaged_new_bundle_leaves_the_old_workspace(place, tree):
    lpx.Workspace(place)
    pack_again()
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)
    before = tree(FOLDER)
    with pytest.raises(LpxError) as caught:
        lpx.Workspace(place)
    assert caught.value.code == "damaged"
    assert tree(FOLDER) == before
    assert list(Path().glob(".detector*")) == []


def test_a_workspace_in_use_is_not_replaced(place):
    work = lpx.Workspace(place)
    pack_again()
    with work.lock(), pytest.raises(LpxError) as caught:
        lpx.Workspace(place)
    assert caught.value.code == "in-use"


@pytest.mark.parametrize("left", ["a half", "the old one"])
def test_a_call_that_was_killed_lost_nothing(place, left):
    lpx.Workspace(place)
    staging = Path(".detector.lpx.d.new")
    if left == "a half":
        staging.mkdir()
    else:
        # After the exchange: the new folder is in its place, the user's is not put aside yet.
        shutil.copytree(FOLDER, staging)
        (staging / "report.json").write_text("mine")
    pack_again()
    assert lpx.Workspace(place).engine_names() == ("onnxruntime-int8",)
    assert not staging.exists()
    if left == "the old one":
        assert Path("detector.lpx.d.1/report.json").read_text() == "mine"


def test_two_at_once(place):
    errors = []

    def unpack():
        try:
            workspace_of(place)
        except LpxError as error:
            errors.append(error)

    threads = [threading.Thread(target=unpack) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert lpx.Workspace(place).engine_names()
    assert list(Path().glob(".detector*")) == []


def test_what_is_no_bundle_is_refused(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(b"not a bundle")
    with pytest.raises(LpxError, match="is a file, and not a bundle") as caught:
        lpx.Workspace(path)
    assert caught.value.code == "damaged"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_never_unpacked(place):
    assert WorkspaceFolder(place).root == place
    assert lpx.Workspace("packed").root == Path("packed")
    # What does not exist is a workspace to be.
    assert lpx.Workspace("new.lpx").root == Path("new.lpx")
