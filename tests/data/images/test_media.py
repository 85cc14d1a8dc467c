"""Every kind of picture and video that OpenCV reads is found, and what else there is is named."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lpx.data.images.media import find_media
from lpx.data.images.video_file import read_frames
from lpx.data.videos import VIDEO_SUFFIXES
from lpx.errors import LpxError
from tests.data.images.test_header import gif
from tests.data.trees import touch

CODECS = {
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".3gp", ".3g2"), "mp4v"),
    **dict.fromkeys((".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".mxf"), "MPG2"),
    **dict.fromkeys((".avi", ".mkv"), "MJPG"),
    **dict.fromkeys((".wmv", ".asf"), "WMV2"),
    ".m2v": "MPG2",
    ".flv": "FLV1",
    ".webm": "VP80",
    ".ogv": "THEO",
}
RENAMED = {".qt": ".mov", ".f4v": ".mp4", ".divx": ".avi", ".mpe": ".mpg"}


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_every_suffix_of_videos_names_a_container_that_is_read(tmp_path, suffix):
    made = tmp_path / f"x{RENAMED.get(suffix, suffix)}"
    codec = cv2.VideoWriter.fourcc(*CODECS[made.suffix])
    writer = cv2.VideoWriter(str(made), cv2.CAP_FFMPEG, codec, 25, (320, 240))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV does not write {made.suffix}")
    for value in range(5):
        writer.write(np.full((240, 320, 3), 40 * value, np.uint8))
    writer.release()
    path = made.rename(tmp_path / f"X{suffix.upper()}")
    (file,) = find_media(tmp_path).files
    assert (file.name, file.kind) == (path.name, "video")
    assert len(list(read_frames(path, 3))) == 3


def test_what_is_neither_is_counted_and_named(tmp_path):
    touch(tmp_path, "a.JFIF", "b.jpe", "c.avif", "d.heic", "e.heic", "notes.txt", "f")
    media = find_media(tmp_path)
    assert [(file.name, file.kind) for file in media.files] == [
        ("a.JFIF", "image"),
        ("b.jpe", "image"),
        ("c.avif", "image"),
    ]
    assert [(one.what, one.count) for one in media.left_out] == [
        ("files ending in .heic", 2),
        ("file without a suffix", 1),
    ]


def test_a_folder_of_nothing_but_unknown_files_names_them(tmp_path):
    touch(tmp_path, "d.heic", "e.heic")
    with pytest.raises(LpxError, match="holds no images and no videos") as caught:
        find_media(tmp_path)
    assert "2 files ending in .heic (d.heic, e.heic)" in caught.value.why


def test_a_gif_that_moves_is_a_video_of_all_its_pictures(tmp_path):
    (tmp_path / "moves.gif").write_bytes(gif(4))
    (tmp_path / "still.gif").write_bytes(gif(1))
    kinds = {file.name: file.kind for file in find_media(tmp_path).files}
    assert kinds == {"moves.gif": "video", "still.gif": "image"}
    assert find_media(tmp_path / "moves.gif").files[0].kind == "video"
    (tmp_path / "moves.gif").rename(tmp_path / "moves")
    assert find_media(tmp_path / "moves").files[0].kind == "video"
    assert len(list(read_frames(tmp_path / "moves", None))) == 4
