"""From frames to a video file."""

from __future__ import annotations

from pathlib import Path

import cv2

from lpx.data.decode import Image, silence
from lpx.errors import LpxError


class VideoWriter:
    """Writes MPEG-4 video into an MP4 file: OpenCV's own FFmpeg encodes no H.264.

    Args:
        path: The file; ends in .mp4.
        rate_hz: Frames per second.
        width: Of every frame, pixels; even.
        height: Of every frame, pixels; even.

    Raises:
        LpxError: It cannot be written.
    """

    def __init__(self, path: Path, rate_hz: float, width: int, height: int) -> None:
        self.path = path
        self.frames = 0
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        with silence():
            # An absolute path: FFmpeg takes what stands before a colon for a protocol.
            self._writer = cv2.VideoWriter(
                str(path.absolute()), cv2.CAP_FFMPEG, fourcc, rate_hz, (width, height)
            )
        if not self._writer.isOpened():
            raise _unwritten(path, "OpenCV does not open it")

    def write(self, frame: Image) -> None:
        """Add a frame, uint8 RGB [height, width, 3]."""
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def close(self) -> None:
        """Finish the file.

        Raises:
            LpxError: It does not open again with all its frames: OpenCV says nothing of a full
                disk.
        """
        self._writer.release()
        with silence():
            capture = cv2.VideoCapture(str(self.path.absolute()), cv2.CAP_FFMPEG)
            there = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
            capture.release()
        if there != self.frames:
            raise _unwritten(self.path, f"{there} of {self.frames} frames are in it")


def _unwritten(path: Path, why: str) -> LpxError:
    return LpxError(
        f"the video {path} cannot be written",
        why,
        "free the place, choose another with --out DIR, or leave pictures out with --no-overlay",
    )
