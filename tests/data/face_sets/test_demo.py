"""The faces that ship with lpx."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pytest

from lpx.data.detect import FaceMesh, open_detector
from lpx.data.face_sets.demo import CHECKPOINT, PAIRS, demo_set, folder
from lpx.data.images.decode import read_image
from lpx.data.pseudo_fakes.blend import KINDS
from lpx.data.pseudo_fakes.landmarked import load_landmarked

INDEPENDENT = 10
"""Fewer people or videos in a class decide nothing."""


@pytest.fixture(scope="module")
def pictures():
    return load_landmarked(folder())


def people(split):
    return {name for face in demo_set(split).faces for name in face.identities}


def test_calibration_and_measurement_share_nobody(pictures):
    assert people("train").isdisjoint(people("test"))
    assert len(people("test")) >= 20
    assert {face.split for face in pictures} == {"train", "test"}
    assert people("train") | people("test") == {face.identity for face in pictures}


def test_every_person_is_measured_real_and_forged():
    faces = demo_set("test").faces
    for name in people("test"):
        own = [face.method for face in faces if face.identities[0] == name]
        assert set(own) == {"real", *KINDS}
    counts = Counter(face.method for face in faces)
    assert counts["real"] == len(faces) // 2
    assert max(counts[k] for k in KINDS) - min(counts[k] for k in KINDS) <= len(people("test"))


@pytest.mark.parametrize("split", ["train", "test"])
def test_faces_are_swapped_between_the_two_of_a_couple_only(split):
    partners: dict[str, set[str]] = {}
    for face in demo_set(split).faces:
        for name in face.identities:
            partners.setdefault(name, set()).update(face.identities)
    assert all(len(couple) == 2 for couple in partners.values())
    couples = {tuple(sorted(couple)) for couple in partners.values()}
    assert len(couples) == len(partners) / 2
    assert split == "train" or len(couples) >= INDEPENDENT


def test_a_video_has_several_frames_of_the_same_people():
    videos: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    frames = Counter()
    for face in demo_set("test").faces:
        videos.setdefault((face.method, face.video), set()).add(face.identities)
        frames[face.method, face.video] += 1
    assert all(len(who) == 1 for who in videos.values())
    assert sorted(frames.values())[len(frames) // 4] > 1
    for label in (0, 1):
        of_label = {method for method, _ in videos if (method != "real") == bool(label)}
        assert sum(method in of_label for method, _ in videos) >= INDEPENDENT


def test_the_first_few_faces_are_of_all_kinds(monkeypatch):
    monkeypatch.setitem(PAIRS, "test", 6)
    faces = demo_set("test").faces
    assert {face.method for face in faces} == {"real", *KINDS}
    assert len({face.identities[0] for face in faces}) == 6


def test_the_shipped_detector_finds_each_face_where_its_landmarks_are(pictures):
    detector, mesh = open_detector(), FaceMesh()
    assert len({face.path for face in pictures}) == len(pictures)
    for face in pictures:
        image = read_image(face.path)
        assert image.shape == (256, 256, 3)
        (found,) = detector.detect(image)
        again = mesh.landmarks(image, found.box, found.points)
        assert again.is_face
        assert np.linalg.norm(again.points - face.points, axis=1).mean() < 4, face.path.name


def test_nothing_ships_that_has_no_licence_or_is_not_needed(pictures):
    """The wheel takes the whole folder."""
    listed = {face.path.name for face in pictures}
    others = {path.name for path in folder().iterdir()} - listed
    assert others == {
        "LICENSE.md",
        "clip.mp4",
        "clip.csv",
        "faces.csv",
        "landmarks.npz",
        CHECKPOINT,
    }
    assert sum(path.stat().st_size for path in folder().iterdir()) < 5e6


def test_digest_is_of_what_the_faces_are_made_from(tmp_path, monkeypatch):
    from lpx.data.pseudo_fakes import pairs

    copy = tmp_path / "demo"
    shutil.copytree(folder(), copy)
    before = demo_set("train").digest()
    assert before != demo_set("test").digest()
    assert demo_set("train", pictures=copy).digest() == before
    picture = next(face.path for face in load_landmarked(copy) if face.split == "train")
    data = bytearray(picture.read_bytes())
    data[-20] ^= 1
    picture.write_bytes(data)
    assert demo_set("train", pictures=copy).digest() != before
    shutil.copytree(folder(), copy, dirs_exist_ok=True)
    assert demo_set("train", pictures=copy).digest() == before
    with np.load(copy / "landmarks.npz") as stored:
        points = stored["points"].copy()
        points[:, 0, 0] += 0.25
        np.savez(copy / "landmarks.npz", files=stored["files"], points=points)
    assert demo_set("train", pictures=copy).digest() != before
    assert demo_set("train", seed=1).digest() != before
    monkeypatch.setattr(pairs, "_made_by", lambda: "another release")
    assert demo_set("train").digest() != before
    monkeypatch.undo()
    assert demo_set("train").digest() == before
