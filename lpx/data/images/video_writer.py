"""From frames to a video file."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np

from lpx.data.images.decode import Image, silence
from lpx.errors import LpxError

MIN_RATE_HZ, MAX_RATE_HZ = 0.1, 120.0
"""What any player plays. MPEG-4 has no room for the ticks of arbitrary rates: 106.667 Hz would need
320000 of them, and 65535 is the limit."""

_FULL = 1 << 20
"""Bytes; a disk with less left is probably why a video cannot be written."""


class VideoWriter:
    """Writes MPEG-4 video into an MP4 file: OpenCV's own FFmpeg encodes no H.264.

    Args:
        path: The file; ends in .mp4.
        rate_hz: Frames per second, rounded to 0.01 and brought between `MIN_RATE_HZ` and
            `MAX_RATE_HZ`.
        width: Of every frame, pixels; even.
        height: Of every frame, pixels; even.

    Raises:
        LpxError: It cannot be written.
    """

    def __init__(self, path: Path, rate_hz: float, width: int, height: int) -> None:
        self.path = path
        self.frames = 0
        self.size = (width, height)
        rate_hz = round(min(max(rate_hz, MIN_RATE_HZ), MAX_RATE_HZ), 2)
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        with silence():
            # An absolute path: FFmpeg takes what stands before a colon for a protocol.
            self._writer = cv2.VideoWriter(
                str(path.absolute()), cv2.CAP_FFMPEG, fourcc, rate_hz, self.size
            )
        if not self._writer.isOpened():
            raise _unwritten(path, "OpenCV does not open it")

    def write(self, frame: Image) -> None:
        """Add a frame, uint8 RGB [height, width, 3]; one of another size is resized."""
        if frame.shape[1::-1] != self.size:
            frame = np.asarray(cv2.resize(frame, self.size), np.uint8)
        with silence():
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
            free = shutil.disk_usage(self.path.parent).free
            full = f", and the disk has {free // 1024} KiB left" if free < _FULL else ""
            raise _unwritten(self.path, f"{there} of {self.frames} frames are in it{full}")


def _unwritten(path: Path, why: str) -> LpxError:
    return LpxError(
        f"the video {path} cannot be written",
        why,
        "free the place, choose another with --out DIR, or leave pictures out with --no-overlay",
    )
