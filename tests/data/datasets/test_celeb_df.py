from __future__ import annotations

import pytest

from lpx.data.datasets import open_videos
from lpx.errors import LpxError
from tests.data.trees import touch, write

LIST = "List_of_testing_videos.txt"
VIDEOS = (
    "Celeb-real/id0_0000.mp4",
    "Celeb-real/id1_0003.mp4",
    "Celeb-synthesis/id0_id1_0000.mp4",
    "Celeb-synthesis/id5_id6_0009.mp4",
    "YouTube-real/00000.mp4",
    "YouTube-real/00170.mp4",
)
TEST = (
    "1 YouTube-real/00170.mp4",
    "1 Celeb-real/id1_0003.mp4",
    "0 Celeb-synthesis/id0_id1_0000.mp4",
)


@pytest.fixture
def root(tmp_path):
    """Three test videos and three others, in the official layout."""
    write(tmp_path / LIST, "\n".join(TEST) + "\n")
    return touch(tmp_path, *VIDEOS)


def labels(videos):
    return {video.name: video.label for video in videos.videos}


def test_the_digit_1_stands_for_real(root):
    videos = open_videos("celeb-df-v2", root=root, split="test")
    assert labels(videos) == {
        "Celeb-real/id1_0003": 0,
        "YouTube-real/00170": 0,
        "Celeb-synthesis/id0_id1_0000": 1,
    }
    assert videos.missing == ()


def test_the_first_line_is_no_header(root):
    assert "YouTube-real/00170" in labels(open_videos("celeb-df-v2", root=root, split="test"))


def test_train_is_the_rest_and_there_is_no_validation_split(root):
    train = open_videos("celeb-df-v2", root=root, split="train")
    assert list(labels(train)) == [
        "Celeb-real/id0_0000",
        "YouTube-real/00000",
        "Celeb-synthesis/id5_id6_0009",
    ]
    assert "no official validation split" in train.note
    with pytest.raises(LpxError, match="no videos for val") as caught:
        open_videos("celeb-df-v2", root=root, split="val")
    assert "it has videos for train, test" in str(caught.value)
    assert len(open_videos("celeb-df-v2", root=root).videos) == 6


def test_identities_and_methods(root):
    videos = {video.name: video for video in open_videos("celeb-df-v2", root=root).videos}
    assert videos["Celeb-real/id1_0003"].identities == ("id1",)
    assert videos["Celeb-synthesis/id5_id6_0009"].identities == ("id5", "id6")
    assert videos["YouTube-real/00000"].identities == ()
    assert {video.method for video in videos.values()} == {"real", "Celeb-synthesis"}


def test_an_overlap_of_identities_is_said(root):
    assert (
        "1 identities are in train and in test: id0." in open_videos("celeb-df-v2", root=root).note
    )
    (root / "Celeb-real/id0_0000.mp4").unlink()
    assert "are in train and in test" not in open_videos("celeb-df-v2", root=root).note


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("0 Celeb-real/id1_0003.mp4", "Celeb-real"),
        ("0 YouTube-real/00170.mp4", "YouTube-real"),
        ("1 Celeb-synthesis/id0_id1_0000.mp4", "Celeb-synthesis"),
    ],
)
def test_a_digit_that_contradicts_the_folder_stops_everything(root, line, folder):
    write(root / LIST, f"{TEST[0]}\n{line}\n")
    with pytest.raises(LpxError, match=f"{LIST}, line 2: digit . contradicts the folder {folder}"):
        open_videos("celeb-df-v2", root=root)


@pytest.mark.parametrize(
    "line", ["YouTube-real/00170.mp4", "2 YouTube-real/1.mp4", "1 other/1.mp4", "1 1.mp4", "1,a"]
)
def test_a_line_of_another_form_is_named(root, line):
    write(root / LIST, f"{TEST[0]}\n\n{line}\n")
    with pytest.raises(LpxError, match=f"{LIST}, line 3: .* names no video"):
        open_videos("celeb-df-v2", root=root)


def test_a_line_that_leaves_the_root_is_refused(root):
    write(root / LIST, f"{TEST[0]}\n1 YouTube-real/../../00170.mp4\n")
    with pytest.raises(LpxError, match=r"line 2: .* leaves the data set's folder"):
        open_videos("celeb-df-v2", root=root)


@pytest.mark.parametrize("folder", ["Youtube-real", "youtube-real"])
@pytest.mark.parametrize("below", ["", "videos/"])
def test_copies_spell_and_nest_differently(tmp_path, folder, below):
    """The names are the official ones all the same, and so are the results."""
    write(tmp_path / LIST, "\n".join(TEST))
    for name in VIDEOS:
        inside, _, file = name.replace("YouTube-real", folder).partition("/")
        touch(tmp_path, f"{inside}/{below}{file}")
    videos = open_videos("celeb-df-v2", root=tmp_path)
    assert videos.missing == ()
    assert list(labels(videos)) == [name.removesuffix(".mp4") for name in sorted(VIDEOS, key=order)]


def order(name):
    return (name.startswith("Celeb-synthesis"), name)


def test_lists_may_spell_differently_too(root):
    write(root / LIST, "\ufeff1 Youtube-real\\00170.mp4\r\n1 celeb-real/id1_0003.mp4\r\n")
    videos = open_videos("celeb-df-v2", root=root, split="train")
    assert "YouTube-real/00170" not in labels(videos)
    assert "Celeb-real/id1_0003" not in labels(videos)


def test_missing_test_videos_are_named_and_counts_are_said(root):
    (root / "YouTube-real/00170.mp4").unlink()
    videos = open_videos("celeb-df-v2", root=root)
    assert videos.missing == ("YouTube-real/00170",)
    assert "YouTube-real: 1 videos, officially 300." in videos.note
    assert f"{LIST}: 3 videos, officially 518." in videos.note
    with pytest.raises(LpxError, match="YouTube-real/00170"):
        open_videos("celeb-df-v2", root=root, split="test", strict=True)
    assert open_videos("celeb-df-v2", root=root, split="train", strict=True).videos


def test_a_test_video_that_is_listed_twice_and_missing_is_refused(root):
    write(root / LIST, "1 YouTube-real/7.mp4\n1 Youtube-real/7.mp4\n")
    with pytest.raises(LpxError, match="lists YouTube-real/7 twice"):
        open_videos("celeb-df-v2", root=root)


def test_without_the_list_nothing_is_opened(root):
    (root / LIST).unlink()
    with pytest.raises(LpxError, match=f"{LIST} does not exist"):
        open_videos("celeb-df-v2", root=root)
