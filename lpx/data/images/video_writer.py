"""Write frames into a video file."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np

from lpx.data.images.decode import Image, silence
from lpx.errors import LpxError

# Limits of the frame rate that is written.
MIN_RATE_HZ, MAX_RATE_HZ = 0.1, 120.0

# A disk with fewer bytes left is probably the reason why a video cannot be written.
_NEARLY_FULL = 1 << 20


class VideoWriter:
    """Writes MPEG-4 video into an MP4 file.

    Args:
        path: The file, with the suffix .mp4.
        rate_hz: Frames per second, rounded to 0.01 and limited to `MIN_RATE_HZ` .. `MAX_RATE_HZ`.
        width: Width of every frame, pixels; even.
        height: Height of every frame, pixels; even.

    Raises:
        LpxError: It cannot be written.
    """

    def __init__(self, path: Path, rate_hz: float, width: int, height: int) -> None:
        self.path = path
        self.frames = 0
        self.size = (width, height)
        # MPEG-4 counts at most 65535 ticks per second: 106.667 Hz would need 106667.
        rate_hz = round(min(max(rate_hz, MIN_RATE_HZ), MAX_RATE_HZ), 2)
        # Not H.264: the FFmpeg in OpenCV's wheels has no software encoder for it.
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        with silence():
            # An absolute path: FFmpeg takes anything before a colon for a protocol.
            self._writer = cv2.VideoWriter(
                str(path.absolute()), cv2.CAP_FFMPEG, fourcc, rate_hz, self.size
            )
        if not self._writer.isOpened():
            raise _unwritten(path, "OpenCV cannot open it")

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
            LpxError: It does not open again with all its frames.
        """
        self._writer.release()
        # OpenCV does not report a full disk: only reading the file shows that frames are missing.
        with silence():
            capture = cv2.VideoCapture(str(self.path.absolute()), cv2.CAP_FFMPEG)
            written = 0
            if capture.isOpened():
                written = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            capture.release()
        if written != self.frames:
            why = f"it holds {written} of {self.frames} frames"
            free = shutil.disk_usage(self.path.parent).free
            if free < _NEARLY_FULL:
                why += f", and the disk has {free // 1024} KiB left"
            raise _unwritten(self.path, why)


def _unwritten(path: Path, why: str) -> LpxError:
    return LpxError(
        f"the video {path} cannot be written",
        why,
        "free some room, use another folder (`out`), or draw nothing (`overlay=False`)",
        code="unwritable",
    )
