from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from lpx.data.face_sets.csv import means_real
from lpx.data.face_sets.demo import folder as demo_folder
from lpx.data.face_sets.folder import folder_set
from lpx.data.face_sets.sets import open_set
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
        "real/a.png",
        "real/b.JPG",
        "real/self.png",
    ]
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
    assert faces.note == (
        "2 images that faces.csv does not list are left out: fake/swap/c.png, real/b.JPG."
    )


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
    [
        "/etc/passwd",
        "../secret.png",
        "real/../../x.png",
        "..\\x.png",
        "C:\\x.png",
        "c:x.png",
        "\\\\server\\x.png",
        "",
        ".",
        "real/..",
    ],
)
def test_file_that_leaves_the_folder_is_refused(crops, name):
    with pytest.raises(LpxError) as caught:
        with_csv(crops, f"file,label\nreal/a.png,0\n{name},1\n")
    assert "faces.csv line 3" in caught.value.what
    assert repr(name) in caught.value.what


def test_missing_files_are_counted_and_named(crops):
    names = "".join(f"gone{i}.png,1\n" for i in range(5))
    faces = with_csv(crops, f"file,label\nreal/a.png,0\n{names}")
    assert listed(faces) == [("real/a.png", 0, "real")]
    assert faces.note.startswith(
        "5 of 6 files that faces.csv lists do not exist and are left out: gone0.png, gone1.png, "
        "gone2.png and 2 more. 3 images that faces.csv does not list are left out: "
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


ROWS = "file,label,split\nreal/a.png,0,train\nfake/Zoë – é.png,1,test\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_csv_in_any_encoding_of_unicode(crops, encoding):
    (crops / "fake/Zoë – é.png").write_bytes(b"x")
    faces = with_csv(crops, ROWS, encoding)
    assert listed(faces) == [("real/a.png", 0, "real"), ("fake/Zoë – é.png", 1, "fake")]
    assert faces.splits() == ("train", "test")
    assert "Windows-1252" not in faces.note


def test_csv_in_the_encoding_of_windows(crops):
    (crops / "fake/Zoë – é.png").write_bytes(b"x")
    faces = with_csv(crops, ROWS, "cp1252")
    assert [f.name for f in faces.faces] == ["real/a.png", "fake/Zoë – é.png"]
    assert "faces.csv is not in UTF-8; it was read as Windows-1252." in faces.note
    # Where names of files do not bear it out, it is no longer taken for granted.
    (crops / "fake/Zoë – é.png").unlink()
    with pytest.raises(LpxError, match=r"line 3 names fake/Zoë – é\.png, which"):
        folder_set(crops)


@pytest.mark.parametrize(
    "data",
    [
        b"file,label\nreal/a.png,0\nfake/\x81.png,1\n",
        b"file,label\nreal/a.png,0\nfake/d\0.webp,1\n",
        b"file,label\nreal/a.png,0\nfake/d.webp,1\0\n",
        b'file,label\nreal/a.png,0\n"fake/d.webp,1\n',
        b'file,label\nreal/a.png,0\n"fake/d.webp"x,1\n',
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(crops, data):
    (crops / "faces.csv").write_bytes(data)
    with pytest.raises(LpxError, match=r"faces\.csv line 3 cannot be read"):
        folder_set(crops)


@pytest.mark.parametrize(
    ("mark", "before"),
    [
        (",", ""),
        (";", ""),
        ("\t", ""),
        ("|", ""),
        (", ", ""),
        ("; ", "sep=;\n"),
        (",", "\n  \n"),
        (",", "# made by hand, in May\n"),
        (";", "sep=;\n"),
        ("\t", "sep=\t\n"),
        (";", "# file: where; label: what\n\n"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_way_of_writing_a_table_gives_the_same_set(crops, mark, before, end):
    rows = (
        ("File", " Label ", "Video", "Identity", "Split"),
        ("real/a.png", "0", '"v1"', "ann", "train"),
        ("fake/d.webp", "1", '"v; 2"', '"ann;bob"', "Testing"),
    )
    text = before + "\n".join(mark.join(row) for row in rows) + "\n# the end\n\n"
    faces = with_csv(crops, text.replace("\n", end))
    assert listed(faces) == [("real/a.png", 0, "real"), ("fake/d.webp", 1, "fake")]
    assert faces.videos() == ("v1", "v; 2")
    assert [f.identities for f in faces.faces] == [("ann",), ("ann", "bob")]
    assert faces.splits() == ("train", "test")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("real/a.png,0\nfake/d.webp,1\n", "line 1 has no column file"),
        ("real/a.png;0;v\n", "line 1 has no column file"),
        ('"file,label"\n"real/a.png,0"\n', "line 1 has no column file"),
        ("", "line 1 has no column file"),
        ("# c\nfilename,label\n", "line 2 has no column file"),
        ("file,label,label\n", "line 1 names the column 'label' more than once"),
        ("file,label,video_id\nreal/a.png,0,v\n", "line 1 names the column 'video_id'"),
        ("file,label,Splits\nreal/a.png,0,v\n", "line 1 names the column 'splits'"),
        ("file,labels\nreal/a.png,0\n", "line 1 names the column 'labels'"),
        ("file,label,idenity\nreal/a.png,0,v\n", "line 1 names the column 'idenity'"),
        ("file,label\nreal/a.png\n", "line 2 has 1 cell for 2 columns: real/a.png"),
        ("file,label\nreal/a.png,0\nreal/b, c.png,0\n", "line 3 has 3 cells for 2 columns"),
        ("file,label,method\nreal/a.png,,real2fake\n", "line 2 has the method 'real2fake'"),
        ("file,label,method\nreal/a.png,1,YouTube-real\n", "'1' and the method 'YouTube-real'"),
    ],
)
def test_nothing_in_a_table_is_passed_over(crops, text, said):
    with pytest.raises(LpxError) as caught:
        with_csv(crops, text)
    assert said in caught.value.what
    assert caught.value.fix


def test_one_image_that_is_not_listed(crops):
    text = "file,label\nreal/a.png,0\nreal/b.JPG,0\nfake/d.webp,1\n"
    note = "1 image that faces.csv does not list is left out: fake/swap/c.png."
    assert with_csv(crops, text).note == note


def test_other_columns_and_rows_without_a_split_are_noted(crops):
    faces = with_csv(
        crops,
        ",file,label,age,split,\n"
        "0,real/a.png,0.0,31,training,\n1,real/b.JPG,nan,,,\n2,fake/d.webp,1.0,7,valid\n,,,,,\n",
    )
    assert [f.label for f in faces.faces] == [0, None, 1]
    assert faces.splits() == ("train", "", "val")
    assert faces.note.startswith(
        "faces.csv: columns ignored: age. 1 of 3 faces name no split and are in none of the "
        "splits: real/b.JPG."
    )


@pytest.mark.parametrize(
    ("method", "real"),
    [
        *(
            (name, True)
            for name in (
                "real",
                "REAL",
                "original",
                "Originals",
                "YouTube-real",
                "Celeb-real",
                "CelebReal",
                "FF-real",
                "DFDC_Real",
                "original_sequences",
                "pristine",
                "youtube",
                "actors",
                "bona-fide",
                "real_c23",
                "bonafide",
            )
        ),
        *(
            (name, False)
            for name in (
                "FaceSwap",
                "Deepfakes",
                "RealNVP",
                "RealVisXL",
                "surreal",
                "Celeb-synthesis",
                "fake",
                "realistic",
            )
        ),
        *(
            (name, None)
            for name in (
                "real2fake",
                "not_original",
                "fake-real",
                "un-real",
                "a real one",
                "Real-ESRGAN",
            )
        ),
    ],
)
def test_methods_that_mean_real(method, real):
    assert means_real(method) is real


def test_methods_that_mean_real_have_the_label_0(crops):
    faces = with_csv(
        crops,
        "file,method\nreal/a.png,YouTube-real\nreal/b.JPG,original\nfake/d.webp,FaceSwap\n",
    )
    assert listed(faces) == [
        ("real/a.png", 0, "real"),
        ("real/b.JPG", 0, "real"),
        ("fake/d.webp", 1, "FaceSwap"),
    ]
    assert "methods taken for real: YouTube-real, original." in faces.note
    faces = with_csv(crops, "file,label,method\nreal/a.png,0,youtube\nfake/d.webp,1,youtube\n")
    assert listed(faces) == [("real/a.png", 0, "real"), ("fake/d.webp", 1, "youtube")]


def test_csv_without_labels_keeps_what_it_says_and_folders_label(crops):
    faces = with_csv(crops, "file;video;split\nreal/a.png;v1;train\nfake/d.webp;v2;test\n")
    assert listed(faces) == [("real/a.png", 0, "real"), ("fake/d.webp", 1, "fake")]
    assert (faces.videos(), faces.splits()) == (("v1", "v2"), ("train", "test"))


def test_labels_against_their_folders_are_noted(crops):
    faces = with_csv(crops, "file,label\nreal/a.png,1\nfake/d.webp,0\n")
    assert [f.label for f in faces.faces] == [1, 0]
    assert "2 of 2 files have another label than the folder" in faces.note


def test_csv_in_any_case_of_its_name_but_only_one(crops):
    (crops / "Faces.CSV").write_text("file,label\nfake/d.webp,0\n")
    assert listed(folder_set(crops)) == [("fake/d.webp", 0, "real")]
    (crops / "faces.csv").write_text("file,label\nfake/d.webp,1\n")
    with pytest.raises(LpxError, match=r"holds Faces\.CSV and faces\.csv"):
        folder_set(crops)


@pytest.mark.parametrize("kind", ["folder", "link to nothing"])
def test_csv_that_is_no_file_is_refused(crops, kind):
    path = crops / "faces.csv"
    path.mkdir() if kind == "folder" else path.symlink_to("gone.csv")
    with pytest.raises(LpxError, match=r"faces\.csv cannot be read"):
        folder_set(crops)


def test_tables_of_other_names_are_not_read_and_that_is_said(crops):
    (crops / "labels.xlsx").touch()
    assert folder_set(crops).note == (
        "Not read, as labels are only read from faces.csv: labels.xlsx."
    )


def test_what_is_beside_and_below_is_named(crops):
    for name in ("Deepfakes/0.png", "real/.ipynb_checkpoints/a.png", "real/x.heic", "0.png"):
        (crops / name).parent.mkdir(exist_ok=True)
        (crops / name).write_bytes(b"x")
    faces = folder_set(crops)
    assert len(faces.faces) == 4
    assert faces.note == (
        "Left out: 1 hidden folder (real/.ipynb_checkpoints); 1 file ending in .heic "
        "(real/x.heic). Only real/ and fake/ were searched, but not: Deepfakes/, "
        "0.png."
    )
    assert "Deepfakes" not in folder_set(crops, skip=(crops / "Deepfakes",)).note


@pytest.mark.parametrize("names", [("Real", "FAKE"), ("REAL", "Fake")])
def test_real_and_fake_in_any_case(crops, names):
    for name in names:
        (crops / name.lower()).rename(crops / name)
    assert [f.label for f in folder_set(crops).faces] in ([0, 0, 1, 1], [1, 1, 0, 0])


@pytest.mark.parametrize("inner", ["fake/real", "fake/Original", "real/fake"])
def test_a_folder_of_the_other_class_is_refused(crops, inner):
    (crops / inner).mkdir()
    (crops / inner / "x.png").write_bytes(b"x")
    with pytest.raises(LpxError, match=f"{inner} contradicts itself"):
        folder_set(crops)


@pytest.mark.parametrize("inner", ["fake/youtube", "fake/Real-ESRGAN", "real/FakeAVCeleb"])
def test_a_folder_that_only_sounds_like_the_other_class_is_taken(crops, inner):
    (crops / inner).mkdir()
    (crops / inner / "x.png").write_bytes(b"x")
    assert len(folder_set(crops).faces) == 5


def test_prepared_faces_without_their_manifest_are_no_plain_folder(crops):
    (crops / "journal.jsonl").touch()
    with pytest.raises(LpxError, match=r"but no readable manifest\.json"):
        open_set(str(crops), "all")


def test_csv_of_landmarked_faces_labels_nothing(tmp_path):
    """The format that training reads, as the demo folder has it."""
    shutil.copytree(demo_folder(), tmp_path / "demo")
    faces = folder_set(tmp_path / "demo")
    lines = (demo_folder() / "faces.csv").read_text().splitlines()[1:]
    assert len(lines) > 60
    assert listed(faces) == [(line.split(",")[0], None, "unknown") for line in lines]
    assert faces.identities() == tuple(sorted({line.split(",")[1] for line in lines}))


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
    assert face.name == r"real/latin-\xfc.png"
    assert face.source.path.read_bytes() == b"x"


def test_numbered_images_in_a_folder_of_their_own_are_frames_of_one_video(tmp_path):
    """A handful of videos must not pass for hundreds of independent faces."""
    names = [
        *(f"real/{video}/{frame:04d}.png" for video in ("953", "954") for frame in range(3)),
        *("real/anna.png", "real/portraits/ben.png"),
        *(f"fake/Deepfakes/953_954/frame_{frame}.png" for frame in range(2)),
        *("fake/FaceSwap/0001.png", "fake/FaceSwap/0002.png"),
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    found = folder_set(tmp_path)
    videos = {face.name: face.video for face in found.faces}
    assert videos["real/953/0000.png"] == videos["real/953/0002.png"] == "real/953"
    assert videos["real/954/0001.png"] == "real/954"
    assert videos["fake/Deepfakes/953_954/frame_1.png"] == "fake/Deepfakes/953_954"
    single = ("real/anna.png", "real/portraits/ben.png", "fake/FaceSwap/0001.png")
    assert all(videos[name] == name for name in single)
    assert "7 videos and single images" in found.note


@pytest.fixture
def closed(monkeypatch):
    """A function that closes folders to everybody: permissions do not stop an administrator."""

    def close(*folders):
        def refusing(call):
            def refuse(path, *rest, **named):
                text = os.fspath(path)
                text = os.fsdecode(text) if isinstance(text, bytes) else text
                real = os.path.realpath(text)
                if call is not os_stat or real not in map(str, folders):
                    for folder in map(str, folders):
                        if real == folder or real.startswith(f"{folder}/"):
                            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), text)
                return call(path, *rest, **named)

            return refuse

        os_stat = os.stat
        for name in ("stat", "scandir", "listdir"):
            monkeypatch.setattr(os, name, refusing(getattr(os, name)))

    return close


@pytest.mark.parametrize("where", ["real", "fake", "fake/Deepfakes", "fake/Deepfakes/953"])
def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, closed, where):
    for name in ("real/0.png", "fake/FaceSwap/0.png", "fake/Deepfakes/953/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    closed(tmp_path / where)
    with pytest.raises(LpxError, match=f"{where} cannot be read") as error:
        folder_set(tmp_path)
    assert error.value.why == "Permission denied"


@pytest.mark.parametrize("name", ["fake", "fake/Deepfakes"])
def test_a_link_into_a_folder_that_cannot_be_read_is_an_error(tmp_path, closed, name):
    (tmp_path / "elsewhere" / "faces").mkdir(parents=True)
    for face in ("real/0.png", "fake/FaceSwap/0.png"):
        (tmp_path / "set" / face).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / face).write_bytes(b"x")
    if name == "fake":
        shutil.rmtree(tmp_path / "set" / "fake")
    (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere" / "faces")
    closed(tmp_path / "elsewhere")
    with pytest.raises(LpxError, match="cannot be read"):
        folder_set(tmp_path / "set")


def test_a_listed_file_in_a_folder_that_cannot_be_read_is_an_error(tmp_path, closed):
    for name in ("a/0.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "faces.csv").write_text("file,label\na/0.png,0\nb/1.png,1\n")
    closed(tmp_path / "b")
    with pytest.raises(LpxError, match=r"b/1\.png cannot be read"):
        folder_set(tmp_path)
