"""From a video, a file or a folder of numbered images, to evenly spaced frames.

Frames are decoded one after the other, never sought: exact in every codec, and cheaper (32 frames
of three H.264 files of 120 to 250 frames took 4 to 22 times as long with OpenCV's seeking).
"""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from lpx.data.decode import SUFFIXES, Image, UnreadableImageError, read_image, silence

MAX_FRAME_PIXELS = 36_000_000
"""A video of larger frames is refused; 8192 x 4320 pixels are less."""

# FFmpeg, inside OpenCV, writes to standard error what is reported here. It reads this once, before
# the first video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class UnreadableVideoError(Exception):
    """A video without a usable frame; the message says why, without the path."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a video.

    Attributes:
        index: Its number, from 0; in a folder, its place in the order.
        pixels: uint8 RGB [H, W, 3], upright.
    """

    index: int
    pixels: Image


class FrameReader(Iterator[Frame]):
    """Frames as they are decoded.

    Attributes:
        count: How many frames the video has.
        frames_per_second: 0 where unknown.
        note: Set with the last frame: what of the video is damaged; "" where nothing is.
    """

    def __init__(
        self, count: int, frames_per_second: float, frames: Generator[Frame, None, str]
    ) -> None:
        self.count = count
        self.frames_per_second = frames_per_second
        self.note = ""
        self._frames = frames

    def __next__(self) -> Frame:
        try:
            return next(self._frames)
        except StopIteration as done:
            self.note = done.value or self.note
            raise


def frame_indices(count: int, wanted: int | None) -> NDArray[np.int64]:
    """Evenly spaced frames, the first and the last among them.

    Args:
        count: Frames that there are.
        wanted: Frames to take, at least 1; all where there are fewer, or for None.

    Returns:
        int64 [min(count, wanted)], rising: linspace(0, count - 1, wanted), rounded.
    """
    if wanted is None:
        return np.arange(count, dtype=np.int64)
    if wanted < 1:
        raise ValueError(f"wanted is {wanted}, at least 1 frame must be")
    return np.unique(np.linspace(0, max(count - 1, 0), wanted).round().astype(np.int64))[:count]


Wanted = int | NDArray[np.int64] | None
"""How many frames, evenly spaced; or the numbers of those to take, rising; None for all."""


def read_frames(path: Path, wanted: Wanted, threads: int = 1) -> FrameReader:
    """Read evenly spaced frames of a video, or those of certain numbers.

    Where a frame does not decode, the next one that does takes its place. What decodes of a
    damaged video is given, and the reader's `note` says so.

    Args:
        path: A video file, or a folder of images in the order of the numbers in their names.
        wanted: How many frames to take, see `frame_indices`; or int64 [W], the numbers of those to
            take, rising, of which a shorter video gives those that it has.
        threads: The decoder's; 1 where several processes share the cores.

    Raises:
        UnreadableVideoError: At once: there is no file, it is empty, no video, too large, or has no
            frames. With the first frame: none decodes.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UnreadableVideoError(error.strerror or "cannot be read") from error
    if stat.S_ISDIR(status.st_mode):
        return _folder(path, wanted)
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableVideoError("neither a file nor a folder")
    if not status.st_size:
        raise UnreadableVideoError("file is empty")
    return _video(path, wanted, threads)


class _Source(Protocol):
    """Frames in their order."""

    def advance(self) -> bool:
        """Go to the next frame; False where it does not decode."""
        ...

    def pixels(self) -> Image | None:
        """The frame, uint8 RGB; None where it does not decode."""
        ...

    def close(self) -> None:
        """Free what is open."""
        ...


def _frames(
    source: _Source, count: int, indices: NDArray[np.int64], note: str
) -> Generator[Frame, None, str]:
    due = deque(indices.tolist())
    failed = given = 0
    try:
        for position in range(count):
            if not due:
                break
            ready = source.advance()
            if ready and position < due[0]:
                continue
            pixels = source.pixels() if ready else None
            if pixels is None:
                failed += 1
                continue
            while due and due[0] <= position:
                due.popleft()
            given += 1
            yield Frame(position, pixels)
    finally:
        source.close()
    if not given:
        raise UnreadableVideoError(f"none of its {count} frames decodes")
    damage = f"{failed} of {count} frames do not decode" if failed else ""
    return "; ".join(part for part in (note, damage) if part)


class _VideoSource:
    def __init__(self, capture: cv2.VideoCapture) -> None:
        self.capture = capture

    def advance(self) -> bool:
        return self.capture.grab()

    def pixels(self) -> Image | None:
        done, pixels = self.capture.retrieve()
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8) if done else None

    def close(self) -> None:
        self.capture.release()


def _video(path: Path, wanted: Wanted, threads: int) -> FrameReader:
    capture = _open(path, [cv2.CAP_PROP_N_THREADS, threads])
    if not capture.isOpened():
        raise UnreadableVideoError(
            "not a video that OpenCV can decode; an MP4 that was cut off looks so too"
        )
    width, height = (
        int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    )
    if width * height > MAX_FRAME_PIXELS:
        raise UnreadableVideoError(
            f"frames of {width} x {height} pixels are over the limit of "
            f"{MAX_FRAME_PIXELS // 1_000_000} megapixels"
        )
    rate, said = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    count = _count(path, said, threads)
    if not count:
        raise UnreadableVideoError("it has no frames that decode")
    note = f"its header names {said} frames, {count} are there" if count < said else ""
    frames = _frames(_VideoSource(capture), count, _numbers_of(count, wanted), note)
    return FrameReader(count, rate, frames)


def _open(path: Path, settings: list[int]) -> cv2.VideoCapture:
    # FFmpeg alone: OpenCV's reader of image sequences would take a digit in a name for a counter.
    # An absolute path: FFmpeg takes what stands before a colon for a protocol.
    with silence():
        return cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, settings)


def _count(path: Path, said: int, threads: int) -> int:
    """How many frames a video has.

    The header's number is a guess in some formats and wrong in a file that was cut off, so packets
    are counted too, which decodes nothing. Where the two differ only decoding can tell.
    """
    packets = 0
    undecoded = _open(path, [cv2.CAP_PROP_FORMAT, -1])
    while undecoded.grab():
        packets += 1
    if packets == said:
        return packets
    capture = _open(path, [cv2.CAP_PROP_N_THREADS, threads])
    count = 0
    # Frames that do not decode may stand before others that do.
    for position in range(packets):
        if capture.grab():
            count = position + 1
    return count


class _FolderSource:
    def __init__(self, files: list[Path]) -> None:
        self.files = iter(files)
        self.file = Path()

    def advance(self) -> bool:
        self.file = next(self.files)
        return True

    def pixels(self) -> Image | None:
        try:
            return read_image(self.file)
        except UnreadableImageError:
            return None

    def close(self) -> None:
        pass


def _folder(path: Path, wanted: Wanted) -> FrameReader:
    try:
        files = [f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file()]
    except OSError as error:
        raise UnreadableVideoError(error.strerror or "cannot be read") from error
    files = sorted((f for f in files if not f.name.startswith(".")), key=_numbers)
    if not files:
        raise UnreadableVideoError("the folder holds no images")
    source = _FolderSource(files)
    return FrameReader(
        len(files), 0.0, _frames(source, len(files), _numbers_of(len(files), wanted), "")
    )


def _numbers_of(count: int, wanted: Wanted) -> NDArray[np.int64]:
    if wanted is None or isinstance(wanted, int):
        return frame_indices(count, wanted)
    return wanted[wanted < count]


def _numbers(path: Path) -> tuple[list[int], str]:
    """Sorts frame 10 after frame 9, however many zeros their names have."""
    return [int(digits) for digits in re.findall(r"\d+", path.stem)], path.name
