from __future__ import annotations

import json

import pytest

from lpx.data.datasets import open_videos
from lpx.data.datasets.deepfakebench import LABELS
from lpx.errors import LpxError
from tests.data.trees import touch, write

FOLDERS = {
    "FF-real": "original_sequences/youtube",
    "FF-DF": "manipulated_sequences/Deepfakes",
    "FF-NT": "manipulated_sequences/NeuralTextures",
}
HOME = "FaceForensics++"


def listed(folder, count=3, prefix="", windows=False):
    """Frames of a folder in the order of no file system in particular."""
    paths = [f"{prefix}{folder}/{index:03d}.png" for index in (2, *range(2), *range(3, count))]
    return [path.replace("/", "\\") for path in paths] if windows else paths


def entry(label, folder, **more):
    return {"label": label, "frames": listed(folder, **more)}


def ffpp(levels=("c23",), **more):
    """A file with levels: a real and two same-named fakes for training, one of each for testing."""
    table = {}
    for label, sequence in FOLDERS.items():
        table[label] = {"train": {}, "val": {}, "test": {}}
        for split, real, fake in (("train", "071", "071_054"), ("test", "953", "953_974")):
            name = real if label == "FF-real" else fake
            for level in levels:
                folder = f"{HOME}/{sequence}/{level}/frames/{name}"
                table[label][split][level] = {name: entry(label, folder, **more)}
    return {HOME: table}


def frames_of(value):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from inner if name in ("frames", "masks") else frames_of(inner)


def put(root, table, prefix=""):
    """The listed frames below `root`, without a prefix."""
    paths = [path.replace("\\", "/").removeprefix(prefix) for path in frames_of(table)]
    return touch(root, *paths)


def opened(path, root=None, **more):
    return open_videos(f"deepfakebench:{path}", root=root, **more)


@pytest.fixture
def bench(tmp_path):
    """The file in one folder, its frames in another."""
    table = ffpp()
    put(tmp_path / "crops", table)
    return write(tmp_path / "lists" / "FaceForensics++.json", table), tmp_path / "crops"


def test_a_video_is_a_folder_of_sorted_frames_that_are_crops_already(bench):
    path, root = bench
    videos = opened(path, root, split="train", strict=True)
    folder = root / HOME / "manipulated_sequences/Deepfakes/c23/frames/071_054"
    fake = next(video for video in videos.videos if video.method == "Deepfakes")
    assert fake.path == folder
    assert fake.frames == tuple(folder / f"{index:03d}.png" for index in range(3))
    assert (fake.label, fake.split, fake.identities) == (1, "train", ("071", "054"))
    assert (videos.crop, videos.root, videos.missing) == ("aligned-1.3-256", root, ())


def test_same_named_videos_of_methods_stay_apart(bench):
    videos = opened(*bench, split="test").videos
    assert {video.name: video.method for video in videos} == {
        f"{HOME}/FF-real/c23/953": "real",
        f"{HOME}/FF-DF/c23/953_974": "Deepfakes",
        f"{HOME}/FF-NT/c23/953_974": "NeuralTextures",
    }


@pytest.mark.parametrize(
    ("prefix", "windows"),
    [
        ("", True),
        ("./", False),
        (".\\datasets\\rgb\\", True),
        ("datasets/", False),
        ("F:/some one/data sets/", False),
        ("F:\\daten\\Größe\\", True),
        ("/home/some one/data/", False),
        ("/mnt/data/", True),
        (r"\\server\share\data\\"[:-1], True),
    ],
)
@pytest.mark.parametrize("below", ["", "rgb", "datasets/rgb", HOME])
def test_paths_of_other_machines_are_found(tmp_path, prefix, windows, below):
    """Whatever their prefix, with frames below the data root or in what DeepfakeBench calls so."""
    path = write(tmp_path / "lists" / "f.json", ffpp(prefix=prefix, windows=windows))
    frames = put(tmp_path / "crops" / below, ffpp(), f"{HOME}/" if below == HOME else "")
    videos = opened(path, tmp_path / "crops", strict=True)
    assert (len(videos.videos), videos.missing) == (6, ())
    assert all(frame.is_relative_to(frames) for v in videos.videos for frame in v.frames)


def test_frames_beside_the_file_are_found_without_a_root(bench, monkeypatch):
    path, root = bench
    monkeypatch.delenv("LPX_DATA", raising=False)
    path = path.rename(root / "list.json")
    assert len(opened(path, strict=True).videos) == 6
    deeper = root / "preprocessing" / "dataset_json"
    deeper.mkdir(parents=True)
    assert len(opened(path.rename(deeper / "list.json"), strict=True).videos) == 6


def test_nothing_that_tells_methods_apart_is_taken_for_a_prefix(tmp_path):
    """Below one method's folder the frames of another, which has the same names, are not found."""
    path = write(tmp_path / "lists" / "f.json", ffpp())
    method = tmp_path / "crops" / "Deepfakes"
    put(method, {"frames": [f"c23/frames/{v}/000.png" for v in ("071_054", "953_974")]})
    with pytest.raises(LpxError, match="DeepfakeBench's face crops was not found"):
        opened(path, method)


def test_the_folder_of_a_lone_video_is_no_prefix(tmp_path):
    """Or else any folder at all would do in its place."""
    one = {"set": {"FF-DF": {"test": {"953_974": entry("FF-DF", "set/frames/953_974")}}}}
    path = write(tmp_path / "lists" / "f.json", one)
    touch(tmp_path / "crops", "000.png", "001.png", "002.png")
    with pytest.raises(LpxError, match="DeepfakeBench's face crops was not found"):
        opened(path, tmp_path / "crops")


def test_an_absolute_path_never_leads_out_of_the_root(bench):
    path, root = bench
    write(path, ffpp(prefix=f"{root}/"))
    assert len(opened(path, root, strict=True).videos) == 6
    table = ffpp()
    table[HOME]["FF-DF"]["test"]["c23"]["953_974"]["frames"].append("/etc/passwd")
    videos = opened(write(path, table), root)
    assert videos.missing == (f"{HOME}/FF-DF/c23/953_974/passwd",)
    assert all(frame.is_relative_to(root) for v in videos.videos for frame in v.frames)


@pytest.mark.parametrize("bad", ["../x.png", r"FaceForensics++\..\..\x.png", "/etc/../passwd"])
@pytest.mark.parametrize("field", ["frames", "masks"])
def test_paths_that_leave_the_root_are_refused_and_named(bench, bad, field):
    path, root = bench
    table = ffpp()
    table[HOME]["FF-DF"]["test"]["c23"]["953_974"].setdefault(field, []).append(bad)
    write(path, table)
    with pytest.raises(
        LpxError, match=r"'953_974': the path .* leaves the data set's folder"
    ) as caught:
        opened(path, root)
    assert repr(bad) in str(caught.value)


def test_the_level_is_chosen_and_levels_are_not_mixed(tmp_path):
    table = ffpp(("c40", "raw", "c23"))
    root = put(tmp_path / "crops", table)
    path = write(tmp_path / "f.json", table)
    usual = opened(path, root)
    assert {video.path.parts[-3] for video in usual.videos} == {"c23"}
    assert "lists levels c23, c40, raw; these are the crops of c23" in usual.note
    assert {v.path.parts[-3] for v in opened(f"{path}@c40", root).videos} == {"c40"}
    with pytest.raises(LpxError, match="lists nothing of level c0"):
        opened(f"{path}@c0", root)


def without_level(*, dataset="Celeb-DF-v2", real="CelebDFv2_real", fake="CelebDFv2_fake"):
    def videos(label, folder, *names):
        return {name: entry(label, f"{dataset}/{folder}/frames/{name}") for name in names}

    train = videos(real, "Celeb-real", "id0_0000", "id1_0000")
    swaps = videos(fake, "Celeb-synthesis", "id0_id1_0000", "id2_id3_0000")
    test, test_swaps = dict([list(train.items())[1]]), dict([list(swaps.items())[1]])
    return {
        dataset: {
            real: {"train": train, "val": test, "test": test},
            fake: {"train": swaps, "val": test_swaps, "test": test_swaps},
        }
    }


def test_a_file_without_levels(tmp_path):
    table = without_level()
    path = write(tmp_path / "Celeb-DF-v2.json", table)
    videos = opened(path, put(tmp_path, table), strict=True).videos
    assert [(v.name, v.label, v.identities) for v in videos if v.split == "train"] == [
        ("Celeb-DF-v2/CelebDFv2_real/id0_0000", 0, ("id0",)),
        ("Celeb-DF-v2/CelebDFv2_fake/id0_id1_0000", 1, ("id0", "id1")),
    ]
    with pytest.raises(LpxError, match="the set has no levels"):
        opened(f"{path}@c23", tmp_path)


def test_a_video_in_several_splits_counts_for_the_last_alone(tmp_path):
    """As published, training holds the test videos and validation is the test set."""
    table = without_level()
    path = write(tmp_path / "f.json", table)
    videos = opened(path, put(tmp_path, table))
    assert len({video.name for video in videos.videos}) == len(videos.videos) == 4
    assert "2 videos are listed in train and in val; they count for val only." in videos.note
    assert "2 videos are listed in val and in test; they count for test only." in videos.note
    train, test = (opened(path, tmp_path, split=split) for split in ("train", "test"))
    assert not {v.name for v in train.videos} & {v.name for v in test.videos}
    with pytest.raises(LpxError, match="no videos for val"):
        opened(path, tmp_path, split="val")


def test_a_bare_entry_in_place_of_videos_is_passed_over_and_said(tmp_path):
    """DFDC's file holds in "val" what one video should hold."""
    table = {
        "DFDC": {
            label: {
                "train": {"a": entry(label, f"DFDC/train/p0/frames/{label}")},
                "test": {"b": entry(label, f"DFDC/test/frames/{label}")},
                "val": entry(label, f"DFDC/test/frames/{label}"),
            }
            for label in ("DFDC_Real", "DFDC_Fake")
        }
    }
    videos = opened(write(tmp_path / "DFDC.json", table), put(tmp_path, table), strict=True)
    assert len(videos.videos) == 4
    assert "4 entries of DFDC.json name no video" in videos.note


def test_every_published_label_has_its_side(tmp_path):
    table = {
        "set": {
            label: {"train": {"v": entry(label, f"set/{label}/frames/v")}, "val": {}, "test": {}}
            for label in LABELS
        }
    }
    videos = opened(write(tmp_path / "f.json", table), put(tmp_path, table), strict=True).videos
    reals = {video.name.split("/")[1] for video in videos if video.label == 0}
    assert reals == {label for label in LABELS if label.lower().endswith("real")}
    assert len(videos) == len(LABELS)
    assert all((video.method == "real") == (video.label == 0) for video in videos)


def test_an_unknown_label_is_named_with_the_known(bench):
    path, root = bench
    for label in ("FF-XY", "surreal", "DFDCP_FakeC"):
        write(path, {"new": {label: {"train": {}, "val": {}, "test": {}}}})
        with pytest.raises(LpxError, match=f"unknown label '{label}'") as caught:
            opened(path, root)
        assert "X_Real and X_Fake of any X, and FF-real, FF-DF, FF-F2F" in str(caught.value)


def df40(sets):
    """A file of DF40 with a real and a fake video in each set."""
    return {
        name: {
            f"{label}_{kind}": {
                "test": {video: entry(f"{label}_{kind}", f"DF40/{name}/{kind}/{video}")}
            }
            for kind, video in zip(("Real", "Fake"), videos, strict=True)
        }
        for name, (label, *videos) in sets.items()
    }


def test_sets_of_df40_name_the_method_whatever_their_labels_say(tmp_path):
    """The published `simswap_ff` has the labels `roop_Real` and `roop_Fake`."""
    table = df40(
        {
            "simswap_ff": ("roop", "000", "000_003"),
            "uniface_cdf": ("uniface", "id0_0001", "id0_id1_0001"),
            "sd2.1_ff": ("sd2.1", "001", "001"),
            "MidJourney": ("MidJourney", "a", "b"),
            "whichisreal": ("whichisreal", "c", "d"),
        }
    )
    path = write(tmp_path / "DF40.json", table)
    videos = opened(path, put(tmp_path, table), strict=True).videos
    assert [(v.method, v.label, v.identities) for v in videos] == [
        ("real", 0, ("000",)),
        ("simswap", 1, ("000", "003")),
        ("real", 0, ("id0",)),
        ("uniface", 1, ("id0", "id1")),
        ("real", 0, ("001",)),
        ("sd2.1", 1, ("001",)),
        ("real", 0, ()),
        ("MidJourney", 1, ()),
        ("real", 0, ()),
        ("whichisreal", 1, ()),
    ]
    chosen = opened(path, tmp_path, methods=("simswap",)).videos
    assert {video.method for video in chosen} == {"real", "simswap"}


def test_a_label_by_rule_that_contradicts_is_refused(tmp_path):
    table = df40({"simswap_ff": ("simswap", "000", "000_003")})
    put(tmp_path, table)
    for label in ("simswap_Fake", "fake", 1):
        table["simswap_ff"]["simswap_Real"]["test"]["000"]["label"] = label
        path = write(tmp_path / "simswap_ff.json", table)
        with pytest.raises(LpxError, match=f"'000' below simswap_Real has the label '{label}'"):
            opened(path, tmp_path)


def test_a_label_inside_that_contradicts_is_refused(bench):
    path, root = bench
    table = ffpp()
    table[HOME]["FF-DF"]["test"]["c23"]["953_974"]["label"] = "FF-real"
    write(path, table)
    with pytest.raises(LpxError, match="'953_974' below FF-DF has the label 'FF-real'"):
        opened(path, root)


def test_methods_are_those_of_the_file(bench):
    path, root = bench
    videos = opened(path, root, methods=("neuraltextures",)).videos
    assert {video.method for video in videos} == {"real", "NeuralTextures"}
    with pytest.raises(LpxError, match="this set has: Deepfakes, NeuralTextures"):
        opened(path, root, methods=("FaceSwap",))


def test_missing_frames_and_videos_are_named(bench):
    path, root = bench
    folder = root / HOME / FOLDERS["FF-DF"] / "c23" / "frames"
    (folder / "953_974" / "001.png").unlink()
    for frame in (folder / "071_054").iterdir():
        frame.unlink()
    videos = opened(path, root)
    assert videos.missing == (
        f"{HOME}/FF-DF/c23/071_054",
        f"{HOME}/FF-DF/c23/953_974/001.png",
    )
    assert next(v for v in videos.videos if v.method == "Deepfakes").frames == (
        folder / "953_974" / "000.png",
        folder / "953_974" / "002.png",
    )
    with pytest.raises(LpxError, match="2 in all"):
        opened(path, root, strict=True)


def test_a_video_without_frames_is_missing(bench):
    path, root = bench
    table = ffpp()
    table[HOME]["FF-DF"]["test"]["c23"]["953_974"]["frames"] = []
    videos = opened(write(path, table), root, split="test")
    assert videos.missing == (f"{HOME}/FF-DF/c23/953_974",)


def test_masks_are_a_folder(bench):
    path, root = bench
    table = ffpp()
    masks = f"{HOME}/manipulated_sequences/Deepfakes/c23/masks/953_974"
    table[HOME]["FF-DF"]["test"]["c23"]["953_974"]["masks"] = [f"{masks}/000.png"]
    write(path, table)
    put(root, table)
    fakes = [video for video in opened(path, root, split="test").videos if video.label]
    assert [fake.mask for fake in fakes] == [root / masks, None]


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    table = without_level()
    swap = table["Celeb-DF-v2"]["CelebDFv2_fake"]["train"]["id0_id1_0000"]
    folder = "Celeb-DF-v2/Celeb-synthesis/frames/id0_id1_0000"
    swap["frames"] = [f"{folder}/{number}.png" for number in (100, 9, 99, 10, 9)]
    videos = opened(write(tmp_path / "f.json", table), put(tmp_path, table), split="train").videos
    assert [frame.stem for frame in videos[-1].frames] == ["9", "10", "99", "100"]


@pytest.mark.parametrize(
    "table",
    [
        {"a": []},
        {"a": {"FF-DF": []}},
        {"a": {"FF-DF": {"training": {}}}},
        {"a": {"FF-DF": {"train": {"v": {"frames": [1]}}}}},
        {"a": {"FF-DF": {"train": {"v": {"frames": ["a/b/c.png"], "masks": "x"}}}}},
        {"a": {"FF-DF": {"train": {"v": {"frames": []}}}}},
        {},
    ],
)
def test_files_of_another_shape_are_named(tmp_path, table):
    path = write(tmp_path / "other.json", table)
    with pytest.raises(LpxError, match=r"other\.json"):
        opened(path, tmp_path)


def test_the_file_is_looked_for_below_the_roots_too(bench, tmp_path, monkeypatch):
    path, root = bench
    path.rename(root / "list.json")
    assert len(opened("list.json", root, strict=True).videos) == 6
    monkeypatch.delenv("LPX_DATA", raising=False)
    with pytest.raises(LpxError, match=r"other\.json does not exist") as caught:
        opened("other.json", root)
    assert str(root / "other.json") in str(caught.value)


def test_a_file_from_windows_is_read(bench):
    path, root = bench
    text = json.dumps(ffpp(windows=True), indent=1).replace("\n", "\r\n")
    path.write_bytes(text.encode("utf-8-sig"))
    assert len(opened(path, root, strict=True).videos) == 6


def test_frames_that_are_nowhere_list_every_place(bench, tmp_path, monkeypatch):
    path, _ = bench
    monkeypatch.delenv("LPX_DATA", raising=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "crops").rename(tmp_path / "hidden")
    with pytest.raises(LpxError, match="was not found") as caught:
        opened(path, tmp_path / "empty")
    for place in ("empty", "empty/datasets/rgb", "lists"):
        assert f"\n    {tmp_path / place}" in str(caught.value)
