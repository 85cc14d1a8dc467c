"""Whatever bytes a file holds, it is read or refused: no reader fails in another way."""

from __future__ import annotations

import struct
from contextlib import suppress

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lpx.calibration.cache import read_cache, write_cache
from lpx.data.face_sets.csv import read_face_csv
from lpx.data.face_sets.manifest import FaceManifest, read_face_manifest, write_manifest
from lpx.data.face_sets.table import FaceRow, make_table
from lpx.data.images.decode import UnreadableImageError, read_image
from lpx.data.images.edit_list import is_trimmed
from lpx.data.images.header import image_size, is_animated, is_cut_off, is_turned_avif
from lpx.data.pseudo_fakes.landmarked import load_landmarked
from lpx.errors import LpxError
from lpx.models.weights_file import read_weights
from lpx.workspace import read_sealed, write_sealed

# The same examples every time: whether the gate passes is no matter of luck. The drills in
# tools/drills look for more.
FEW = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=9)), min_size=1, max_size=3)
"""Where, as a share of the file, and what is written over it; nothing cuts it off there."""


def edited(data, edits):
    for share, piece in edits:
        place = int(share * len(data))
        data = data[:place] + piece + data[place + len(piece) :] if piece else data[:place]
    return data


def picture(suffix):
    rng = np.random.default_rng(1)
    return bytes(cv2.imencode(suffix, rng.integers(0, 256, (20, 24, 3), np.uint8))[1])


PICTURES = [picture(suffix) for suffix in (".png", ".jpg", ".webp", ".bmp", ".tiff", ".gif")]
HEADERS = [
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"RIFF\0\0\0\0WEBPVP8X",
    b"BM",
    b"II*\0",
    b"MM\0+",
    b"GIF89a",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51",
    b"\0\0\0\x18ftypavif",
    b"P6\n",
]


@FEW
@given(st.sampled_from(HEADERS), st.binary(max_size=80))
def test_headers_of_pictures(start, rest):
    size = image_size(start + rest)
    assert size is None or all(isinstance(side, int) for side in size)
    for told in (is_animated, is_cut_off, is_turned_avif):
        assert told(start + rest) in (True, False)


@FEW
@given(st.sampled_from(PICTURES), EDITS)
@example(PICTURES[0], [(0.006, struct.pack(">I", 2**32 - 3))])
def test_pictures(tmp_path, data, edits):
    path = tmp_path / "a.png"
    path.write_bytes(edited(data, edits))
    with suppress(UnreadableImageError):
        assert read_image(path).shape[2] == 3


def test_a_part_of_a_png_that_is_longer_than_its_file_takes_no_memory(tmp_path):
    data = PICTURES[0]
    place = data.index(b"IDAT") - 4
    path = tmp_path / "a.png"
    path.write_bytes(data[:place] + struct.pack(">I", 2**32 - 3) + data[place + 4 :])
    with pytest.raises(UnreadableImageError, match="truncated"):
        read_image(path)


BOX = st.builds(
    lambda size, name, body: struct.pack(">I4s", size & 0xFFFFFFFF, name) + body,
    st.integers(0, 64) | st.sampled_from([2**31, 2**32 - 1]),
    st.sampled_from([b"moov", b"trak", b"edts", b"elst", b"mdia", b"hdlr", b"mvhd", b"mdhd"]),
    st.binary(max_size=40),
)


@FEW
@given(st.lists(BOX, max_size=5))
def test_boxes_of_videos(tmp_path, boxes):
    path = tmp_path / "a.mp4"
    path.write_bytes(struct.pack(">I4s", 8, b"ftyp") + b"".join(boxes))
    assert is_trimmed(path) in (True, False)


TABLE = "file,label,method,video,identity,split\n0.png,0,real,v0,p0,test\n1.png,1,x,v1,p1,val\n"


@FEW
@given(EDITS)
def test_face_tables(tmp_path, edits):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(b"x")
    (tmp_path / "faces.csv").write_bytes(edited(TABLE.encode(), edits))
    try:
        table, _ = read_face_csv(tmp_path / "faces.csv")
    except LpxError:
        return
    for face in table:
        assert face.label in (0, 1, None)
        assert face.source.path.parent == tmp_path


@FEW
@given(EDITS)
def test_landmarks(tmp_path, edits):
    (tmp_path / "faces.csv").write_text("file,identity\na.png,p\nb.png,q\n")
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"x")
    path = tmp_path / "landmarks.npz"
    np.savez(path, files=["a.png", "b.png"], points=np.ones((2, 3, 2), np.float32))
    path.write_bytes(edited(path.read_bytes(), edits))
    try:
        faces = load_landmarked(tmp_path)
    except LpxError:
        return
    assert all(np.isfinite(face.points).all() for face in faces)


@FEW
@given(EDITS, st.sampled_from(["manifest.json", "npz"]))
def test_prepared_sets(tmp_path, edits, which):
    (tmp_path / "a.png").write_bytes(b"x")
    rows = [FaceRow("a.png", 1, "x", "v")]
    write_manifest(tmp_path, FaceManifest("x", "square-1.3"), make_table(tmp_path, rows))
    (path,) = tmp_path.glob(f"*{which}")
    path.write_bytes(edited(path.read_bytes(), edits))
    try:
        faces = read_face_manifest(tmp_path).faces
    except LpxError:
        return
    assert all(face.label in (0, 1, None) for face in faces)


@pytest.mark.parametrize(
    "change",
    [
        {"counts": [{"split": "", "method": "x", "label": 1, "faces": "1", "videos": 1}]},
        {"counts": [{"split": "", "method": "x", "label": 7, "faces": 1, "videos": 1}]},
        {"note": 0.5},
        {"about": []},
        {"about": {"damaged": []}},
        {"missing": "abc"},
        {"name": None},
        {"skipped": [{"video": "v", "frame": -1, "reason": ""}]},
        {"more": 1},
        {"crop": ["x"]},
    ],
)
def test_manifests_of_faces_that_nobody_writes(tmp_path, change):
    (tmp_path / "a.png").write_bytes(b"x")
    rows = [FaceRow("a.png", 1, "x", "v")]
    write_manifest(tmp_path, FaceManifest("x", "square-1.3"), make_table(tmp_path, rows))
    path = tmp_path / "manifest.json"
    write_sealed(path, read_sealed(path, "lpx data prepare") | change)
    with pytest.raises(LpxError, match="is damaged"):
        read_face_manifest(tmp_path)


@FEW
@given(EDITS)
def test_calibration_caches(edits):
    data = edited(write_cache({"a": 1.0, "b": 0.25}).encode(), edits)
    try:
        peaks = read_cache(data.decode("utf-8", "replace"), "x", ("a", "b"))
    except LpxError:
        return
    assert all(0 < peak < float("inf") for peak in peaks.values())


@FEW
@given(EDITS)
def test_weights(tmp_path, edits):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(2, 3), "b": 0.5}, path)
    path.write_bytes(edited(path.read_bytes(), edits))
    with suppress(LpxError):
        assert read_weights(path) is not None


@FEW
@given(st.binary(max_size=64), st.integers(0, 2**63))
def test_safetensors(tmp_path, rest, length):
    pytest.importorskip("safetensors")
    path = tmp_path / "a.safetensors"
    for said in (length, len(rest)):
        path.write_bytes(struct.pack("<Q", said) + b"{" + rest)
        with suppress(LpxError):
            assert read_weights(path) is not None
