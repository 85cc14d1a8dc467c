from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lpx.data.face_sets.info import read_info, write_sheet
from lpx.data.face_sets.manifest import read_manifest_head, write_manifest
from lpx.data.face_sets.sets import is_video_set, open_set, prepare_command
from lpx.data.face_sets.summary import face_groups, overlaps
from lpx.data.face_sets.table import FaceRow, make_table
from lpx.data.images.decode import read_image
from lpx.data.prepare import prepare, prepared_sets
from lpx.data.prepare.workers import cut_videos
from lpx.data.roots import DataPlaces
from lpx.errors import LpxError
from lpx.render.encode import encode_png
from lpx.workspace import write_sealed
from tests.data.trees import ffpp_tree, portrait, swapped, touch, write

OPTIONS = {"methods": ("Deepfakes",), "frames": 2, "cut": partial(cut_videos, processes=1)}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return ffpp_tree(tmp_path_factory.mktemp("videos") / "ffpp")


@pytest.fixture(scope="module")
def places(source, tmp_path_factory):
    """The videos, and a store in which they are prepared."""
    made = DataPlaces(source, tmp_path_factory.mktemp("store"))
    prepare("ffpp-c23", places=made, **OPTIONS)
    return made


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("LPX_DATA", "LPX_FACE_STORE"):
        monkeypatch.delenv(name, raising=False)


def test_a_prepared_set_opens_by_name(places):
    faces = open_set("ffpp-c23", "test", places=places)
    assert (faces.name, faces.split, faces.crop) == ("ffpp-c23", "test", "square-1.3")
    assert len(faces.faces) == 8
    assert set(faces.identities()) == {"002", "003"}
    assert len(open_set("ffpp-c23", "all", places=places).faces) == 16
    assert len(open_set("ffpp-c23", "train", places=places, crop="square-1.3").faces) == 8
    assert "No faces of Face2Face, FaceSwap, NeuralTextures were prepared." in faces.note


def test_a_prepared_set_opens_by_its_folder(places):
    folder = places.store / "ffpp-c23-square-1.3-2"
    for name in (str(folder), f"folder:{folder}"):
        faces = open_set(name, "test")
        assert (faces.name, faces.split, faces.crop) == ("ffpp-c23", "test", "square-1.3")
        assert len(faces.faces) == 8


def test_a_damaged_prepared_folder_is_not_taken_for_a_plain_one(places, tmp_path):
    write(tmp_path / "manifest.json", '{"format": "lpx-faces/1"}')
    with pytest.raises(LpxError, match="is not as lpx wrote it"):
        open_set(str(tmp_path), "all")
    write_sealed(tmp_path / "manifest.json", {"format": "lpx-faces/0"})
    with pytest.raises(LpxError, match="has the format 'lpx-faces/0'"):
        open_set(str(tmp_path), "all")
    write(tmp_path / "manifest.json", "{")
    touch(tmp_path, "faces-0123.npz")
    with pytest.raises(LpxError, match="cannot be read"):
        open_set(str(tmp_path), "all")


def test_another_manifest_in_a_folder_of_crops_is_left_alone(tmp_path):
    write(tmp_path / "manifest.json", {"name": "a web app"})
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(encode_png(portrait(0)[0]))
    assert len(open_set(str(tmp_path), "all").faces) == 1


def test_not_prepared_says_where_it_looked_and_what_to_type(source, tmp_path):
    places = DataPlaces(source, tmp_path / "my store")
    with pytest.raises(LpxError, match=r"ffpp-c23 \(split test\) were not prepared") as caught:
        open_set("ffpp-c23", "test", places=places, crop="aligned-1.3-256")
    assert str(places.store) in caught.value.why
    assert f"its videos are in {source}" in caught.value.why
    assert caught.value.fix == (
        f"lpx data prepare ffpp-c23 --data-root {source} --store '{tmp_path}/my store' "
        "--split test --crop aligned-1.3-256"
    )


def test_without_videos_it_says_how_to_obtain_them(tmp_path):
    with pytest.raises(LpxError) as caught:
        open_set("celeb-df-v2", "test", places=DataPlaces(tmp_path, tmp_path / "store"))
    assert "Celeb-DF v2 was not found" in caught.value.why
    assert "fill out the form" in caught.value.why
    assert str(tmp_path) in caught.value.why


def test_a_split_that_was_not_prepared(source, tmp_path):
    places = DataPlaces(source, tmp_path)
    prepare("ffpp-c23", places=places, split="train", **OPTIONS)
    with pytest.raises(LpxError, match="were not prepared") as caught:
        open_set("ffpp-c23", "test", places=places)
    assert "--split test" in caught.value.fix


def test_another_recipe_than_the_model_wants(places):
    with pytest.raises(LpxError, match="was not prepared with the crop aligned") as caught:
        open_set("ffpp-c23", "test", places=places, crop="aligned-1.3-256")
    assert "ffpp-c23-square-1.3-2" in caught.value.why
    assert caught.value.fix.endswith("--crop aligned-1.3-256")


def test_several_ways_are_listed(source, tmp_path):
    places = DataPlaces(source, tmp_path)
    for frames in (1, 2):
        prepare("ffpp-c23", places=places, **OPTIONS | {"frames": frames})
    with pytest.raises(LpxError, match="prepared in 2 ways") as caught:
        open_set("ffpp-c23", "test", places=places)
    assert "2 frames per video" in caught.value.why
    assert f"{tmp_path}/ffpp-c23-square-1.3-1" in caught.value.fix
    with pytest.raises(LpxError, match="prepared in 2 ways"):
        read_info("ffpp-c23", places)
    # Another recipe, and it is clear which is meant.
    prepare("ffpp-c23", places=places, crop="aligned-1.3-256", **OPTIONS)
    faces = open_set("ffpp-c23", "test", places=places, crop="aligned-1.3-256")
    assert faces.crop == "aligned-1.3-256"


def test_sets_whose_names_begin_alike_are_not_mixed_up(places, tmp_path):
    assert prepared_sets(places.store, "ffpp-c2") == ()
    assert prepared_sets(places.store, "dfdc") == ()
    assert prepared_sets(tmp_path / "none", "dfdc") == ()
    assert len(prepared_sets(places.store, "ffpp-c23")) == 1


def test_what_the_name_means_does_not_grow_with_what_is_prepared(tmp_path):
    source = ffpp_tree(tmp_path / "ffpp", methods=("Deepfakes", "FaceShifter"))
    places = DataPlaces(source, tmp_path / "store")
    prepare("ffpp-c23", places=places, **OPTIONS)
    prepare("ffpp-c23", places=places, **OPTIONS | {"methods": ("FaceShifter",)})
    assert open_set("ffpp-c23", "test", places=places).methods() == ("Deepfakes", "real")
    whole = open_set(str(places.store / "ffpp-c23-square-1.3-2"), "test")
    assert set(whole.methods()) == {"Deepfakes", "FaceShifter", "real"}


def deepfakebench(root):
    """Crops as DeepfakeBench leaves them, and their list."""
    listed = {"FaceForensics++": {"FF-real": {"test": {"c23": {}}}, "FF-DF": {"test": {"c23": {}}}}}
    for label, image in (("FF-real", portrait(0)[0]), ("FF-DF", swapped(0, 1)[0])):
        video = "000" if label == "FF-real" else "000_001"
        folder = root / "FaceForensics++" / label / "frames" / video
        folder.mkdir(parents=True)
        for index in (0, 10):
            (folder / f"{index:03d}.png").write_bytes(encode_png(image))
        frames = [f"FaceForensics++\\{label}\\frames\\{video}\\{i:03d}.png" for i in (0, 10, 20)]
        listed["FaceForensics++"][label]["test"]["c23"][video] = {"label": label, "frames": frames}
    return write(root / "list.json", listed)


def test_crops_of_deepfakebench_open_where_they_lie(tmp_path):
    path = deepfakebench(tmp_path / "rgb")
    name = f"deepfakebench:{path}"
    faces = open_set(name, "test", places=DataPlaces(None, tmp_path / "store"))
    assert (faces.crop, faces.labels().tolist()) == ("aligned-1.3-256", [0, 0, 1, 1])
    assert faces.faces.details.frame.tolist() == [0, 10, 0, 10]
    assert faces.splits() == ("test",)
    assert faces.faces[0].source.read().shape == (216, 216, 3)
    assert "2 videos that the set's lists name were not on disk" in faces.note
    assert not (tmp_path / "store").exists()
    assert {part.faces for part in read_info(name, DataPlaces()).parts} == {2}
    with pytest.raises(LpxError, match="needs no preparation"):
        prepare(name, places=DataPlaces(None, tmp_path / "store"))


def test_names():
    assert is_video_set("ffpp-c23")
    assert is_video_set("deepfakebench:x.json")
    assert not is_video_set("demo")
    assert not is_video_set("folder:dfdc")
    with pytest.raises(LpxError, match="unknown data set 'ffpp'") as caught:
        open_set("ffpp", "test")
    assert "ffpp-c23" in caught.value.why
    assert "deepfakebench:FILE.json" in caught.value.why
    assert prepare_command("dfdc", "all", DataPlaces(), None) == "lpx data prepare dfdc"


def test_info_of_a_prepared_set(places, tmp_path):
    found = read_info("ffpp-c23", places)
    told = [(p.split, p.method, p.label, p.faces, p.videos, p.identities) for p in found.parts]
    assert told == [
        ("train", "real", 0, 4, 2, 2),
        ("train", "Deepfakes", 1, 4, 2, 2),
        ("test", "real", 0, 4, 2, 2),
        ("test", "Deepfakes", 1, 4, 2, 2),
    ]
    sizes = [read_image(face.source.path).shape[0] for face in found.faces.faces]
    assert found.sizes == (16, min(sizes), int(np.median(sizes)), max(sizes))
    assert found.overlaps == ()
    write_sheet(found, tmp_path / "sheet.png")
    sheet = read_image(tmp_path / "sheet.png")
    # Four rows of twelve places, of which four are taken.
    assert sheet.shape == (4 * (96 + 34), 12 * 96 + 20, 3)
    row = sheet[28 : 28 + 96, 10:-10]
    assert row[:, : 4 * 96].std() > 20
    assert (row[:, 4 * 96 :] == 255).all()


def test_info_of_videos_that_were_not_prepared(source, tmp_path):
    (tmp_path / "store").mkdir()
    found = read_info("ffpp-c23", DataPlaces(source, tmp_path / "store"))
    assert [(p.split, p.method, p.videos, p.faces) for p in found.parts] == [
        ("train", "real", 2, 0),
        ("train", "Deepfakes", 2, 0),
        ("test", "real", 2, 0),
        ("test", "Deepfakes", 2, 0),
    ]
    assert len(found.missing) == 12
    assert "lpx data prepare ffpp-c23 --data-root" in found.where
    with pytest.raises(LpxError, match="has no faces to draw"):
        write_sheet(found, tmp_path / "sheet.png")


def test_info_of_a_folder_and_of_the_demo(tmp_path):
    for name in ("real/a.png", "fake/x/b.png"):
        path = tmp_path / "crops" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_png(portrait(0)[0]))
    found = read_info("crops", DataPlaces())
    assert [(p.split, p.method, p.faces) for p in found.parts] == [("", "real", 1), ("", "x", 1)]
    assert found.sizes is None
    demo = read_info("demo", DataPlaces())
    assert {part.split for part in demo.parts} == {"train", "test"}


def test_people_in_two_splits_are_named(places, tmp_path):
    faces = open_set("ffpp-c23", "all", places=places)
    assert overlaps(faces) == ()
    folder = places.store / "ffpp-c23-square-1.3-2"
    table = make_table(
        tmp_path,
        [
            FaceRow(f.name, f.label, f.method, f.video, ("003", "000"), ("train", "test")[i % 2])
            for i, f in enumerate(faces.faces)
        ],
    )
    write_manifest(tmp_path, replace(read_manifest_head(folder), name="mixed"), table)
    found = overlaps(open_set(str(tmp_path), "all"))
    assert [(one.splits, one.identities) for one in found] == [(("train", "test"), ("000", "003"))]
    assert sum(part.faces for part in face_groups(open_set(str(tmp_path), "all"))) == 16


def test_a_public_name_wins_over_a_folder_of_its_name(tmp_path):
    Path("dfdc/real").mkdir(parents=True)
    Path("dfdc/real/a.png").write_bytes(encode_png(portrait(0)[0]))
    with pytest.raises(LpxError, match="were not prepared"):
        open_set("dfdc", "test")
    assert len(open_set("./dfdc", "test").faces) == 1
