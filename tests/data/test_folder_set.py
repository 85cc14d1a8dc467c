from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lpx.data.demo_set import folder as demo_folder
from lpx.data.folder_set import folder_set
from lpx.data.sets import open_set
from lpx.errors import LpxError


@pytest.fixture
def crops(tmp_path):
    """Files of one byte each: listing a folder looks into none."""
    for name in ("real/a.png", "real/b.JPG", "fake/swap/c.png", "fake/d.webp", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def listed(faces):
    return [(f.name, f.label, f.method) for f in faces.faces]


def with_csv(folder, text, encoding="utf-8"):
    (folder / "faces.csv").write_bytes(text.encode(encoding))
    return folder_set(folder)


def test_real_and_fake(crops):
    faces = folder_set(crops)
    assert listed(faces) == [
        ("fake/d.webp", 1, "fake"),
        ("fake/swap/c.png", 1, "swap"),
        ("real/a.png", 0, "real"),
        ("real/b.JPG", 0, "real"),
    ]
    assert faces.faces[0].video == "fake/d.webp"
    assert faces.faces[0].identities == ()
    assert (faces.name, faces.split, faces.note) == (f"folder:{crops}", "all", "")


def test_without_real_and_fake_there_are_no_labels(crops):
    assert listed(folder_set(crops / "fake")) == [
        ("d.webp", None, "unknown"),
        ("swap/c.png", None, "unknown"),
    ]


def test_symlink_loops_end(crops):
    (crops / "real/up").symlink_to(crops, target_is_directory=True)
    (crops / "real/self.png").symlink_to("self.png")
    faces = folder_set(crops)
    assert [f.name for f in faces.faces if f.label == 0] == [
        "real/a.png", "real/b.JPG", "real/self.png",
    ]  # fmt: skip
    skipped = []
    assert list(faces.stream(8, 16, skipped)) == []
    assert "symbolic links" in next(s.reason for s in skipped if s.name == "real/self.png")


def test_skipped_folders(crops):
    assert len(folder_set(crops, skip=(crops / "fake/swap",)).faces) == 3


@pytest.mark.parametrize("where", ["absent", "notes.txt", "empty"])
def test_nothing_to_find(crops, where):
    (crops / "empty").mkdir()
    with pytest.raises(LpxError, match=where):
        folder_set(crops / where)


@pytest.mark.parametrize("labels", [("0", "1"), ("real", "fake"), ("REAL", "Fake")])
def test_labels(crops, labels):
    faces = with_csv(crops, f"file,label\nreal/a.png,{labels[0]}\nfake/d.webp,{labels[1]}\n")
    assert listed(faces) == [("real/a.png", 0, "real"), ("fake/d.webp", 1, "fake")]
    assert faces.note == ""


def test_every_column(crops):
    faces = with_csv(
        crops,
        "method,file,identity,video,split,label,remark\n"
        'real,real/a.png,ann,v1,train,,"one, two"\n'
        "FaceSwap,fake/swap/c.png,ann; bob,v2,test,fake\n"
        ",real/b.JPG,,,,,\n\n",
    )
    assert listed(faces) == [
        ("real/a.png", 0, "real"),
        ("fake/swap/c.png", 1, "FaceSwap"),
        ("real/b.JPG", None, "unknown"),
    ]
    assert [f.identities for f in faces.faces] == [("ann",), ("ann", "bob"), ()]
    assert [f.video for f in faces.faces] == ["v1", "v2", "real/b.JPG"]
    assert faces.splits() == ("train", "test", "")


def test_as_windows_writes_it(crops):
    """A byte-order mark, CRLF, backslashes, and names beyond ASCII."""
    (crops / "real/Zoë é.png").write_bytes(b"x")
    text = "File,Label\r\nreal\\Zoë é.png,real\r\n.\\fake\\swap\\c.png,1\r\n"
    faces = with_csv(crops, text, "utf-8-sig")
    assert listed(faces) == [("real/Zoë é.png", 0, "real"), ("fake/swap/c.png", 1, "fake")]
    assert all(f.source.path.is_file() for f in faces.faces)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../secret.png", "real/../../x.png", "..\\x.png", "C:\\x.png", "c:x.png",
     "\\\\server\\x.png", "", ".", "real/.."],
)  # fmt: skip
def test_file_that_leaves_the_folder_is_refused(crops, name):
    with pytest.raises(LpxError) as caught:
        with_csv(crops, f"file,label\nreal/a.png,0\n{name},1\n")
    assert "faces.csv line 3" in caught.value.what
    assert repr(name) in caught.value.what


def test_missing_files_are_counted_and_named(crops):
    names = "".join(f"gone{i}.png,1\n" for i in range(5))
    faces = with_csv(crops, f"file,label\nreal/a.png,0\n{names}")
    assert listed(faces) == [("real/a.png", 0, "real")]
    assert faces.note == (
        "5 of 6 files that faces.csv lists do not exist and are left out: gone0.png, gone1.png, "
        "gone2.png and 2 more."
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\ngone.png,1\n", "lists no file that exists"),
        ("file,label\n", "lists no faces"),
        ("path,label\nreal/a.png,1\n", "has no column file"),
        ("file,label\nreal/a.png,2\n", "line 2 has the label '2'"),
        ("file,label,method\nreal/a.png,0,swap\n", "the label '0' and the method 'swap'"),
        ("file,label,method\nreal/a.png,fake,real\n", "the label 'fake' and the method 'real'"),
        ("file,label\nreal/a.png,1\nreal\\a.png,0\n", "line 3 names real/a.png again"),
    ],
)
def test_csv_that_is_wrong(crops, text, said):
    with pytest.raises(LpxError) as caught:
        with_csv(crops, text)
    assert said in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize("data", [b"file,label\n\xff\xfe.png,1\n", "file,label\n".encode("utf-16")])
def test_csv_in_another_encoding(crops, data):
    (crops / "faces.csv").write_bytes(data)
    with pytest.raises(LpxError, match=r"faces\.csv cannot be read"):
        folder_set(crops)


def test_csv_of_landmarked_faces_labels_nothing(tmp_path):
    """The format that training reads, as the demo folder has it: images are found as ever."""
    shutil.copytree(demo_folder(), tmp_path / "demo")
    faces = folder_set(tmp_path / "demo")
    assert listed(faces) == [
        (name, None, "unknown") for name in ("biden.png", "collins.png", "obama_2012.png")
    ]


def test_splits_of_a_csv_are_those_that_are_asked_for(crops):
    (crops / "faces.csv").write_text(
        "file,label,split\nreal/a.png,0,train\nfake/d.webp,1,test\nreal/b.JPG,0,test\n"
    )
    for name in (str(crops), f"folder:{crops}"):
        assert [f.name for f in open_set(name, "test").faces] == ["fake/d.webp", "real/b.JPG"]
        assert [f.name for f in open_set(name, "train").faces] == ["real/a.png"]
        assert len(open_set(name, "all").faces) == 3
    with pytest.raises(LpxError, match="has no split 'val'"):
        open_set(str(crops), "val")


def test_name_that_is_not_utf8_can_be_printed_and_read(crops):
    Path(os.fsdecode(bytes(crops) + b"/real/latin-\xfc.png")).write_bytes(b"x")
    face = next(f for f in folder_set(crops).faces if "latin" in f.name)
    assert face.name.encode() == "real/latin-\N{REPLACEMENT CHARACTER}.png".encode()
    assert face.source.path.read_bytes() == b"x"
