from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lpx.data.face_sets.demo import demo_set
from lpx.data.face_sets.face_set import Face, FaceSet
from lpx.data.face_sets.table import FaceRow, make_table
from lpx.data.images import read_ahead
from lpx.data.images.decode import UnreadableImageError
from lpx.errors import LpxError

SIDE = 8


@dataclass(frozen=True)
class Grey:
    """A face of one brightness that takes its time; None cannot be read."""

    value: int | None
    seconds: float = 0.0

    def read(self):
        time.sleep(self.seconds)
        if self.value is None:
            raise UnreadableImageError("broken")
        return np.full((SIDE, SIDE, 3), self.value, np.uint8)


def greys(sources, split="test"):
    faces = tuple(
        Face(f"{i}.png", i % 2, ("real", "swap")[i % 2], f"v{i // 4}", (f"p{i // 4}",), source)
        for i, source in enumerate(sources)
    )
    return FaceSet("greys", split, "none", faces)


ROWS = [
    FaceRow(
        file=f"{split}/{method}/{video}/{frame}.png",
        label=int(method != "real"),
        method=method,
        video=f"{method}/{split}{video}",
        identities=(f"{split}{video}",) + ((f"{split}{video + 1}",) if method != "real" else ()),
        split=split,
        frame=frame,
        size_bytes=100 + frame,
    )
    for split in ("train", "test")
    for method in ("real", "Deepfakes", "FaceSwap")
    for video in range(3)
    for frame in range(4)
]


@pytest.fixture
def table():
    return FaceSet("tabled", "all", "square-1.3", make_table(Path("crops"), ROWS))


@pytest.mark.parametrize("batch_size", [1, 3, 8, 50, 100])
def test_stream_keeps_order_whoever_is_slow(batch_size):
    sources = [Grey(i, 0.002 * ((i * 7) % 3)) for i in range(50)]
    batches = list(greys(sources).stream(batch_size, SIDE, []))
    assert [int(i) for b in batches for i in b.indices] == list(range(50))
    assert [int(v) for b in batches for v in b.pixels[:, 0, 0, 0]] == list(range(50))
    assert all(len(b.indices) == batch_size for b in batches[:-1])
    assert all(b.pixels.shape[1:] == (SIDE, SIDE, 3) for b in batches)


def test_stream_leaves_out_and_names_what_cannot_be_read():
    sources = [Grey(None if i in (0, 3, 4, 5, 6, 7, 19) else i) for i in range(20)]
    skipped = []
    batches = list(greys(sources).stream(4, SIDE, skipped))
    assert [(s.name, s.reason) for s in skipped] == [
        (f"{i}.png", "broken") for i in (0, 3, 4, 5, 6, 7, 19)
    ]
    assert [b.indices.tolist() for b in batches] == [
        [1, 2],
        [8, 9, 10, 11],
        [12, 13, 14, 15],
        [16, 17, 18],
    ]
    assert [int(v) for b in batches for v in b.pixels[:, 0, 0, 0]] == [
        int(i) for b in batches for i in b.indices
    ]


def test_stream_resizes():
    (batch,) = greys([Grey(7), Grey(9)]).stream(4, 3, [])
    assert batch.pixels.shape == (2, 3, 3, 3)


def test_stream_resizes_in_other_ways_too():
    def inverted(image, size):
        return 255 - np.full((size, size, 3), image[0, 0], np.uint8)

    sources = [Grey(7), Grey(None), Grey(9)]
    (batch,) = greys(sources).stream(4, 3, [], {"one": inverted, "two": inverted})
    assert batch.indices.tolist() == [0, 2]
    assert batch.pixels[:, 0, 0, 0].tolist() == [7, 9]
    assert list(batch.others) == ["one", "two"]
    assert batch.others["two"].shape == (2, 3, 3, 3)
    assert batch.others["two"][:, 0, 0, 0].tolist() == [248, 246]
    assert batch.crop_sizes.tolist() == [[SIDE, SIDE]] * 2


def test_stream_of_nothing():
    assert list(greys([]).stream(4, SIDE, [])) == []


def test_stream_that_stops_early_ends_at_once():
    sources = [Grey(1, 0.05) for _ in range(200)]
    stream = greys(sources).stream(64, SIDE, [])
    next(stream)
    started = time.perf_counter()
    stream.close()
    # All that has begun is one face per thread.
    assert time.perf_counter() - started < 1
    assert not [t for t in threading.enumerate() if t.name.startswith("lpx-read")]


def test_stream_raises_what_is_no_unreadable_image():
    class Broken:
        def read(self):
            raise ZeroDivisionError("a mistake in lpx")

    with pytest.raises(ZeroDivisionError):
        list(greys([Grey(1)] * 20 + [Broken()] + [Grey(1)] * 100).stream(8, SIDE, []))


@pytest.mark.parametrize("batch_size", [1, 16])
def test_stream_is_bounded(batch_size):
    """What is read ahead of a slow consumer does not grow with the set."""
    read = []

    class Counted:
        def read(self):
            read.append(1)
            return np.zeros((SIDE, SIDE, 3), np.uint8)

    ahead, taken = [], 0
    for batch in greys([Counted()] * 300).stream(batch_size, SIDE, []):
        taken += len(batch.indices)
        time.sleep(0.002)
        ahead.append(len(read) - taken)
    assert len(read) == 300
    assert max(ahead) <= max(2 * batch_size, 2 * read_ahead.readers())


def test_two_batches_are_read_while_the_consumer_works():
    read = []

    class Counted:
        def read(self):
            read.append(1)
            return np.zeros((SIDE, SIDE, 3), np.uint8)

    stream = greys([Counted()] * 160).stream(16, SIDE, [])
    next(stream)
    deadline = time.monotonic() + 5
    while len(read) < 48 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(read) == 48
    stream.close()


def test_several_threads_read():
    seen = set()

    class Named:
        def read(self):
            seen.add(threading.current_thread().name)
            time.sleep(0.01)
            return np.zeros((SIDE, SIDE, 3), np.uint8)

    list(greys([Named()] * 64).stream(16, SIDE, []))
    assert len(seen) == read_ahead.readers()


def test_files_are_streamed_as_they_are_decoded(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, SIDE, SIDE, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image[..., ::-1])
    rows = [FaceRow(f"{i}.png", None, "unknown", f"{i}.png") for i in range(20)]
    faces = FaceSet("files", "all", "none", make_table(tmp_path, rows))
    found = np.concatenate([b.pixels for b in faces.stream(6, SIDE, [])])
    assert np.array_equal(found, images)


def test_table_makes_the_faces_it_was_made_of(table):
    for row, face in zip(ROWS, table.faces, strict=True):
        assert (face.name, face.label, face.method, face.video, face.identities) == (
            row.file,
            row.label,
            row.method,
            row.video,
            row.identities,
        )
        assert face.source.path == Path("crops") / row.file
    assert table.faces[-1].name == ROWS[-1].file
    assert [f.name for f in table.faces[2:9:3]] == [r.file for r in ROWS[2:9:3]]
    assert table.faces[np.int64(3)] == table.faces[3]
    with pytest.raises(IndexError):
        table.faces[len(ROWS)]


def as_tuple(faces):
    return FaceSet(faces.name, faces.split, faces.crop, tuple(faces.faces), faces.note)


def test_a_tuple_and_a_table_tell_the_same(table):
    plain = as_tuple(table)
    assert np.array_equal(plain.labels(), table.labels())
    assert plain.methods() == table.methods() == ("real", "Deepfakes", "FaceSwap")
    assert plain.videos() == table.videos()
    assert plain.identities() == table.identities()
    names = [f.name for f in plain.first(7).faces]
    assert names == [f.name for f in table.first(7).faces]
    assert names == [f.name for f in table.faces if f.name in set(names)]


def test_digest_of_a_tuple_and_a_table_of_the_same_files(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(b"x" * i)
    rows = [FaceRow(f"{i}.png", None, "unknown", f"{i}.png") for i in range(5)]
    faces = FaceSet("files", "all", "none", make_table(tmp_path, rows))
    before = faces.digest()
    assert as_tuple(faces).digest() == before
    assert faces.take(np.array([0, 2])).digest() == as_tuple(faces).take(np.array([0, 2])).digest()
    assert not faces.has_changed()
    (tmp_path / "3.png").write_bytes(b"yyy")
    assert faces.has_changed()
    assert replace(faces).digest() != before


@pytest.mark.parametrize(
    "changed", [{"label": 1}, {"method": "FaceSwap"}, {"video": "b"}, {"identities": ("x",)}]
)
def test_digest_sees_what_is_said_of_a_face(tmp_path, changed):
    row = FaceRow("a.png", 0, "real", "a")
    sets = [make_table(tmp_path, [one, row]) for one in (row, replace(row, **changed))]
    one, other = (FaceSet("", "", "", table).digest() for table in sets)
    assert one != other


def test_digest_does_not_depend_on_how_columns_are_coded(tmp_path):
    rows = [FaceRow(f"{i}.png", 1, f"m{i % 3}", f"v{i // 2}", (f"p{i % 5}",)) for i in range(20)]
    picked = [7, 3, 11]
    part = make_table(tmp_path, rows).take(np.array(picked))
    again = make_table(tmp_path, [rows[i] for i in picked])
    assert FaceSet("", "", "", part).digest() == FaceSet("", "", "", again).digest()


def test_digest_tells_order_and_names_apart(table):
    rows = np.arange(len(ROWS))
    digests = {table.digest(), table.take(rows[::-1]).digest(), table.take(rows[:-1]).digest()}
    renamed = [FaceRow("a" + r.file[1:], 0, "real", "v", size_bytes=r.size_bytes) for r in ROWS]
    digests.add(FaceSet("", "", "", make_table(Path(), renamed)).digest())
    # Neighbours whose names together read the same.
    for names in (("ab", "c"), ("a", "bc")):
        two = make_table(Path("none"), [FaceRow(n, 0, "real", n) for n in names])
        digests.add(FaceSet("", "", "", two).digest())
    assert len(digests) == 6


def test_select_by_split_and_method(table):
    test = table.select(split="test")
    assert test.split == "test"
    assert {f.name.split("/")[0] for f in test.faces} == {"test"}
    swaps = test.select(methods=["FaceSwap"])
    assert swaps.methods() == ("real", "FaceSwap")
    assert [f.name for f in swaps.faces] == [
        r.file for r in ROWS if r.split == "test" and r.method != "Deepfakes"
    ]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"split": "val"}, "tabled has no split 'val'\n  why: it has train, test"),
        ({"methods": ["Swap"]}, "no method 'Swap'\n  why: it has real, Deepfakes, FaceSwap"),
    ],
)
def test_select_what_is_not_there(table, wanted, said):
    with pytest.raises(LpxError) as caught:
        table.select(**wanted)
    assert said in str(caught.value)


def test_demo_fakes_carry_both_people():
    faces = demo_set("test").faces
    swaps = [f for f in faces if f.method in ("alpha", "poisson")]
    assert swaps
    assert all(len(set(f.identities)) == 2 for f in swaps)
    assert all(len(f.identities) == 1 for f in faces if f.method in ("real", "sbi"))
