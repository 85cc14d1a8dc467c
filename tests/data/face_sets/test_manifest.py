from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lpx.data.face_sets import manifest as face_manifest
from lpx.data.face_sets.manifest import (
    FORMAT,
    Count,
    FaceManifest,
    SkippedFrame,
    read_face_manifest,
    read_manifest_head,
    write_manifest,
)
from lpx.data.face_sets.table import FaceRow, make_table
from lpx.errors import LpxError
from lpx.plain import plain
from lpx.workspace import read_sealed, write_sealed

MANIFEST = FaceManifest(
    name="ffpp-c23",
    crop="square-1.3",
    frames_per_video=32,
    detector="blazeface",
    several_faces="largest",
    skipped=(SkippedFrame("real/003", 7, "no face"), SkippedFrame("real/004", None, "0 frames")),
    missing=("real/009", "real/010", "real/011", "real/012"),
    note="A note.",
    versions={"lpx": "0.1.0"},
    about={"mask": True},
)
ROWS = [
    FaceRow("real/000/0.png", 0, "real", "real/000", ("000",), "train", 0, 200, 210, 1000),
    FaceRow("real/000/8.png", 0, "real", "real/000", ("000",), "train", 8, 201, 211, 1001),
    FaceRow("Deepfakes/ü_1/0.png", 1, "Deepfakes", "D/ü", ("ü", "1"), "test", 0, 256, 256, 3),
    FaceRow("unknown/0.png", None, "unknown", "unknown/0.png"),
]


def write(folder, rows=ROWS, manifest=MANIFEST):
    write_manifest(folder, manifest, make_table(folder, rows))


def table_file(folder):
    (found,) = folder.glob("faces-*.npz")
    return found


def test_what_is_written_is_read(tmp_path):
    write(tmp_path)
    faces = read_face_manifest(tmp_path)
    assert (faces.name, faces.split, faces.crop) == ("ffpp-c23", "all", "square-1.3")
    assert [(f.name, f.label, f.method, f.video, f.identities) for f in faces.faces] == [
        (r.file, r.label, r.method, r.video, r.identities) for r in ROWS
    ]
    assert faces.faces[2].source.path == tmp_path / ROWS[2].file
    assert faces.splits() == ("train", "test", "")
    details = faces.faces.details
    assert details.frame.tolist() == [0, 8, 0, -1]
    assert details.width.tolist() == [200, 201, 256, 0]
    assert details.size_bytes.tolist() == [1000, 1001, 3, -1]
    assert faces.note == (
        "A note. 4 videos that the set's lists name were not on disk and are left out: real/009, "
        "real/010, real/011 and 1 more. 1 video could not be read and is left out: real/004 (0 "
        "frames). 1 frame of 1 video gave no face and is left out (1 x no face): real/003 (1)."
    )
    head = read_manifest_head(tmp_path)
    assert head == replace(
        MANIFEST,
        counts=(
            Count("train", "real", 0, 2, 1),
            Count("test", "Deepfakes", 1, 1, 1),
            Count("", "unknown", None, 1, 1),
        ),
    )


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8)
PATHS = st.lists(NAMES.filter(lambda n: n != ".."), min_size=1, max_size=3).map("/".join)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.builds(
            FaceRow,
            PATHS,
            st.sampled_from([0, 1, None]),
            NAMES,
            NAMES,
            st.lists(NAMES, max_size=2).map(tuple),
            st.sampled_from(["", "train", "test"]),
            st.integers(-1, 10**6),
        ),
        max_size=12,
    )
)
def test_any_rows_survive(tmp_path, rows):
    write(tmp_path, rows)
    faces = read_face_manifest(tmp_path).faces
    assert [(f.name, f.label, f.method, f.video, f.identities) for f in faces] == [
        (plain(r.file), r.label, r.method, plain(r.video), r.identities) for r in rows
    ]
    assert faces.details.frame.tolist() == [r.frame for r in rows]


def test_name_outside_utf8_survives(tmp_path):
    name = os.fsdecode(b"latin-\xfc.png")
    (tmp_path / name).write_bytes(b"abc")
    write(tmp_path, [FaceRow(name, 0, "real", name)])
    (face,) = read_face_manifest(tmp_path).faces
    assert face.source.path.read_bytes() == b"abc"
    assert face.name == face.video == r"latin-\xfc.png"


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../up.png", "a/../../b.png", "a/..", "..", "", "a/../b", "a\0b"]
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_path_that_leaves_the_folder_is_refused(tmp_path, name, place):
    rows = [FaceRow(n, 0, "real", n) for n in ("a..b/c..", "...", "x")]
    make_table(tmp_path, rows)
    rows[place] = replace(rows[place], file=name)
    with pytest.raises(LpxError) as caught:
        make_table(tmp_path, rows)
    assert repr(name) in caught.value.what


def test_path_that_leaves_the_folder_is_refused_when_read(tmp_path, monkeypatch):
    monkeypatch.setattr("lpx.data.face_sets.table.check_inside", lambda files, where: None)
    write(tmp_path, [FaceRow("fine.png", 0, "real", "v"), FaceRow("a/../../x", 0, "real", "v")])
    with pytest.raises(LpxError, match=r"names the file 'a/../../x'"):
        read_face_manifest(tmp_path)


def test_no_manifest(tmp_path):
    with pytest.raises(LpxError, match="does not exist"):
        read_face_manifest(tmp_path)


def edit(folder, **changes):
    path = folder / "manifest.json"
    values = read_sealed(path, "") | changes
    write_sealed(path, {k: v for k, v in values.items() if v != "gone"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "lpx-faces/2"}, f"'lpx-faces/2'\n  why: this version of lpx reads {FORMAT}"),
        ({"format": "gone"}, "format None"),
        ({"crop": "gone"}, "it does not hold what it should: missing fields: crop"),
        ({"skipped": [{"video": "a"}]}, "is damaged"),
        ({"missing": None}, "is damaged"),
        ({"counts": []}, "counts do not add up"),
        ({"faces": 3}, "it names 4 files, expected 3"),
        ({"faces": "4"}, "is damaged"),
        ({"table": "../faces.npz"}, "it names the table '../faces.npz'"),
        ({"table": "faces-000000000000.npz"}, "is damaged\n  why: it does not exist"),
        ({"table_sha256": "gone"}, "its SHA-256 differs"),
    ],
)
def test_manifest_that_does_not_fit(tmp_path, changes, said):
    write(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(LpxError) as caught:
        read_face_manifest(tmp_path)
    assert said in str(caught.value)
    assert "lpx data prepare" in caught.value.fix


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_manifest_that_is_no_manifest(tmp_path, data):
    write(tmp_path)
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(LpxError, match=r"manifest\.json"):
        read_face_manifest(tmp_path)


@pytest.mark.parametrize("kept", [0, 10, 500, -200, -1])
def test_truncated_table(tmp_path, kept):
    write(tmp_path)
    path = table_file(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(LpxError, match="is damaged"):
        read_face_manifest(tmp_path)


def tamper(folder, **columns):
    """Replace columns (None removes one), and make the manifest vouch for the result."""
    path = table_file(folder)
    with np.load(path) as archive:
        arrays = {**archive, **columns}
    with path.open("wb") as stream:
        np.savez(stream, **{k: v for k, v in arrays.items() if v is not None})
    edit(folder, table_sha256=face_manifest.sha256(path))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"label": np.zeros(3, np.int8)}, "column label is int8 [3], expected int8 [4]"),
        ({"label": np.zeros(4, np.int64)}, "column label is int64 [4], expected int8 [4]"),
        ({"label": np.full(4, 2, np.int8)}, "label has values outside -1 to 1"),
        ({"video": np.zeros(5, np.int32)}, "column video is int32 [5]"),
        ({"video": np.full(4, 9, np.int32)}, "column video has codes outside 0 to 2"),
        ({"method": np.full(4, -1, np.int32)}, "column method has codes outside"),
        ({"frame": np.zeros((4, 1), np.int32)}, "column frame is int32 [4, 1]"),
        ({"size_bytes": None}, "size_bytes"),
        ({"names_offsets": np.array([0, 1], np.int64)}, "names_offsets has wrong offsets"),
        ({"names_offsets": np.array([0, 9, 5, 48, 61], np.int64)}, "has wrong offsets"),
        ({"names_offsets": np.zeros(0, np.int64)}, "not a list of offsets"),
        ({"names": np.zeros(4, "U3")}, "names is not a block of bytes"),
        ({"identity_members": np.array([0, 1, 7], np.int32)}, "identity_members has codes"),
        ({"identity_offsets": np.array([0, 1], np.int64)}, "identity_offsets has wrong offsets"),
        ({"label": np.array([None] * 4, object)}, "is damaged"),
    ],
)
def test_columns_that_contradict_each_other(tmp_path, columns, said):
    write(tmp_path)
    tamper(tmp_path, **columns)
    with pytest.raises(LpxError) as caught:
        read_face_manifest(tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize("step", ["write_bytes", "write_sealed"])
def test_a_write_that_fails_leaves_the_old_set(tmp_path, monkeypatch, step):
    write(tmp_path)
    before = read_face_manifest(tmp_path).digest()

    def full(path, data):
        raise LpxError(f"{path} cannot be written", "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(face_manifest, step, full)
        with pytest.raises(LpxError, match="cannot be written"):
            write(tmp_path, ROWS[:2])
    assert read_face_manifest(tmp_path).digest() == before
    write(tmp_path, ROWS[:2])
    assert len(read_face_manifest(tmp_path).faces) == 2
    assert table_file(tmp_path).is_file()


def test_writing_twice_gives_the_same_bytes(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert table_file(tmp_path / "a").name == table_file(tmp_path / "b").name
    assert (tmp_path / "a/manifest.json").read_bytes() == (
        tmp_path / "b/manifest.json"
    ).read_bytes()


def test_a_part_of_a_table_can_be_written(tmp_path):
    write(tmp_path)
    faces = read_face_manifest(tmp_path)
    write_manifest(tmp_path / "part", MANIFEST, faces.faces.take(np.array([2, 0])))
    part = read_face_manifest(tmp_path / "part")
    assert [f.name for f in part.faces] == [ROWS[2].file, ROWS[0].file]
    assert part.faces[0].identities == ROWS[2].identities


def test_many_faces_load_fast(tmp_path):
    """A tenth of the million that benchmarks/data.py loads, with time to spare."""
    count = 100_000
    rows = [
        FaceRow(
            f"Deepfakes/{i // 32:05d}/{i % 32:04d}.png",
            1,
            "Deepfakes",
            f"D/{i // 32:05d}",
            (f"{i // 32:05d}",),
            "train",
            i % 32,
            size_bytes=i,
        )
        for i in range(count)
    ]
    write(tmp_path, rows)
    started = time.perf_counter()
    faces = read_face_manifest(tmp_path)
    faces.labels()
    assert time.perf_counter() - started < 1
    assert faces.faces[77_777].name == rows[77_777].file
    assert len(faces.first(1000).videos()) == 1000


def test_manifest_folder_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("crops"))
    assert read_face_manifest(Path("crops")).faces[0].source.path == Path("crops/real/000/0.png")
