from __future__ import annotations

import shutil

import numpy as np
import pytest

from lpx.data.face_sets.demo_clip import clip_path
from lpx.errors import LpxError
from lpx.streams.capacity.videos import VideoLoop, find_videos, open_cameras, require_faces
from tests.support.streaming import FixedDetector


def test_a_video_goes_on_from_its_beginning():
    loop = VideoLoop(clip_path())
    frames = [loop.read() for _ in range(125)]
    loop.close()
    assert frames[0].shape == (288, 384, 3)
    for later in (60, 120):
        assert np.array_equal(frames[later], frames[0])
    assert not np.array_equal(frames[1], frames[0])


def test_it_may_begin_anywhere():
    plain, later = VideoLoop(clip_path()), VideoLoop(clip_path(), 67)
    frames = [plain.read() for _ in range(8)]
    first = later.read()
    # Beyond its 60 frames it goes on from the first one.
    assert any(np.array_equal(first, frame) for frame in frames)


def test_cameras_take_videos_in_turns_at_different_frames(tmp_path):
    shutil.copy(clip_path(), tmp_path / "b.mp4")
    cameras = open_cameras((clip_path(), tmp_path / "b.mp4"), 4)
    assert [camera.path.name for camera in cameras] == ["clip.mp4", "b.mp4"] * 2
    first = [camera.read() for camera in cameras]
    assert np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], first[2])
    for camera in cameras:
        camera.close()


def test_a_folder_with_other_files(tmp_path):
    shutil.copy(clip_path(), tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"no video")
    (tmp_path / "c.txt").write_text("x")
    found = find_videos(tmp_path)
    assert [path.name for path in found.paths] == ["a.mp4"]
    assert [skipped.name for skipped in found.skipped] == ["b.mp4"]


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [("a.mp4", b"", "damaged"), ("a.mp4", b"x" * 1000, "damaged"), ("a.png", None, "not-found")],
)
def test_nothing_to_decode(tmp_path, name, data, code):
    import cv2

    if data is None:
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    else:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(LpxError) as caught:
        find_videos(tmp_path)
    assert caught.value.code == code


def test_videos_without_a_face_are_refused():
    require_faces(find_videos(clip_path()), FixedDetector(1))
    with pytest.raises(LpxError, match="the videos have no face"):
        require_faces(find_videos(clip_path()), FixedDetector(0))


def test_a_video_that_vanishes(tmp_path):
    shutil.copy(clip_path(), tmp_path / "a.mp4")
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(LpxError, match="can no longer be read"):
        VideoLoop(tmp_path / "a.mp4")
