from __future__ import annotations

import pytest

from lpx.data.datasets import KNOWN, open_videos
from lpx.errors import LpxError
from tests.data.trees import ffpp_names, ffpp_splits, touch

PAIR = [("953", "974")]
PLAIN = [name for name in KNOWN if name != "deepfakebench"]


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No settings, and a current folder without lpx.toml above it."""
    monkeypatch.delenv("LPX_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def ffpp(root):
    return ffpp_splits(touch(root, *ffpp_names(PAIR, ["FaceSwap"])), test=PAIR)


@pytest.mark.parametrize("name", ["ffpp", "faces", "", "ffpp-c23:x", "deepfakebench", "folder:x"])
def test_an_unknown_set_lists_the_known(name):
    with pytest.raises(LpxError, match=f"unknown video data set {name!r}") as caught:
        open_videos(name)
    for known in (*PLAIN, "deepfakebench:FILE.json"):
        assert known in str(caught.value)


def test_an_unknown_split_lists_the_known(tmp_path):
    with pytest.raises(LpxError, match="split must be one of train, val, test") as caught:
        open_videos("ffpp-c23", root=ffpp(tmp_path), split="testing")
    assert "train, val, test" in str(caught.value)


@pytest.mark.parametrize("name", PLAIN)
def test_a_set_that_is_not_there_lists_every_place_and_how_it_is_obtained(
    tmp_path, monkeypatch, name
):
    for folder in ("given", "one"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("LPX_DATA", f"{tmp_path / 'one'}:{tmp_path / 'unmounted'}")
    (tmp_path / "lpx.toml").write_text('[data]\nroot = "set"\n')
    with pytest.raises(LpxError, match="was not found") as caught:
        open_videos(name, root=tmp_path / "given")
    lines = str(caught.value).splitlines()
    for root, there in (("given", ""), ("one", ""), ("unmounted", " (no folder)")):
        assert f"    {tmp_path / root}{there}" in lines
        for folder in KNOWN[name].folders:
            assert f"    {tmp_path / root / folder} (no folder)" in lines
    assert f"    {tmp_path / 'set'} (no folder)" in lines
    assert KNOWN[name].obtained in lines[-1]


def test_without_any_root_it_is_said_how_to_name_one():
    with pytest.raises(LpxError, match="no data root is set") as caught:
        open_videos("celeb-df-v2")
    for way in ("`data_root`", "LPX_DATA", "lpx.toml"):
        assert way in str(caught.value)


@pytest.mark.parametrize("below", ["", "FaceForensics++", "ffpp"])
@pytest.mark.parametrize("way", ["given", "environment", "settings"])
def test_a_set_is_found_at_a_root_or_below_it_by_any_way(tmp_path, monkeypatch, below, way):
    root = ffpp(tmp_path / "data" / below)
    given = None
    if way == "given":
        given = tmp_path / "data"
    elif way == "environment":
        monkeypatch.setenv("LPX_DATA", str(tmp_path / "data"))
    else:
        (tmp_path / "lpx.toml").write_text('[data]\nroot = "data"\n')
    assert open_videos("ffpp-c23", root=given, methods=("FaceSwap",), strict=True).root == root


def test_the_first_root_that_holds_the_set_counts(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    first, second = ffpp(tmp_path / "first"), ffpp(tmp_path / "second")
    monkeypatch.setenv("LPX_DATA", f"{second}:{first}")
    assert open_videos("ffpp-c23", root=tmp_path / "empty").root == second
    assert open_videos("ffpp-c23", root=first).root == first


def test_a_set_behind_links_is_read_and_loops_are_not_followed(tmp_path):
    real = ffpp(tmp_path / "disk" / "here")
    root = tmp_path / "data" / "FaceForensics++"
    root.mkdir(parents=True)
    for part in real.iterdir():
        (root / part.name).symlink_to(part)
    videos = real / "manipulated_sequences" / "FaceSwap" / "c23" / "videos"
    (videos / "loop").symlink_to(real)
    (videos / "self").symlink_to("self")
    (real / "original_sequences" / "round").symlink_to(real / "original_sequences")
    found = open_videos("ffpp-c23", root=tmp_path / "data", methods=("FaceSwap",), strict=True)
    assert [video.path.stem for video in found.videos] == ["953", "974", "953_974", "974_953"]


def test_a_list_of_which_nothing_is_on_disk_is_an_error(tmp_path):
    ffpp_splits(tmp_path, test=PAIR)
    touch(tmp_path, "original_sequences/youtube/c23/other.txt")
    with pytest.raises(LpxError, match="no video of ffpp-c23 is on disk") as caught:
        open_videos("ffpp-c23", root=tmp_path, split="test")
    assert "original_sequences/youtube/c23/videos/953" in str(caught.value)
    assert "and 7 more" in str(caught.value)


def test_non_ascii_folders_are_no_matter(tmp_path):
    root = ffpp(tmp_path / "Größe 顔" / "FaceForensics++")
    assert open_videos("ffpp-c23", root=root.parent, methods=("FaceSwap",), strict=True).videos


def test_the_order_is_the_same_every_time(tmp_path):
    root = ffpp(tmp_path)
    assert open_videos("ffpp-c23", root=root) == open_videos("ffpp-c23", root=root)


def test_a_missing_class_is_said(tmp_path):
    root = ffpp(tmp_path)
    for path in (root / "original_sequences").rglob("*.mp4"):
        path.unlink()
    videos = open_videos("ffpp-c23", root=root, methods=("FaceSwap",))
    assert "No real video is on disk." in videos.note
    assert len(videos.missing) == 2
