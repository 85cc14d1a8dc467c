from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.data.pseudo_fakes.augment import (
    augment,
    channel_offset,
    colour_shift,
    crop_jitter,
    jpeg_round_trip,
    resolution_loss,
)
from lpx.data.pseudo_fakes.blend import KINDS, Forgery
from lpx.data.pseudo_fakes.landmarked import LandmarkedFace, load_landmarked, split_identities
from lpx.data.pseudo_fakes.pairs import PairSource
from lpx.errors import LpxError
from tests.data.pseudo_fakes.test_blend import landmarks, textured

SIZE = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six faces of three identities, as `load_landmarked` wants them."""
    root = tmp_path_factory.mktemp("faces")
    names = [f"{who}_{i}.png" for who in ("ann", "bob", "cem") for i in range(2)]
    for seed, name in enumerate(names):
        cv2.imwrite(str(root / name), textured(seed, SIZE))
    rows = [f"{name},{name[:3]},{'test' if name[0] == 'c' else 'train'},x" for name in names]
    (root / "faces.csv").write_text("\n".join(["file,identity,split,more", *rows]) + "\n")
    points = np.stack([landmarks(seed, SIZE) for seed in range(6)])
    np.savez(root / "landmarks.npz", files=np.array(names), points=points)
    return root


@pytest.fixture(scope="module")
def faces(folder):
    return load_landmarked(folder)


def test_load(folder, faces):
    assert [face.path.name for face in faces] == [
        "ann_0.png",
        "ann_1.png",
        "bob_0.png",
        "bob_1.png",
        "cem_0.png",
        "cem_1.png",
    ]
    assert [face.identity for face in faces] == ["ann"] * 2 + ["bob"] * 2 + ["cem"] * 2
    assert {face.split for face in faces} == {"train", "test"}
    assert faces[3].points.dtype == np.float32
    assert np.array_equal(faces[3].points, landmarks(3, SIZE))


def copied(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", ["faces.csv", "landmarks.npz"])
def test_load_without_a_file(folder, tmp_path, name):
    (copied(folder, tmp_path) / name).unlink()
    with pytest.raises(LpxError, match=f"{name} does not exist"):
        load_landmarked(tmp_path)


def test_load_without_landmarks_of_a_face(folder, tmp_path):
    with (copied(folder, tmp_path) / "faces.csv").open("a") as stream:
        stream.write("dan_0.png,dan,train,x\neve_0.png,eve,train,x\n")
    with pytest.raises(LpxError, match=r"no landmarks of dan_0\.png \(2 faces"):
        load_landmarked(tmp_path)


@pytest.mark.parametrize(
    ("header", "absent"),
    [
        ("path,identity", "no column file"),
        ("file,person", "no column identity"),
        ("", "no column file, identity"),
    ],
)
def test_load_without_a_column(folder, tmp_path, header, absent):
    table = copied(folder, tmp_path) / "faces.csv"
    table.write_text(f"{header}\nann_0.png,ann\n" if header else "")
    with pytest.raises(LpxError, match=absent):
        load_landmarked(tmp_path)


def test_load_without_the_column_split(folder, tmp_path):
    (copied(folder, tmp_path) / "faces.csv").write_text("file,identity\nann_0.png,ann\n")
    (face,) = load_landmarked(tmp_path)
    assert face.split == ""


def test_load_table_written_by_a_spreadsheet(folder, tmp_path):
    (copied(folder, tmp_path) / "faces.csv").write_bytes(
        b"\xef\xbb\xbffile,identity\r\nann_0.png,ann\r\n"
    )
    assert [face.identity for face in load_landmarked(tmp_path)] == ["ann"]


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "names", "lengths"])
def test_load_damaged_landmarks(folder, tmp_path, damage):
    path = copied(folder, tmp_path) / "landmarks.npz"
    if damage == "names":
        np.savez(path, names=np.array(["ann_0.png"]))
    elif damage == "lengths":
        np.savez(path, files=np.array(["ann_0.png"]), points=np.zeros((2, 40, 2)))
    else:
        data = path.read_bytes()
        path.write_bytes(
            {"empty": b"", "text": b"text", "truncated": data[: len(data) // 2]}[damage]
        )
    with pytest.raises(LpxError, match=r"landmarks\.npz cannot be read"):
        load_landmarked(tmp_path)


def saved(path, **changed):
    """Landmarks of three faces, some arrays of which are others."""
    names = [f"{name}_0.png" for name in ("ann", "bob", "cem")]
    arrays = {"files": np.array(names), "points": np.zeros((3, 40, 2), np.float32)}
    np.savez_compressed(path, **(arrays | changed))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"points": np.zeros((3, 40, 3))}, "expected float32 [3, P, 2]"),
        ({"points": np.zeros((3, 80))}, "expected float32 [3, P, 2]"),
        ({"points": np.zeros((40, 3, 2))}, "expected float32 [3, P, 2]"),
        ({"points": np.full((3, 40, 2), "x")}, "expected float32 [3, P, 2]"),
        ({"points": np.full((3, 40, 2), np.nan)}, "landmarks of ann_0.png are not finite"),
        ({"files": np.array(["ann_0.png", "bob_0.png", "ann_0.png"])}, "ann_0.png more than once"),
        ({"files": np.array([b"ann_0.png", b"bob_0.png", b"c"])}, "not an array of texts"),
        ({"files": np.array(["a", None, "c"])}, "holds Python objects"),
    ],
)
def test_landmarks_of_another_shape_are_refused(folder, tmp_path, changed, said):
    saved(copied(folder, tmp_path) / "landmarks.npz", **changed)
    with pytest.raises(LpxError, match=r"landmarks\.npz cannot be read") as caught:
        load_landmarked(tmp_path)
    assert said in caught.value.why


@pytest.mark.parametrize("place", range(60, 800, 53))
def test_a_flipped_byte_in_landmarks_is_refused_or_harmless(folder, tmp_path, place):
    path = copied(folder, tmp_path) / "landmarks.npz"
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
    try:
        faces = load_landmarked(tmp_path)
    except LpxError:
        return
    assert len(faces) == 6


def test_an_array_in_place_of_an_archive_is_refused(folder, tmp_path):
    path = copied(folder, tmp_path) / "landmarks.npz"
    with path.open("wb") as stream:
        np.save(stream, np.zeros((6, 40, 2)))
    with pytest.raises(LpxError, match=r"landmarks\.npz cannot be read"):
        load_landmarked(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,identity\nann_0.png,\n", "line 2 names no identity"),
        ("file,identity\nann_0.png,ann\n../x.png,bob\n", "line 3 names the file '../x.png'"),
        ("file,identity,set\nann_0.png,ann,train\n", "line 1 names the column 'set'"),
        ("file;identity\nann_0.png;ann;x\n", "line 2 has 3 cells for 2 columns"),
    ],
)
def test_a_table_of_faces_that_would_lose_something(folder, tmp_path, text, said):
    (copied(folder, tmp_path) / "faces.csv").write_text(text)
    with pytest.raises(LpxError) as caught:
        load_landmarked(tmp_path)
    assert said in caught.value.what


def test_a_table_of_faces_names_files_that_exist(folder, tmp_path):
    (copied(folder, tmp_path) / "bob_0.png").unlink()
    with pytest.raises(LpxError, match=r"bob_0\.png does not exist \(1 faces"):
        load_landmarked(tmp_path)


def test_a_table_of_faces_from_another_program(folder, tmp_path):
    text = "# portraits\r\nFile;Identity;Split\r\n.\\ann_0.png;ann;Validation\r\n"
    (copied(folder, tmp_path) / "faces.csv").write_bytes(text.encode("utf-16"))
    (face,) = load_landmarked(tmp_path)
    assert (face.path, face.identity, face.split) == (tmp_path / "ann_0.png", "ann", "val")


def person(identity, number=0):
    return LandmarkedFace(Path(f"{identity}_{number}.png"), identity, "", landmarks())


@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=30),
    cuts=st.tuples(st.integers(0, 10), st.integers(0, 10)).map(sorted),
    seed=st.integers(0, 2**32 - 1),
)
def test_split_is_disjoint_in_identities_and_loses_no_face(counts, cuts, seed):
    everyone = tuple(person(f"p{i:02d}", n) for i, c in enumerate(counts) for n in range(c))
    shares = (cuts[0] / 10, (cuts[1] - cuts[0]) / 10, 1 - cuts[1] / 10)
    split = split_identities(everyone, shares, seed)
    assert list(split) == ["train", "val", "test"]
    groups = [{face.identity for face in part} for part in split.values()]
    assert sum(len(group) for group in groups) == len(set().union(*groups)) == len(counts)
    assert sum(len(part) for part in split.values()) == len(everyone)
    for part, share in zip(groups, shares, strict=True):
        assert abs(len(part) - share * len(counts)) <= 1
    # In the order of the set, and the same again.
    for part in split.values():
        assert list(part) == [face for face in everyone if face in part]
    assert split_identities(everyone, shares, seed) == split


def test_split_depends_on_the_seed():
    everyone = tuple(person(f"p{i:02d}") for i in range(20))
    parts = {
        tuple(face.identity for face in split_identities(everyone, (0.5, 0.2, 0.3), seed)["train"])
        for seed in range(5)
    }
    assert len(parts) == 5


@pytest.mark.parametrize("number", [0, 1, 2, 7, 1000])
def test_pair_is_a_pure_function_of_its_number(faces, number):
    first, second = PairSource(faces, KINDS, seed=5), PairSource(faces, KINDS, seed=5)
    # Others in between, in another order, change nothing.
    second.fake(3)
    second.real(number + 1)
    assert np.array_equal(first.fake(number), second.fake(number))
    assert np.array_equal(first.real(number), second.real(number))
    other = PairSource(faces, KINDS, seed=6)
    assert not np.array_equal(first.fake(number), other.fake(number))


def test_pair_shows_two_images_of_one_size(faces):
    source = PairSource(faces, KINDS, seed=0)
    for number in range(6):
        real, fake = source.real(number), source.fake(number)
        assert real.shape == fake.shape == (SIZE, SIZE, 3)
        assert real.dtype == fake.dtype == np.uint8
        assert not np.array_equal(real, fake)


def test_kinds_take_turns_and_every_face_comes_up_once_before_any_again(faces):
    source = PairSource(faces, KINDS, seed=0)
    assert [source.kind(n) for n in range(6)] == ["sbi", "alpha", "poisson"] * 2
    turns = len(faces) * len(KINDS)
    for start in (0, turns):
        for kind in range(3):
            drawn = [source.face(n).path for n in range(start + kind, start + turns, 3)]
            assert sorted(drawn) == sorted(face.path for face in faces)


def test_swap_takes_another_identity(faces):
    taken = []

    def spy(kind, face, points, other, other_points, rng):
        taken.append((kind, points, other_points))
        return Forgery(face, np.zeros(face.shape[:2], np.float32))

    source = PairSource(faces, KINDS, seed=0, make=spy)
    for number in range(60):
        source.fake(number)
    owner = {face.points.tobytes(): face.identity for face in faces}
    for kind, points, other in taken:
        same = owner[points.tobytes()] == owner[other.tobytes()]
        assert same == (kind == "sbi")
    # And any of the others.
    assert len({(owner[p.tobytes()], owner[o.tobytes()]) for k, p, o in taken if k != "sbi"}) == 6


def test_both_of_a_pair_get_the_same_augmentation(faces):
    """With a fake that equals its real, the two images of the pair are equal."""

    def unchanged(kind, face, points, other, other_points, rng):
        rng.random(17)
        return Forgery(face, np.zeros(face.shape[:2], np.float32))

    source = PairSource(faces, KINDS, seed=1, make=unchanged)
    for number in range(20):
        assert np.array_equal(source.real(number), source.fake(number))


@pytest.mark.parametrize("kinds", [("alpha",), ("poisson",), KINDS, ("sbi", "alpha")])
def test_swaps_of_one_identity_are_refused(faces, kinds):
    with pytest.raises(LpxError, match="only one: ann") as caught:
        PairSource(faces[:2], kinds, seed=0)
    assert "sbi" in caught.value.fix


def test_one_identity_can_be_blended_into_itself(faces):
    assert PairSource(faces[:1], ("sbi",), seed=0).fake(0).shape == (SIZE, SIZE, 3)


@given(seed=st.integers(0, 2**32 - 1))
def test_augmentation_depends_on_the_generator_alone(seed):
    image = textured(1, 64)
    first = augment(image, np.random.default_rng(seed))
    assert (first.shape, first.dtype) == (image.shape, np.uint8)
    assert np.array_equal(first, augment(image.copy(), np.random.default_rng(seed)))
    # As much is drawn for any image: the next draw is the same.
    draws = []
    for each in (image, np.zeros_like(image), textured(2, 64)):
        rng = np.random.default_rng(seed)
        augment(each, rng)
        draws.append(rng.random())
    assert len(set(draws)) == 1


def test_augmentation_varies():
    image = textured(1, 64)
    made = {augment(image, np.random.default_rng(seed)).tobytes() for seed in range(20)}
    assert len(made) == 20


def test_parts_of_the_augmentation_that_do_nothing():
    image = textured(1, 64)
    assert np.array_equal(crop_jitter(image, 0.0, 0.0, 0.0), image)
    assert np.array_equal(channel_offset(image, np.zeros(3, np.int64)), image)
    assert np.array_equal(resolution_loss(image, 1.0), image)
    assert np.abs(colour_shift(image, 0, 0, 0, 0).astype(int) - image).max() <= 4
    smooth = cv2.GaussianBlur(image, (0, 0), 4)
    assert np.abs(jpeg_round_trip(smooth, 100).astype(int) - smooth).mean() < 2


def test_channel_offset_is_clamped():
    image = np.array([[[0, 100, 250]]], np.uint8)
    assert channel_offset(image, np.array([-10, 20, 10])).tolist() == [[[0, 120, 255]]]


def test_colour_shift_directions():
    image = textured(1, 64)
    assert colour_shift(image, 1, 0, 0, 0).mean() > image.mean() + 15
    assert colour_shift(image, 0, 1, 0, 0).std() > image.std() * 1.1
    grey = np.repeat(image[..., :1], 3, axis=2)
    assert np.ptp(colour_shift(grey, 0, 0, 1, 1).astype(int), axis=2).max() <= 1


def test_crop_jitter_enlarges_about_the_middle():
    image = np.zeros((64, 64, 3), np.uint8)
    image[24:40, 24:40] = 255
    larger = crop_jitter(image, 0.08, 0.0, 0.0)
    assert larger.mean() == pytest.approx(image.mean() / 0.92**2, rel=0.05)
    moved = crop_jitter(image, 0.08, 0.03, -0.03)
    rows, columns = (np.average(np.arange(64), weights=moved.sum((a, 2))) for a in (1, 0))
    assert columns == pytest.approx(31.5 + 0.03 * 64, abs=0.6)
    assert rows == pytest.approx(31.5 - 0.03 * 64, abs=0.6)
