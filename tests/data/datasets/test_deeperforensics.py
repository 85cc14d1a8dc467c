from __future__ import annotations

import pytest

from lpx.data.datasets import open_videos
from lpx.data.datasets.deeperforensics import VARIANTS
from lpx.errors import LpxError
from tests.data.trees import touch, write

SPLITS = {"train": ("000_M101", "001_W003"), "val": ("005_M007",), "test": ("900_W120",)}
ORIGINALS = "original_sequences/youtube/c23/videos"


@pytest.fixture
def home(tmp_path):
    """A data root with DeeperForensics (one variant, an actor) and FaceForensics++'s originals."""
    root = tmp_path / "DeeperForensics-1.0"
    for split, stems in SPLITS.items():
        write(root / f"lists/splits/{split}.txt", "\n".join(f"{stem}.mp4" for stem in stems))
        for stem in stems:
            touch(root, f"manipulated_videos/end_to_end/{stem}.mp4")
            touch(tmp_path / "FaceForensics++", f"{ORIGINALS}/{stem[:3]}.mp4")
    touch(root, "source_videos/M101/BlendShape/camera_front/M101_BlendShape_camera_front.mp4")
    return tmp_path


def opened(root, **more):
    return open_videos("deeperforensics", root=root, methods=("end_to_end",), **more)


@pytest.mark.parametrize("split", SPLITS)
def test_fakes_come_from_the_lists_and_reals_are_their_targets(home, split):
    videos = opened(home, split=split, strict=True).videos
    fakes = [video for video in videos if video.label]
    assert [video.path.stem for video in fakes] == list(SPLITS[split])
    assert [v.name for v in videos if not v.label] == [
        f"{ORIGINALS}/{stem[:3]}" for stem in SPLITS[split]
    ]
    assert {video.split for video in videos} == {split}


def test_the_actors_source_videos_are_not_the_reals(home):
    assert not any("source_videos" in video.name for video in opened(home).videos)


def test_identities_are_the_target_and_the_actor(home):
    videos = {video.path.stem: video for video in opened(home).videos}
    assert videos["001_W003"].identities == ("001", "W003")
    assert videos["001"].identities == ("001",)


def test_without_faceforensics_the_reals_are_missing_and_it_is_said(home):
    (home / "FaceForensics++").rename(home / "elsewhere")
    videos = opened(home, split="test")
    assert videos.missing == (f"{ORIGINALS}/900",)
    assert "No real video is on disk." in videos.note
    assert "originals of FaceForensics++ (c23)" in videos.note


def test_faceforensics_may_lie_beside_the_set(home):
    assert opened(home / "DeeperForensics-1.0", strict=True).missing == ()


def test_variants_that_are_not_on_disk_are_missing(home):
    videos = open_videos("deeperforensics", root=home, split="test")
    assert len(VARIANTS) == 11
    assert len(videos.missing) == 10
    assert "manipulated_videos/reenact_postprocess/900_W120" in videos.missing
    with pytest.raises(LpxError, match="unknown method 'end-to-end'"):
        open_videos("deeperforensics", root=home, methods=("end-to-end",))


def test_same_named_videos_of_variants_stay_apart(home):
    touch(home, "DeeperForensics-1.0/manipulated_videos/end_to_end_level_3/900_W120.mp4")
    videos = open_videos(
        "deeperforensics", root=home, split="test", methods=("end_to_end", "end_to_end_level_3")
    )
    assert [v.method for v in videos.videos] == ["real", "end_to_end", "end_to_end_level_3"]
    assert len({video.name for video in videos.videos}) == 3


def test_lists_from_windows_are_read(home):
    path = home / "DeeperForensics-1.0/lists/splits/train.txt"
    path.write_bytes(b"\xef\xbb\xbf000_M101.mp4\r\n001_W003.mp4\r\n\r\n")
    assert len(opened(home, split="train", strict=True).videos) == 4


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("000.mp4", "line 2: '000.mp4' names no manipulated video"),
        ("000_M101.mp4 1", "line 2"),
        ("../000_M101.mp4", "leaves the data set's folder"),
    ],
)
def test_a_damaged_list_is_named(home, line, what):
    write(home / "DeeperForensics-1.0/lists/splits/test.txt", f"900_W120.mp4\n{line}\n")
    with pytest.raises(LpxError, match=what):
        opened(home)


def test_a_list_that_is_not_there_is_named(home):
    (home / "DeeperForensics-1.0/lists/splits/val.txt").unlink()
    assert opened(home, split="test").videos
    with pytest.raises(LpxError, match=r"splits/val\.txt does not exist"):
        opened(home)
