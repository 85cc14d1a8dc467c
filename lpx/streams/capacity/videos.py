"""Videos that stand for cameras, decoded in a loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from lpx.data.detect import FaceDetector
from lpx.data.face_sets.face_set import Skipped
from lpx.data.images.decode import Image, silence
from lpx.data.images.media import find_media
from lpx.data.images.video_file import (
    UnreadableVideoError,
    open_capture,
    read_frames,
    upright_rgb,
)
from lpx.data.wording import some
from lpx.errors import LpxError

# Frames of each video in which faces are looked for before anything is measured.
_LOOKED_AT = 8


@dataclass(frozen=True)
class CameraVideos:
    """Videos that can be decoded.

    Attributes:
        paths: The videos.
        skipped: Videos that cannot be read.
    """

    paths: tuple[Path, ...]
    skipped: tuple[Skipped, ...] = ()


def find_videos(path: Path) -> CameraVideos:
    """Find the videos that a user named, and check that they can be decoded.

    Args:
        path: A video, or a folder of videos.

    Raises:
        LpxError: There are none, or none can be read.
    """
    paths, skipped = [], []
    media = find_media(path)
    for file in media.files:
        if file.kind != "video":
            continue
        try:
            for _ in read_frames(file.path, 1):
                paths.append(file.path)
        except UnreadableVideoError as error:
            skipped.append(Skipped(file.name, str(error)))
    if paths:
        return CameraVideos(tuple(paths), tuple(skipped))
    if not skipped:
        raise LpxError(
            f"{path} holds no video",
            "cameras are simulated with videos",
            "name a video, or a folder of videos",
            code="not-found",
        )
    raise LpxError(
        f"no video in {path} can be read",
        f"{skipped[0].name}: {skipped[0].reason}",
        "name a video that OpenCV can decode",
        code="damaged",
    )


def require_faces(videos: CameraVideos, detector: FaceDetector) -> None:
    """Check that there is a face in the videos: without one, no engine would do anything.

    Raises:
        LpxError: There is none.
    """
    for path in videos.paths:
        for frame in read_frames(path, _LOOKED_AT):
            if detector.detect(frame.pixels):
                return
    raise LpxError(
        "the videos have no face",
        f"{detector.name} found none in {_LOOKED_AT} frames of each of "
        f"{some([path.name for path in videos.paths])}, so that no engine would score anything",
        "use videos that show what the cameras will see",
    )


class VideoLoop:
    """Decodes a video again and again, as a camera that never ends.

    One frame after another, as a decoder has to: the file's own frame rate does not matter.

    Args:
        path: The video.
        start: Number of the frame to begin with.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path = path
        self._capture = self._open()
        for _ in range(start):
            # Not every file has so many frames: then it begins anywhere.
            if not self._capture.grab():
                self._rewind()

    def read(self) -> Image:
        """Decode the next frame, uint8 RGB [H, W, 3].

        Raises:
            LpxError: The video can no longer be read.
        """
        if not self._capture.grab():
            self._rewind()
        done, pixels = self._capture.retrieve()
        if not done:
            raise self._unreadable()
        return upright_rgb(self._capture, pixels)

    def close(self) -> None:
        """Close the video."""
        self._capture.release()

    def _open(self) -> cv2.VideoCapture:
        # One thread for each camera: several would decode frames ahead that are not due yet.
        capture = open_capture(self.path, [cv2.CAP_PROP_N_THREADS, 1])
        if not capture.isOpened():
            raise self._unreadable()
        return capture

    def _rewind(self) -> None:
        """Go to the first frame and decode it."""
        with silence():
            rewound = self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0) and self._capture.grab()
        if rewound:
            return
        # Some containers cannot be rewound.
        self._capture.release()
        self._capture = self._open()
        if not self._capture.grab():
            raise self._unreadable()

    def _unreadable(self) -> LpxError:
        return LpxError(
            f"{self.path} can no longer be read", "", "restore the video", code="damaged"
        )


def open_cameras(paths: Sequence[Path], streams: int) -> list[VideoLoop]:
    """Open a video for each camera, in turns and at different frames.

    Args:
        paths: Videos.
        streams: Number of cameras.

    Raises:
        LpxError: One cannot be opened.
    """
    cameras: list[VideoLoop] = []
    try:
        for number in range(streams):
            # Cameras of one video must not all decode its expensive frames at the same time.
            # 7 and 50 have no common factor: 50 cameras of a long video begin at different frames.
            start = 7 * (number // len(paths)) % 50
            cameras.append(VideoLoop(paths[number % len(paths)], start))
    except BaseException:
        for camera in cameras:
            camera.close()
        raise
    return cameras
