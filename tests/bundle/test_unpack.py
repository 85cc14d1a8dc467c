"""Bundles that were damaged or made to do harm: refused, named, and nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

import lpx
from lpx.bundle import unpack as unpack_module
from lpx.bundle.manifest import FILE
from lpx.errors import InvalidArgumentError, LpxError
from lpx.reporter import Silent
from tests.support.bundles import (
    boundaries,
    change_manifest,
    listed,
    read_members,
    write_members,
)


@pytest.fixture(scope="session")
def little(built, small_faces, tmp_path_factory):
    """A bundle of one engine and two faces, with small contents: quick to damage in many ways."""
    folder = tmp_path_factory.mktemp("little")
    shutil.copytree(built.root, folder / "lpx-out")
    lpx.Workspace(folder / "lpx-out").pack(
        folder / "little.lpx", faces=small_faces, limit=2, engines="onnxruntime-int8"
    )
    return folder / "little.lpx"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A new current folder, which must be as empty afterwards where a bundle is refused."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(bundle, *, code="damaged", folder="board"):
    """Unpack, which must fail, and leave nothing."""
    before = sorted(os.listdir("."))
    with pytest.raises(LpxError) as caught:
        lpx.unpack(bundle, folder)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.fix
    assert sorted(os.listdir(".")) == before
    return str(caught.value)


def test_a_bundle_comes_back(bundle, here):
    result = lpx.unpack(bundle, "a/new/board")
    members = dict(read_members(bundle))
    files = {
        path.relative_to(result.folder).as_posix(): path
        for path in result.folder.rglob("*")
        if path.is_file()
    }
    assert files.keys() == members.keys() - {"FORMAT"}
    for name, path in files.items():
        assert path.read_bytes() == members[name]
    assert result.faces == Path("a/new/board/faces")
    assert result.manifest.engines == ("onnxruntime-fp32", "onnxruntime-int8")
    assert os.listdir("a/new") == ["board"]


def test_files_and_folders_are_as_anybody_else_would_make_them(bundle, here):
    before = os.umask(0o027)
    try:
        lpx.unpack(bundle, "board")
    finally:
        os.umask(before)
    for path in [Path("board"), *Path("board").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o750 if path.is_dir() else 0o640), path


def test_an_empty_folder_is_taken_and_a_full_one_is_not(bundle, here):
    Path("board").mkdir()
    lpx.unpack(bundle, "board")
    assert "is not empty" in refuse(bundle, code="unwritable")
    Path("file").write_bytes(b"")
    refuse(bundle, code="unwritable", folder="file")
    refuse(bundle, code="unwritable", folder="file/below")


def test_the_current_folder_is_not_replaced(bundle, here):
    assert "current folder" in refuse(bundle, code="unwritable", folder=".")


def test_a_link_to_an_empty_folder_is_followed(bundle, here):
    Path("disk").mkdir()
    Path("board").symlink_to("disk")
    lpx.unpack(bundle, "board")
    assert Path("disk/model.onnx").is_file()


def test_a_folder_that_was_filled_meanwhile_is_kept(bundle, here):
    class Filling(Silent):
        def progress(self, label):
            Path("board").mkdir()
            Path("board/mine").write_bytes(b"mine")
            return super().progress(label)

    with pytest.raises(LpxError) as caught:
        lpx.unpack(bundle, "board", reporter=Filling())
    assert caught.value.code == "unwritable"
    assert os.listdir(".") == ["board"]
    assert os.listdir("board") == ["mine"]


def test_a_full_disk_is_noticed_before_anything_is_written(bundle, here, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(unpack_module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert "1000 are free" in refuse(bundle, code="unwritable")


def test_an_interrupted_run_leaves_nothing(bundle, here):
    class Interrupting(Silent):
        def progress(self, label):
            def step(done, total):
                if done > 3:
                    raise KeyboardInterrupt

            return step

    with pytest.raises(KeyboardInterrupt):
        lpx.unpack(bundle, "board", reporter=Interrupting())
    assert os.listdir(".") == []


def test_no_such_bundle(here):
    assert "does not exist" in refuse("none.lpx", code="not-found")
    Path("folder").mkdir()
    refuse("folder")
    os.mkfifo("pipe")
    refuse("pipe")


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\3\4", b"hello" * 100, bytes(5000)])
def test_what_is_no_bundle(here, data):
    Path("x.lpx").write_bytes(data)
    assert "not a bundle" in refuse("x.lpx")


def test_a_zip_of_someone_else(here):
    with zipfile.ZipFile("x.lpx", "w") as archive:
        archive.writestr("model.onnx", b"model")
    assert "not a bundle" in refuse("x.lpx")


# Damage.


def test_each_region_with_a_flipped_bit(little, here):
    """Header, name, start, middle and end of each member, and of the directory."""
    data = bytearray(little.read_bytes())
    parts = boundaries(bytes(data))
    places = [(FILE, place) for place in range(parts[-1][2], len(data), 23)]
    for name, start, end in parts:
        content = start + 30 + len(name.encode())
        middle = (content + end) // 2
        places += [(name, p) for p in (start, start + 14, start + 30, content, middle, end - 1)]
    for name, place in places:
        data[place] ^= 0x10
        Path("x.lpx").write_bytes(data)
        data[place] ^= 0x10
        message = refuse("x.lpx")
        if place < parts[-1][2]:
            assert name in message, (name, place)


def test_cut_at_each_boundary(little, here):
    data = little.read_bytes()
    for name, start, end in boundaries(data):
        for length in (start + 31 + len(name.encode()), end - 1, end):
            Path("x.lpx").write_bytes(data[:length])
            message = refuse("x.lpx")
            if name != "FORMAT":
                assert name in message, (name, length)
                assert "cut off" in message
    for length in range(end, len(data), 97):
        Path("x.lpx").write_bytes(data[:length])
        refuse("x.lpx")


def test_bytes_behind_it(little, here):
    Path("x.lpx").write_bytes(little.read_bytes() + b"more")
    refuse("x.lpx")


def test_two_members_swapped(little, here):
    members = read_members(little)
    faces = [n for n, (name, _) in enumerate(members) if name.endswith(".png")][:2]
    one, other = faces
    content = list(members)
    content[one] = (members[one][0], members[other][1])
    content[other] = (members[other][0], members[one][1])
    message = refuse(write_members(Path("x.lpx"), content))
    assert members[one][0] in message
    order = list(members)
    order[one], order[other] = members[other], members[one]
    assert "order of names" in refuse(write_members(Path("x.lpx"), order))


def test_two_members_of_one_size_swapped(little, here):
    members = read_members(little)
    content = [(n, b"\1" * len(d) if n == "scales.json" else d) for n, d in members]
    message = refuse(write_members(Path("x.lpx"), content))
    assert "scales.json" in message
    assert "SHA-256" in message


def test_an_altered_member(little, here):
    members = [(n, d + b"\0" if n == "model.onnx" else d) for n, d in read_members(little)]
    message = refuse(write_members(Path("x.lpx"), members))
    assert "model.onnx" in message


@pytest.mark.parametrize("name", ["faces/zzz.png", "engines/evil/engine.onnx", "aaa"])
def test_an_extra_member(little, here, name):
    members = read_members(little)
    inner = sorted([*members[1:-1], (name, b"extra")])
    path = write_members(Path("x.lpx"), [members[0], *inner, members[-1]])
    message = refuse(path)
    assert name in message
    assert "does not list it" in message


@pytest.mark.parametrize("name", ["model.onnx", "faces/faces.csv", "bundle.json", "FORMAT"])
def test_a_missing_member(little, here, name):
    members = [member for member in read_members(little) if member[0] != name]
    assert name in refuse(write_members(Path("x.lpx"), members))


def test_a_member_twice(little, here):
    members = read_members(little)
    twice = [members[0], members[1], *members[1:]]
    assert "same name" in refuse(write_members(Path("x.lpx"), twice))


# Harm.


def with_member(little, name, data=b"harm"):
    """A bundle whose manifest lists another member: only its name is wrong."""
    members = read_members(little)
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    changed = change_manifest(members, members={**listed(members), name: entry})
    inner = sorted([*changed[1:-1], (name, data)], key=lambda member: member[0].encode())
    return write_members(Path("x.lpx"), [changed[0], *inner, changed[-1]])


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "faces/../../x",
        "/x",
        "/tmp/x",
        "C:\\x",
        "C:x",
        "\\\\server\\x",
        "faces\\x",
        "faces/..",
        "faces//x",
        "faces/./x",
        "faces/con",
        "faces/x\x1b[2J",
        "faces/x\u202e",
        "faces/.hidden",
        "faces/x.",
        "faces/a:b",
    ],
)
def test_a_name_that_leaves_the_folder_or_means_something_else_elsewhere(little, here, name):
    outside = here.parent / "x"
    message = refuse(with_member(little, name))
    assert "its name" in message
    assert message.isprintable() or "\x1b" not in message
    assert not outside.exists()
    assert not Path("/tmp/x").exists()


@pytest.mark.parametrize("name", ["lpx.toml", ".lock", "notes/x", "timing-caches/x", "faces"])
def test_a_file_that_lpx_does_not_put_there(little, here, name):
    assert name in refuse(with_member(little, name))


def test_a_name_that_differs_in_case_only(little, here):
    name = next(name for name, _ in read_members(little) if name.startswith("faces/real"))
    assert "case only" in refuse(with_member(little, name.replace("real", "REAL")))


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o060666, 0o010644, 0o040755])
def test_links_and_devices(little, here, mode):
    with zipfile.ZipFile("x.lpx", "w") as archive:
        for name, data in read_members(little):
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode if name == "model.json" else 0o100644) << 16
            archive.writestr(info, b"/etc/passwd" if name == "model.json" else data)
    message = refuse("x.lpx")
    assert "model.json" in message
    assert "links and devices are refused" in message


def test_a_compressed_member(little, here):
    """What could grow without end is not read at all."""
    with zipfile.ZipFile("x.lpx", "w") as archive:
        for name, data in read_members(little):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o100644 << 16
            if name == "model.onnx":
                info.compress_type = zipfile.ZIP_DEFLATED
                data = bytes(100 << 20)
            archive.writestr(info, data)
    assert "model.onnx" in refuse("x.lpx")


@pytest.mark.parametrize("size", [0, 1, 1 << 31, -1, (1 << 32) - 1, 1 << 62, "4", None])
def test_a_manifest_that_lies_about_a_size(little, here, size):
    members = read_members(little)
    entries = listed(members)
    entries["model.json"]["size"] = size
    message = refuse(write_members(Path("x.lpx"), change_manifest(members, members=entries)))
    assert "model.json" in message


def test_a_manifest_whose_members_are_too_large_together(little, here):
    members = read_members(little)
    entry = {"size": (4 << 30) - 2, "sha256": "0" * 64}
    entries = {f"faces/{number}.png": entry for number in range(65)}
    changed = change_manifest(members, members={**listed(members), **entries})
    message = refuse(write_members(Path("x.lpx"), changed))
    assert "bytes together" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"model_sha256": "0" * 64},
        {"engines": ["other"]},
        {"engines": []},
        {"engines": "onnxruntime-int8"},
        {"faces": None},
        {"lpx": 1},
        {"members": {}},
        {"members": []},
        {"unknown": True},
        {"format": "lpx-bundle/2"},
        {"format": None},
    ],
)
def test_a_manifest_that_contradicts_itself(little, here, changes):
    members = change_manifest(read_members(little), **changes)
    assert FILE in refuse(write_members(Path("x.lpx"), members))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"a": NaN}', b"[" * 10_000])
def test_a_manifest_that_is_none(little, here, data):
    members = [(n, data if n == FILE else d) for n, d in read_members(little)]
    assert FILE in refuse(write_members(Path("x.lpx"), members))


def test_a_manifest_that_was_changed_by_hand(little, here):
    members = read_members(little)
    values = json.loads(dict(members)[FILE])
    values["lpx"] = "9.9.9"
    changed = [(n, json.dumps(values).encode() if n == FILE else d) for n, d in members]
    assert "checksum" in refuse(write_members(Path("x.lpx"), changed))


# Other versions.


@pytest.mark.parametrize("tag", [b"lpx-bundle/2\n", b"lpx-bundle/12", b"lpx-bundle/0\n"])
def test_a_bundle_of_another_version(little, here, tag):
    members = [(n, tag if n == "FORMAT" else d) for n, d in read_members(little)]
    message = refuse(write_members(Path("x.lpx"), members), code="unsupported")
    assert "FORMAT" in message
    assert "update lpx" in message


def test_a_newer_bundle_may_be_anything_behind_its_first_member(here):
    with zipfile.ZipFile("x.lpx", "w") as archive:
        archive.writestr("FORMAT", "lpx-bundle/2\n")
        archive.writestr("model", b"x" * 1000, zipfile.ZIP_DEFLATED)
    Path("x.lpx").write_bytes(Path("x.lpx").read_bytes()[:-10])
    refuse("x.lpx", code="unsupported")


@pytest.mark.parametrize("tag", [b"lpx-bundle/1", b"lpx-bundle/1 ", b"lpx", b"", b"x" * 100])
def test_a_tag_that_is_none(little, here, tag):
    members = [(n, tag if n == "FORMAT" else d) for n, d in read_members(little)]
    refuse(write_members(Path("x.lpx"), members))


@pytest.mark.parametrize("path", [None, 3, "", "a\0b"])
def test_arguments_that_are_no_paths(little, here, path):
    for arguments in ((path, "board"), (little, path)):
        with pytest.raises(InvalidArgumentError):
            lpx.unpack(*arguments)
    assert os.listdir(".") == []
