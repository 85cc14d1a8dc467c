from __future__ import annotations

import re

import cv2
import pytest

from lpx.data.datasets import open_videos
from lpx.errors import LpxError
from tests.data.trees import ffpp_names, ffpp_splits, ffpp_tree, touch, write

FOUR = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
TRAIN, VAL, TEST = [("071", "054"), ("001", "870")], [("720", "672")], [("953", "974")]
PAIRS = {"train": TRAIN, "val": VAL, "test": TEST}
ALL = [*TRAIN, *VAL, *TEST]


@pytest.fixture
def root(tmp_path):
    """Lists of two, one and one pairs, and all their videos at c23."""
    return ffpp_splits(touch(tmp_path / "ff", *ffpp_names(ALL, FOUR)), **PAIRS)


def stems(videos, method):
    return [video.path.stem for video in videos.videos if video.method == method]


@pytest.mark.parametrize("split", PAIRS)
def test_a_pair_gives_two_reals_and_two_fakes_of_each_method(root, split):
    videos = open_videos("ffpp-c23", root=root, split=split)
    pairs = PAIRS[split]
    assert stems(videos, "real") == [name for pair in pairs for name in pair]
    for method in FOUR:
        assert stems(videos, method) == [f"{x}_{y}" for a, b in pairs for x, y in ((a, b), (b, a))]
    assert len(videos.videos) == 10 * len(pairs)
    assert {video.split for video in videos.videos} == {split}
    assert all(video.label == (video.method != "real") for video in videos.videos)
    assert (videos.name, videos.root, videos.missing) == ("ffpp-c23", root, ())


def test_all_splits_together_hold_every_video_once_and_share_no_identity(root):
    videos = open_videos("ffpp-c23", root=root).videos
    assert len({video.name for video in videos}) == len(videos) == 40
    people = {s: {p for v in videos if v.split == s for p in v.identities} for s in PAIRS}
    assert people == {s: {name for pair in PAIRS[s] for name in pair} for s in PAIRS}


def test_a_fake_has_two_identities_target_first(root):
    videos = {video.name: video for video in open_videos("ffpp-c23", root=root).videos}
    fake = videos["manipulated_sequences/FaceSwap/c23/videos/974_953"]
    assert (fake.identities, fake.method, fake.label) == (("974", "953"), "FaceSwap", 1)
    assert videos["original_sequences/youtube/c23/videos/974"].identities == ("974",)


def test_same_named_videos_of_methods_stay_apart(root):
    videos = open_videos("ffpp-c23", root=root, split="test").videos
    same = [video for video in videos if video.path.stem == "953_974"]
    assert len({(video.name, video.method) for video in same}) == len(same) == 4


@pytest.mark.parametrize("folder", ["raw", "c0"])
def test_raw_has_two_names(tmp_path, folder):
    ffpp_splits(touch(tmp_path, *ffpp_names(ALL, FOUR, folder)), **PAIRS)
    videos = open_videos("ffpp-raw", root=tmp_path)
    assert (len(videos.videos), videos.missing) == (40, ())
    assert all(f"/{folder}/" in video.name for video in videos.videos)


def test_raw_may_be_spread_over_both_names(tmp_path):
    names = ffpp_names(TEST, ["FaceSwap"], "raw")[:3] + ffpp_names(TEST, ["FaceSwap"], "c0")[2:]
    ffpp_splits(touch(tmp_path, *names), test=TEST)
    videos = open_videos("ffpp-raw", root=tmp_path, split="test", methods=("FaceSwap",))
    levels = [video.path.parts[-3] for video in videos.videos]
    assert levels == ["raw", "raw", "raw", "c0"]


def test_levels_are_not_mixed(root):
    touch(root, "original_sequences/youtube/c40/videos/953.mp4")
    videos = open_videos("ffpp-c40", root=root, split="test")
    assert [video.path.parts[-3] for video in videos.videos] == ["c40"]
    assert len(videos.missing) == 9
    with pytest.raises(LpxError, match="no videos of level raw") as caught:
        open_videos("ffpp-raw", root=root)
    assert "levels found there: c23, c40" in str(caught.value)
    assert "-c raw" in str(caught.value)


def test_frame_dumps_stand_in_for_videos(tmp_path):
    names = ffpp_names(TEST, ["Deepfakes"])
    dump = "original_sequences/youtube/c23/images/953"
    touch(tmp_path, *names[1:], f"{dump}/0000.png", f"{dump}/0001.png")
    ffpp_splits(tmp_path, test=TEST)
    first, second, *_ = open_videos("ffpp-c23", root=tmp_path, methods=("deepfakes",)).videos
    assert (first.name, first.path, first.identities) == (dump, tmp_path / dump, ("953",))
    assert second.path.suffix == ".mp4"


def test_frames_in_place_of_videos_are_named_with_the_way_that_works(tmp_path):
    names = [
        name.replace("/videos/", "/frames/").removesuffix(".mp4")
        for name in ffpp_names(TEST, ["Deepfakes"])
    ]
    touch(tmp_path, *(f"{name}/{frame:03d}.png" for name in names for frame in range(2)))
    ffpp_splits(tmp_path, test=TEST)
    asked = {"root": tmp_path, "split": "test", "methods": ("Deepfakes",)}
    with pytest.raises(LpxError, match="no video of ffpp-c23 is on disk") as caught:
        open_videos("ffpp-c23", **asked)
    assert "original_sequences/youtube/c23/frames" in caught.value.fix
    assert "deepfakebench:FILE.json" in caught.value.fix
    # The other way that the hint names.
    for frames in list(tmp_path.glob("*/*/c23/frames")):
        frames.rename(frames.with_name("images"))
    assert len(open_videos("ffpp-c23", strict=True, **asked).videos) == 4


@pytest.mark.parametrize("place", ["masks/videos", "masks", "masks/any/depth"])
def test_masks_have_no_compression_level(root, place):
    touch(root, f"manipulated_sequences/Deepfakes/{place}/953_974.mp4")
    fakes = open_videos("ffpp-c23", root=root, split="test", methods=("Deepfakes",)).videos[2:]
    path = root / "manipulated_sequences/Deepfakes" / place / "953_974.mp4"
    assert [fake.mask for fake in fakes] == [path, None]


def test_methods_are_chosen_and_reals_come_with_them(root):
    touch(root, "manipulated_sequences/FaceShifter/c23/videos/953_974.mp4")
    videos = open_videos("ffpp-c23", root=root, split="test", methods=("faceshifter",))
    assert [video.path.stem for video in videos.videos] == ["953", "974", "953_974"]
    assert videos.missing == ("manipulated_sequences/FaceShifter/c23/videos/974_953",)
    with pytest.raises(LpxError, match="unknown method 'Deepfake'") as caught:
        open_videos("ffpp-c23", root=root, methods=("Deepfake",))
    assert "did you mean Deepfakes?" in str(caught.value)
    assert ", ".join((*FOUR, "FaceShifter", "DeepFakeDetection")) in str(caught.value)


def test_deepfake_detection_shows_actors_and_has_no_split(root):
    real = "original_sequences/actors/c23/videos/01__walking_outside.mp4"
    fake = "manipulated_sequences/DeepFakeDetection/c23/videos/01_27__walking_outside__AB12.mp4"
    touch(root, real, fake)
    videos = open_videos("ffpp-c23", root=root, methods=("DeepFakeDetection",), split="test")
    assert [(v.method, v.identities, v.split) for v in videos.videos] == [
        ("real", ("actor_01",), ""),
        ("DeepFakeDetection", ("actor_01", "actor_27"), ""),
    ]
    assert "without official splits" in videos.note
    for methods in (("DeepFakeDetection",), ("DeepFakeDetection", "FaceSwap")):
        with pytest.raises(LpxError, match=r"no videos for train of .*DeepFakeDetection"):
            open_videos("ffpp-c23", root=root, methods=methods, split="train")


def test_deepfake_detection_needs_no_lists_and_must_be_there(tmp_path):
    touch(tmp_path, "original_sequences/actors/c23/videos/01__exit.mp4")
    with pytest.raises(LpxError, match="DeepFakeDetection holds no videos of level c23"):
        open_videos("ffpp-c23", root=tmp_path, methods=("DeepFakeDetection",))


def test_missing_videos_are_named_and_an_error_if_strict(root):
    lost = root / "manipulated_sequences/FaceSwap/c23/videos/974_953.mp4"
    lost.unlink()
    videos = open_videos("ffpp-c23", root=root, split="test")
    assert videos.missing == ("manipulated_sequences/FaceSwap/c23/videos/974_953",)
    assert len(videos.videos) == 9
    assert open_videos("ffpp-c23", root=root, split="train", strict=True).missing == ()
    with pytest.raises(LpxError, match="974_953") as caught:
        open_videos("ffpp-c23", root=root, split="test", strict=True)
    assert "9 videos of ffpp-c23 are on disk" in str(caught.value)
    assert "1 in all" in str(caught.value)


def test_only_the_lists_that_are_needed_must_be_there(root):
    (root / "train.json").unlink()
    assert len(open_videos("ffpp-c23", root=root, split="test").videos) == 10
    with pytest.raises(LpxError, match="split train is not on disk") as caught:
        open_videos("ffpp-c23", root=root)
    for place in ("train.json", "splits/train.json", "dataset/splits/train.json"):
        assert f"\n    {root / place}" in str(caught.value)
    assert "github.com/ondyari/FaceForensics" in str(caught.value)


@pytest.mark.parametrize("place", ["splits", "dataset/splits"])
def test_lists_may_lie_in_folders(root, place):
    (root / place).mkdir(parents=True)
    for split in PAIRS:
        (root / f"{split}.json").rename(root / place / f"{split}.json")
    assert len(open_videos("ffpp-c23", root=root).videos) == 40


def test_lists_from_windows_are_read(root):
    text = (root / "test.json").read_text()
    (root / "test.json").write_bytes(b"\xef\xbb\xbf" + text.replace(",", ",\r\n").encode())
    assert len(open_videos("ffpp-c23", root=root, split="test", strict=True).videos) == 10


@pytest.mark.parametrize(
    "value",
    [
        [["953", "974"], ["953"]],
        [["953", "974"], "954"],
        [["953", "974"], [1, 2]],
        [["953", "974"], ["../../etc", "001"]],
        [["953", "974"], ["1", "001"]],
        [["953", "974"], ["٠٠١", "001"]],
    ],
)
def test_entries_that_are_no_pairs_are_named(root, value):
    write(root / "test.json", value)
    with pytest.raises(LpxError, match=r"test\.json, entry 2: .* is not a pair of ids"):
        open_videos("ffpp-c23", root=root, split="test")


@pytest.mark.parametrize("value", [{"953": "974"}, "953", None])
def test_a_list_of_another_shape_is_named(root, value):
    write(root / "test.json", value if value != "953" else '"953"')
    with pytest.raises(LpxError, match=r"test\.json, entry 1"):
        open_videos("ffpp-c23", root=root, split="test")


def test_a_list_that_is_no_json_is_named(root):
    write(root / "test.json", "404: Not Found")
    with pytest.raises(LpxError, match=r"test\.json is not JSON"):
        open_videos("ffpp-c23", root=root, split="test")


def test_splits_that_share_an_identity_are_refused(root):
    write(root / "test.json", [["953", "054"]])
    with pytest.raises(LpxError, match=r"train\.json and test\.json both list 054"):
        open_videos("ffpp-c23", root=root)


def test_a_list_of_another_length_than_the_official_is_said(root):
    assert "test.json: 1 pairs, officially 70." in open_videos("ffpp-c23", root=root).note


def test_the_tiny_tree_is_complete_and_plays(tmp_path):
    methods = ("Deepfakes", "FaceSwap")
    root = ffpp_tree(tmp_path, methods=methods, frames=3, masks=True)
    videos = open_videos("ffpp-c23", root=root, methods=methods, strict=True).videos
    assert len(videos) == 12
    for video in videos:
        for path in filter(None, (video.path, video.mask)):
            capture = cv2.VideoCapture(str(path))
            frames = [capture.read()[1] for _ in range(3)]
            assert [frame.shape for frame in frames] == [(240, 320, 3)] * 3, path
            assert not capture.read()[0]
    assert re.fullmatch(r"\d{3}_\d{3}", videos[-1].mask.stem)
    assert {video.split for video in videos} == {"train", "test"}
