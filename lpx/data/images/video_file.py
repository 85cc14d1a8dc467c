"""From a video, a file or a folder of numbered images, to evenly spaced frames.

Frames are decoded one after the other, never sought: exact in every codec, and cheaper (32 frames
of three H.264 files of 120 to 250 frames took 4 to 22 times as long with OpenCV's seeking).
"""

from __future__ import annotations

import math
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

from lpx.data.images.decode import SUFFIXES, Image, UnreadableImageError, read_image, silence
from lpx.data.images.edit_list import FIRST_BOXES, is_trimmed
from lpx.data.wording import counted

MAX_FRAME_PIXELS = 36_000_000
"""A video of larger frames is refused; 8192 x 4320 pixels are less."""
MAX_RATE_HZ = 1000.0
"""A header that states more frames per second states nonsense."""
MAX_STRETCH = 4.0
"""A header that states pixels more than so many times as wide as high, or as high as wide, too."""
NEARLY_SQUARE = 0.01
"""Pixels that are this close to square are left alone: resampling would change every one of them,
and nobody sees 1 %."""
SOUND_S = 0.25
"""MP4 and AVI state how many frames they hold. Elsewhere OpenCV guesses from the length, which is
that of the sound where this is longer: so much missing is not damage."""

# FFmpeg, inside OpenCV, writes to standard error what is reported here. It reads this once, before
# the first video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# How many packets OpenCV reads for one frame before it gives up; 4096 by default. Sound between two
# pictures of a slide show, or what a trimmed video hides before its first frame, can be more.
os.environ.setdefault("OPENCV_FFMPEG_READ_ATTEMPTS", "1000000")


class UnreadableVideoError(Exception):
    """A video without a usable frame; the message says why, without the path."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a video.

    Attributes:
        index: Its number, from 0, among those that are shown; in a folder, its place in the order.
        pixels: uint8 RGB [H, W, 3], upright, with square pixels.
        seconds: When it is shown, from the first frame on; None where unknown.
    """

    index: int
    pixels: Image
    seconds: float | None = None


class FrameReader(Iterator[Frame]):
    """Frames as they are decoded.

    Attributes:
        count: How many frames the video shows.
        frames_per_second: The mean, at most `MAX_RATE_HZ`; 0 where unknown.
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
    damaged video is given, and the reader's `note` says so. What an edit list leaves out is not
    given, as no player shows it. Frames are turned upright, and those whose pixels are not square
    are resized to the width that players show (to the height where they are turned).

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
    try:
        return _video(path, wanted, threads)
    except OSError as error:
        raise UnreadableVideoError(error.strerror or "cannot be read") from error


class _Source(Protocol):
    """Frames in their order."""

    def advance(self) -> bool:
        """Go to the next frame; False where it does not decode."""
        ...

    def pixels(self) -> Image | None:
        """The frame, uint8 RGB; None where it does not decode."""
        ...

    def seconds(self) -> float | None:
        """When the frame is shown, from the first one on; None where unknown."""
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
            yield Frame(position, pixels, source.seconds())
    finally:
        source.close()
    if not given:
        raise UnreadableVideoError(
            "its only frame does not decode"
            if count == 1
            else f"none of its {count} frames decodes"
        )
    do = "does" if failed == 1 else "do"
    damage = f"{failed} of {counted(count, 'frame')} {do} not decode" if failed else ""
    return "; ".join(part for part in (note, damage) if part)


class _VideoSource:
    def __init__(self, capture: cv2.VideoCapture, rate_hz: float) -> None:
        self.capture = capture
        self.rate_hz = rate_hz
        self.position = -1
        self.first: float | None = None
        self.last = 0.0
        self.time: float | None = None

    def advance(self) -> bool:
        self.position += 1
        ready = self.capture.grab()
        if ready:
            self._read_time()
        return ready

    def _read_time(self) -> None:
        stamp = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        if self.first is None:
            # Frames that do not decode may stand before the first that does.
            self.time = self.last = self.position / self.rate_hz if self.rate_hz else 0.0
            self.first = stamp - self.last
            return
        time = stamp - self.first
        if math.isfinite(time) and time > self.last:
            self.time = self.last = time
        elif self.rate_hz:
            # OpenCV gives 0 for a frame without a time stamp, and damaged stamps go back.
            self.time = self.last = self.last + 1 / self.rate_hz
        else:
            self.time = None

    def seconds(self) -> float | None:
        return self.time

    def pixels(self) -> Image | None:
        try:
            done, pixels = self.capture.retrieve()
        except cv2.error:
            return None
        if not done:
            return None
        image = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
        return _with_square_pixels(image, *_pixel_shape(self.capture))

    def close(self) -> None:
        self.capture.release()


def _pixel_shape(capture: cv2.VideoCapture) -> tuple[float, float]:
    """How wide and how high a pixel is shown, upright; one of them is 1."""
    wide, high = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)
    shape = wide / high if wide > 0 and high > 0 else 1.0
    if abs(shape - 1) <= NEARLY_SQUARE or not 1 / MAX_STRETCH <= shape <= MAX_STRETCH:
        return 1.0, 1.0
    turned = capture.get(cv2.CAP_PROP_ORIENTATION_AUTO) and (
        int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 180
    )
    return (1.0, shape) if turned else (shape, 1.0)


def _with_square_pixels(image: Image, wide: float, high: float) -> Image:
    if wide == high:
        return image
    height, width = image.shape[:2]
    size = max(1, round(width * wide)), max(1, round(height * high))
    method = cv2.INTER_AREA if wide * high < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


def _video(path: Path, wanted: Wanted, threads: int) -> FrameReader:
    with path.open("rb") as stream:
        # Also because OpenCV would not say why it cannot.
        states_count = _states_count(stream.read(8))
    capture = _open(path, [cv2.CAP_PROP_N_THREADS, threads])
    if not capture.isOpened():
        raise UnreadableVideoError("not a video that OpenCV can decode, or an MP4 that was cut off")
    width, height = (
        int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    )
    wide, high = _pixel_shape(capture)
    if width * max(wide, 1) * height * max(high, 1) > MAX_FRAME_PIXELS:
        raise UnreadableVideoError(
            f"frames of {width} x {height} pixels are over the limit of "
            f"{MAX_FRAME_PIXELS // 1_000_000} megapixels"
        )
    rate_hz = capture.get(cv2.CAP_PROP_FPS)
    if not 0 < rate_hz <= MAX_RATE_HZ:  # NaN is neither
        rate_hz = 0.0
    said = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    trimmed = is_trimmed(path)
    count = _count(path, None if trimmed else said, threads)
    if not count:
        raise UnreadableVideoError("it has no frames that decode")
    tolerated = 0.0 if states_count else SOUND_S * rate_hz
    lacks_some = said - count > tolerated and not trimmed
    are = "is" if count == 1 else "are"
    named = counted(said, "frame")
    note = f"its header names {named}, {count} {are} there" if lacks_some else ""
    frames = _frames(_VideoSource(capture, rate_hz), count, _numbers_of(count, wanted), note)
    return FrameReader(count, rate_hz, frames)


def _states_count(beginning: bytes) -> bool:
    """Whether a video's container, by its first eight bytes, states how many frames it holds."""
    return beginning[4:] in FIRST_BOXES or beginning[:4] == b"RIFF"


def _open(path: Path, settings: list[int]) -> cv2.VideoCapture:
    # FFmpeg alone: OpenCV's reader of image sequences would take a digit in a name for a counter.
    # An absolute path: FFmpeg takes what stands before a colon for a protocol.
    with silence():
        return cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, settings)


def _count(path: Path, said: int | None, threads: int) -> int:
    """How many frames a video shows.

    The header's number is a guess in some formats and wrong in a file that was cut off, so packets
    are counted too, which decodes nothing. Where the two differ, where the first packet needs one
    before it, or where no number is to be believed (None), only decoding can tell.
    """
    packets = 0
    undecoded = _open(path, [cv2.CAP_PROP_FORMAT, -1])
    begins_whole = False
    while undecoded.grab():
        if not packets:
            begins_whole = bool(undecoded.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME))
        packets += 1
    if packets == said and begins_whole:
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

    def seconds(self) -> float | None:
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
