"""What the one walk finds, and that it says what it leaves out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lpx.data.images.decode import SUFFIXES
from lpx.data.walk import note_of, walk
from tests.data.trees import touch

PNG = {".png"}


def left_out(walked):
    return {one.what: (one.count, one.names) for one in walked.left_out}


def test_links_to_folders_are_followed_and_named_by_the_link(tmp_path):
    touch(tmp_path / "elsewhere", "Deepfakes/0.png", "Deepfakes/deep/1.PNG")
    touch(tmp_path / "set", "fake/FaceSwap/0.png", "real/0.png")
    (tmp_path / "set/fake/Deepfakes").symlink_to("../../elsewhere/Deepfakes")
    walked = walk(tmp_path / "set", PNG)
    assert walked.files == (
        "fake/Deepfakes/0.png",
        "fake/Deepfakes/deep/1.PNG",
        "fake/FaceSwap/0.png",
        "real/0.png",
    )
    assert walked.left_out == ()


def test_a_folder_itself_may_be_a_link(tmp_path):
    touch(tmp_path / "disk", "real/0.png", "fake/0.png")
    (tmp_path / "set").mkdir()
    for name in ("real", "fake"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "link").symlink_to("set")
    for only in (None, ("real", "fake")):
        assert walk(tmp_path / "link", PNG, only=only).files == ("fake/0.png", "real/0.png")


def test_no_link_leads_back_up_or_to_the_other_class(tmp_path):
    touch(tmp_path, "set/real/0.png", "set/fake/0.png", "secret.png")
    real, fake = tmp_path / "set/real", tmp_path / "set/fake"
    (real / "parent").symlink_to(tmp_path / "set")
    (real / "above").symlink_to(tmp_path)
    (real / "root").symlink_to("/")
    (real / "self").symlink_to(real)
    # Whatever the order of names, a folder that is really there comes before a link to it.
    (fake / "a-link").symlink_to(real)
    (real / "z-link").symlink_to(fake)
    walked = walk(tmp_path / "set", PNG)
    assert walked.files == ("fake/0.png", "real/0.png")
    assert left_out(walked) == {
        "links to folders above them": (
            4,
            ("real/above", "real/parent", "real/root"),
        ),
        "folders that were searched under other names": (2, ("fake/a-link", "real/z-link")),
    }


def test_links_that_lead_in_circles_end(tmp_path):
    touch(tmp_path, "set/0.png", "disk/1.png", "disk/inner/2.png")
    (tmp_path / "set/disk").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/inner/up").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/back").symlink_to(tmp_path / "set")
    (tmp_path / "set/loop").symlink_to("loop")
    walked = walk(tmp_path / "set", PNG)
    assert walked.files == ("0.png", "disk/1.png", "disk/inner/2.png")
    assert left_out(walked) == {
        "broken link": (1, ("loop",)),
        "links to folders above them": (2, ("disk/back", "disk/inner/up")),
    }


def test_the_same_folder_behind_two_links_counts_once(tmp_path):
    touch(tmp_path, "disk/0.png")
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "disk")
    walked = walk(tmp_path / "set", PNG)
    assert walked.files == ("a/0.png",)
    assert left_out(walked) == {"folder that was searched under another name": (1, ("b",))}


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".git/objects", ".Trash-1000/files"])
def test_hidden_folders_are_named_and_not_searched(tmp_path, name):
    touch(tmp_path, f"real/{name}/0.png", "real/0.png")
    walked = walk(tmp_path, PNG)
    assert walked.files == ("real/0.png",)
    assert left_out(walked) == {"hidden folder": (1, (f"real/{name.split('/')[0]}",))}


@pytest.mark.parametrize("name", ["@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "__pycache__"])
def test_what_systems_leave_behind_is_named_and_not_searched(tmp_path, name):
    touch(tmp_path, f"{name}/a/0.png", "0.png")
    walked = walk(tmp_path, PNG)
    assert walked.files == ("0.png",)
    assert left_out(walked) == {"system folder": (1, (name,))}


def test_a_hidden_folder_that_is_named_itself_is_searched(tmp_path):
    touch(tmp_path, ".cache/faces/0.png")
    assert walk(tmp_path / ".cache", PNG).files == ("faces/0.png",)


def test_files_of_other_kinds_are_counted_by_what_they_end_in(tmp_path):
    touch(tmp_path, "a.png", "._a.png", "Thumbs.db", ".DS_Store", "desktop.ini", "notes.txt")
    touch(tmp_path, *(f"heic/{i}.HEIC" for i in range(5)), "e", "x.npy", "list.csv")
    (tmp_path / "gone").symlink_to("nowhere")
    walked = walk(tmp_path, PNG)
    assert walked.files == ("a.png",)
    assert left_out(walked) == {
        "hidden file": (1, ("._a.png",)),
        "file without a suffix": (1, ("e",)),
        "broken link": (1, ("gone",)),
        "file ending in .npy": (1, ("x.npy",)),
        "files ending in .heic": (5, ("heic/0.HEIC", "heic/1.HEIC", "heic/2.HEIC")),
    }
    assert "5 files ending in .heic (heic/0.HEIC, heic/1.HEIC, heic/2.HEIC and 2 more)" in note_of(
        walked.left_out
    )


def test_many_kinds_of_files_make_a_short_note(tmp_path):
    touch(tmp_path, *(f"{i}.x{i}" for i in range(40)), "0.heic", "1.heic")
    found = left_out(walk(tmp_path, PNG))
    assert len(found) == 7
    assert found["files ending in .heic"][0] == 2
    assert found["files with other suffixes"][0] == 35


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    touch(tmp_path, "open/0.png", "shut/0.png")

    # As a folder of mode 000 answers, which it does not to root.
    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return os.scandir(path)

    walked = walk(tmp_path, PNG, scan=refuse)
    assert walked.files == ("open/0.png",)
    assert left_out(walked) == {"folder that cannot be read": (1, ("shut",))}


def test_skipped_folders_are_not_even_mentioned(tmp_path):
    touch(tmp_path, "lpx-out/maps/0.png", "a/0.png")
    (tmp_path / "link").symlink_to("lpx-out")
    walked = walk(tmp_path, PNG, skip=(tmp_path / "lpx-out", tmp_path / "not there"))
    assert (walked.files, walked.left_out) == (("a/0.png",), ())


def test_files_come_before_folders_and_in_order_of_names(tmp_path):
    names = ["b.png", "a/z.png", "a/b/c.png", "a-b/x.png", "a.png"]
    touch(tmp_path, *names)
    assert walk(tmp_path, PNG).files == ("a.png", "b.png", "a/z.png", "a/b/c.png", "a-b/x.png")


def test_names_in_another_encoding_can_be_printed(tmp_path):
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.heic")).touch()
    (one,) = walk(tmp_path, SUFFIXES).left_out
    assert one.names == (r"\xff.heic",)
    str(one).encode()
