from __future__ import annotations

import pytest

from lpx.data.datasets import open_videos
from lpx.errors import LpxError
from tests.data.trees import touch, write

METADATA = {
    "aa.mp4": {"label": "FAKE", "split": "train", "original": "bb.mp4"},
    "bb.mp4": {"label": "REAL", "split": "train"},
}
LABELS = "filename,label\ncc.mp4,1\ndd.mp4,0\n"


@pytest.fixture
def dfdc(tmp_path):
    """Two parts of the training set, and a test set."""
    for part, name in ((10, "aa.mp4"), (2, "ee.mp4")):
        folder = f"dfdc_train_part_{part}"
        table = METADATA if part == 10 else {name: METADATA["aa.mp4"]}
        write(tmp_path / folder / "metadata.json", table)
        touch(tmp_path / folder, *table)
    write(tmp_path / "test" / "labels.csv", LABELS)
    return touch(tmp_path, "test/cc.mp4", "test/dd.mp4")


def labels(videos):
    return {video.name: video.label for video in videos.videos}


def test_train_labels_come_from_the_metadata_of_every_part(dfdc):
    videos = open_videos("dfdc", root=dfdc, split="train")
    assert labels(videos) == {
        "dfdc_train_part_2/ee": 1,
        "dfdc_train_part_10/aa": 1,
        "dfdc_train_part_10/bb": 0,
    }
    assert {video.split for video in videos.videos} == {"train"}
    assert {video.method for video in videos.videos} == {"real", "fake"}
    assert "2 of the 50 parts" in videos.note
    assert "does not name the people" in videos.note


@pytest.mark.parametrize("below", ["", "videos/"])
def test_test_labels_come_from_the_csv(tmp_path, below):
    write(tmp_path / "test" / "labels.csv", "\ufeff" + LABELS.replace("\n", "\r\n"))
    touch(tmp_path, f"test/{below}cc.mp4", f"test/{below}dd.mp4")
    videos = open_videos("dfdc", root=tmp_path, split="test")
    assert labels(videos) == {f"test/{below}cc": 1, f"test/{below}dd": 0}


def test_parts_may_lie_below_train(dfdc):
    (dfdc / "train").mkdir()
    (dfdc / "dfdc_train_part_2").rename(dfdc / "train" / "dfdc_train_part_02")
    names = list(labels(open_videos("dfdc", root=dfdc, split="train")))
    assert names[0] == "train/dfdc_train_part_02/ee"


def test_there_is_no_validation_split(dfdc):
    with pytest.raises(LpxError, match="no videos for val") as caught:
        open_videos("dfdc", root=dfdc, split="val")
    assert "it has videos for train, test" in str(caught.value)


def test_missing_videos_and_lists_are_named(dfdc):
    (dfdc / "dfdc_train_part_10" / "bb.mp4").unlink()
    (dfdc / "dfdc_train_part_2" / "metadata.json").unlink()
    videos = open_videos("dfdc", root=dfdc)
    assert videos.missing == ("dfdc_train_part_10/bb", "dfdc_train_part_2/metadata.json")
    assert labels(videos) == {"dfdc_train_part_10/aa": 1, "test/cc": 1, "test/dd": 0}
    assert "No real video is on disk." in open_videos("dfdc", root=dfdc, split="train").note
    with pytest.raises(LpxError, match=r"metadata\.json"):
        open_videos("dfdc", root=dfdc, strict=True)


def test_a_test_set_without_labels_is_an_error_that_names_them(dfdc):
    (dfdc / "test" / "labels.csv").unlink()
    with pytest.raises(LpxError, match=r"no video of dfdc is on disk.*\n.*test/labels\.csv"):
        open_videos("dfdc", root=dfdc, split="test")


@pytest.mark.parametrize("label", ["fake", 1, None])
def test_a_train_label_of_another_form_is_named(dfdc, label):
    write(dfdc / "dfdc_train_part_2" / "metadata.json", {"ee.mp4": {"label": label}})
    with pytest.raises(LpxError, match=r"'ee\.mp4' has the label"):
        open_videos("dfdc", root=dfdc)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("filename,label\ncc.mp4,FAKE\n", "line 2: 'cc.mp4' has the label 'FAKE'"),
        ("cc.mp4,1\n", "no column filename, label"),
        ("filename,label\n../../cc.mp4,1\n", "line 2: .* leaves the data set's folder"),
        ("filename,label\nzz.mp4,1\nzz.mp4,0\n", "lists test/zz twice"),
    ],
)
def test_a_damaged_csv_is_named(dfdc, text, what):
    write(dfdc / "test" / "labels.csv", text)
    with pytest.raises(LpxError, match=what):
        open_videos("dfdc", root=dfdc)


def test_metadata_that_leaves_the_root_is_refused(dfdc):
    write(dfdc / "dfdc_train_part_2" / "metadata.json", {"/../x.mp4": METADATA["aa.mp4"]})
    with pytest.raises(LpxError, match=r"'/\.\./x\.mp4' leaves the data set's folder"):
        open_videos("dfdc", root=dfdc)


PREVIEW = {
    "original_videos/1044/1044_A_001.mp4": {
        "label": "real",
        "set": "train",
        "target_id": 1044,
        "swapped_id": None,
        "augmentations": [],
    },
    "method_A/1044/1044_77_B_002.mp4": {
        "label": "fake",
        "set": "train",
        "target_id": 1044,
        "swapped_id": 77,
        "augmentations": ["fps"],
    },
    "method_B/55/55_66_C_003.mp4": {
        "label": "fake",
        "set": "test",
        "target_id": "55",
        "swapped_id": "66",
        "augmentations": [],
    },
    "original_videos/55/55_A_000.mp4": {"label": "real", "set": "test", "target_id": "55"},
}


@pytest.fixture
def dfdcp(tmp_path):
    write(tmp_path / "dataset.json", PREVIEW)
    return touch(tmp_path, *PREVIEW)


def test_the_preview_tells_methods_splits_and_identities(dfdcp):
    videos = open_videos("dfdcp", root=dfdcp, strict=True)
    assert [(v.label, v.method, v.split, v.identities) for v in videos.videos] == [
        (0, "real", "train", ("1044",)),
        (1, "method_A", "train", ("1044", "77")),
        (1, "method_B", "test", ("55", "66")),
        (0, "real", "test", ("55",)),
    ]
    assert [video.name + ".mp4" for video in videos.videos] == list(PREVIEW)
    assert "no official validation split" in videos.note


def test_the_preview_is_not_taken_for_the_set_nor_the_set_for_the_preview(dfdcp, tmp_path):
    with pytest.raises(LpxError, match=r"DFDC \(Deepfake Detection Challenge\) was not found"):
        open_videos("dfdc", root=dfdcp)
    set_root = touch(tmp_path / "set", "dfdc_train_part_0/metadata.json", "dataset.json")
    with pytest.raises(LpxError, match=r"DFDCP .* was not found"):
        open_videos("dfdcp", root=set_root)


def test_methods_of_the_preview(dfdcp):
    methods = [v.method for v in open_videos("dfdcp", root=dfdcp, methods=("METHOD_B",)).videos]
    assert methods == ["real", "method_B", "real"]
    with pytest.raises(LpxError, match="no videos for train of method_B"):
        open_videos("dfdcp", root=dfdcp, methods=("method_B",), split="train")


def test_videos_that_a_copy_gathered_are_found_under_their_listed_names(dfdcp):
    listed = dfdcp / "method_A/1044/1044_77_B_002.mp4"
    gathered = dfdcp / "method_A/videos/1044_77_B_002.mp4"
    gathered.parent.mkdir()
    listed.rename(gathered)
    fake = open_videos("dfdcp", root=dfdcp, strict=True).videos[1]
    assert (fake.name, fake.path) == ("method_A/1044/1044_77_B_002", gathered)
    gathered.unlink()
    assert open_videos("dfdcp", root=dfdcp).missing == ("method_A/1044/1044_77_B_002",)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("method_A/x.mp4", {"label": "FAKE"}),
        ("method_A/x.mp4", {"set": "validation"}),
        ("method_A/x.mp4", {"set": None}),
        ("method_C/x.mp4", {}),
    ],
)
def test_a_damaged_entry_of_the_preview_is_named(dfdcp, name, change):
    write(dfdcp / "dataset.json", {name: {"label": "fake", "set": "test", **change}})
    with pytest.raises(LpxError, match=rf"dataset\.json: '{name}' has label"):
        open_videos("dfdcp", root=dfdcp)


@pytest.mark.parametrize("name", ["../x.mp4", r"method_A\..\..\x.mp4", "/method_A/../x.mp4"])
def test_entries_of_the_preview_that_leave_the_root_are_refused(dfdcp, name):
    write(dfdcp / "dataset.json", {name: {"label": "fake", "set": "test"}})
    with pytest.raises(LpxError, match="leaves the data set's folder"):
        open_videos("dfdcp", root=dfdcp)


def test_windows_paths_of_the_preview_are_understood(dfdcp):
    table = {name.replace("/", "\\"): entry for name, entry in PREVIEW.items()}
    write(dfdcp / "dataset.json", table)
    assert len(open_videos("dfdcp", root=dfdcp, strict=True).videos) == 4


def test_without_its_list_the_preview_is_not_opened(dfdcp):
    (dfdcp / "dataset.json").unlink()
    with pytest.raises(LpxError, match=r"dataset\.json does not exist"):
        open_videos("dfdcp", root=dfdcp)
