"""Read evenly spaced frames of a video, which is a file or a folder of numbered images.

Frames are decoded one after the other, without seeking. This is exact in every codec, and faster:
with OpenCV's seeking, 32 frames of H.264 files of 120 to 250 frames took 4 to 22 times as long.
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
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from lpx.data.images.decode import SUFFIXES, Image, UnreadableImageError, read_image, silence
from lpx.data.images.edit_list import FIRST_BOXES, is_trimmed
from lpx.data.wording import are, counted

# Maximum number of pixels of a frame; 8192 x 4320 pixels are fewer.
MAX_FRAME_PIXELS = 36_000_000
# Frame rate above which a header is not believed.
MAX_RATE_HZ = 1000.0
# Ratio of a pixel's sides above which a header is not believed.
MAX_STRETCH = 4.0
# Deviation from square up to which pixels are left alone: resampling would change every one of
# them, and nobody sees 1 %.
NEARLY_SQUARE = 0.01
# Length of video that may be missing without being damage. MP4 and AVI state their number of
# frames; for other containers OpenCV guesses it from the length, which is that of the sound if
# this is longer.
SOUND_S = 0.25

# FFmpeg, inside OpenCV, writes to standard error what is reported here. It reads this once, before
# the first video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# Packets that OpenCV reads for one frame before it gives up; 4096 by default. Sound between two
# pictures of a slide show, or frames that a trimmed video hides before the first, can be more.
os.environ.setdefault("OPENCV_FFMPEG_READ_ATTEMPTS", "1000000")


class UnreadableVideoError(Exception):
    """A video without a usable frame; the message says why, without the path."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a video.

    Attributes:
        index: Frame number, from 0, among those that are shown; in a folder, the place in the
            order.
        pixels: uint8 RGB [H, W, 3], upright, with square pixels.
        seconds: Time since the first frame; None if unknown.
    """

    index: int
    pixels: Image
    seconds: float | None = None


class FrameReader(Iterator[Frame]):
    """Frames as they are decoded.

    Attributes:
        count: Number of frames that the video shows.
        frames_per_second: Mean frame rate, at most `MAX_RATE_HZ`; 0 if unknown.
        note: Description of damage, set with the last frame; "" if there is none.
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
    """Return the numbers of evenly spaced frames, including the first and the last.

    Args:
        count: Number of frames.
        wanted: Number of frames to take, at least 1; all if there are fewer, or for None.

    Returns:
        int64 [min(count, wanted)], ascending: linspace(0, count - 1, wanted), rounded.
    """
    if wanted is None:
        return np.arange(count, dtype=np.int64)
    if wanted < 1:
        raise ValueError(f"wanted must be >= 1 (got {wanted})")
    return np.unique(np.linspace(0, max(count - 1, 0), wanted).round().astype(np.int64))[:count]


# Number of frames, evenly spaced; or their numbers, ascending; or None for all.
Wanted = int | NDArray[np.int64] | None


def read_frames(
    path: Path, wanted: Wanted, threads: int = 1, *, max_pixels: int = MAX_FRAME_PIXELS
) -> FrameReader:
    """Read evenly spaced frames of a video, or frames of given numbers.

    A frame that does not decode is replaced by the next one that does. The frames of a damaged
    video that decode are returned, and the reader's `note` describes the damage. Frames hidden by
    an edit list are left out, as in any player. Frames are turned upright, and resized to square
    pixels as players show them: in width, or in height if they were turned.

    Args:
        path: A video file, or a folder of images in the order of the numbers in their names.
        wanted: Number of frames to take, see `frame_indices`; or frame numbers, int64 [W],
            ascending, of which a shorter video gives those that it has.
        threads: Number of decoder threads; 1 if several processes share the cores.
        max_pixels: Maximum number of pixels of a frame.

    Raises:
        UnreadableVideoError: Immediately if the file is missing, empty, not a video, too large, or
            has no frames; with the first frame if none decodes.
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
        return _video(path, wanted, threads, max_pixels)
    except OSError as error:
        raise UnreadableVideoError(error.strerror or "cannot be read") from error


class _Source(Protocol):
    """Frames in their order."""

    def advance(self) -> bool:
        """Go to the next frame; return False if it does not decode."""
        ...

    def pixels(self) -> Image | None:
        """Return the frame, uint8 RGB; None if it does not decode."""
        ...

    def seconds(self) -> float | None:
        """Return the time of the frame since the first one; None if unknown."""
        ...

    def close(self) -> None:
        """Close files."""
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
    if not given and count == 1:
        raise UnreadableVideoError("its only frame does not decode")
    if not given:
        raise UnreadableVideoError(f"none of its {count} frames decodes")
    notes = [note] if note else []
    if failed:
        do = "does" if failed == 1 else "do"
        notes.append(f"{failed} of {counted(count, 'frame')} {do} not decode")
    return "; ".join(notes)


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
            # Frames that do not decode may precede the first that does.
            if self.rate_hz:
                self.last = self.position / self.rate_hz
            self.time = self.last
            self.first = stamp - self.last
            return
        time = stamp - self.first
        # NaN passes no comparison, but infinity does.
        if math.isfinite(time) and time > self.last:
            self.time = self.last = time
        elif self.rate_hz:
            # OpenCV returns 0 for a frame without a time stamp, and damaged stamps run back.
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
        return upright_rgb(self.capture, np.asarray(pixels))

    def close(self) -> None:
        self.capture.release()


def upright_rgb(capture: cv2.VideoCapture, pixels: NDArray[Any]) -> Image:
    """Return a frame as players show it: RGB, with square pixels.

    Args:
        capture: The frame's video.
        pixels: The frame as OpenCV decodes it, uint8 BGR [H, W, 3].

    Returns:
        uint8 RGB [h, w, 3], contiguous.
    """
    image = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
    return _with_square_pixels(image, _pixel_shape(capture))


class _PixelShape(NamedTuple):
    """Width and height of a pixel as shown, upright; one of them is 1."""

    width: float
    height: float


def _pixel_shape(capture: cv2.VideoCapture) -> _PixelShape:
    wide, high = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)
    shape = 1.0
    if wide > 0 and high > 0:
        shape = wide / high
    if abs(shape - 1) <= NEARLY_SQUARE or not 1 / MAX_STRETCH <= shape <= MAX_STRETCH:
        return _PixelShape(1.0, 1.0)
    # The ratio is that of the stored frame; OpenCV has turned the decoded one.
    if capture.get(cv2.CAP_PROP_ORIENTATION_AUTO):
        turned = int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 180
        if turned:
            return _PixelShape(1.0, shape)
    return _PixelShape(shape, 1.0)


def _with_square_pixels(image: Image, shape: _PixelShape) -> Image:
    if shape.width == shape.height:
        return image
    height, width = image.shape[:2]
    size = max(1, round(width * shape.width)), max(1, round(height * shape.height))
    method = cv2.INTER_AREA if shape.width * shape.height < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


def _video(path: Path, wanted: Wanted, threads: int, max_pixels: int) -> FrameReader:
    with path.open("rb") as stream:
        # This also raises if the file cannot be read: OpenCV would not say why.
        states_count = _states_count(stream.read(8))
    capture = open_capture(path, [cv2.CAP_PROP_N_THREADS, threads])
    if not capture.isOpened():
        raise UnreadableVideoError("not a video that OpenCV can decode, or a truncated MP4")
    width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
    height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    shape = _pixel_shape(capture)
    if width * max(shape.width, 1) * height * max(shape.height, 1) > max_pixels:
        raise UnreadableVideoError(
            f"frames of {width} x {height} pixels are over the limit of "
            f"{max_pixels // 1_000_000} megapixels"
        )
    rate_hz = capture.get(cv2.CAP_PROP_FPS)
    # Written so that NaN, which passes no comparison, counts as unknown.
    if not 0 < rate_hz <= MAX_RATE_HZ:
        rate_hz = 0.0
    stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    trimmed = is_trimmed(path)
    count = _count(path, None if trimmed else stated, threads)
    if not count:
        raise UnreadableVideoError("it has no frames that decode")
    note = ""
    tolerated = 0.0 if states_count else SOUND_S * rate_hz
    if stated - count > tolerated and not trimmed:
        note = f"its header names {counted(stated, 'frame')}, {count} {are(count)} there"
    frames = _frames(_VideoSource(capture, rate_hz), count, _numbers_of(count, wanted), note)
    return FrameReader(count, rate_hz, frames)


def _states_count(beginning: bytes) -> bool:
    """Return whether a container, by its first eight bytes, states its number of frames."""
    return beginning[4:] in FIRST_BOXES or beginning[:4] == b"RIFF"


def open_capture(path: Path, settings: list[int]) -> cv2.VideoCapture:
    """Open a video file with FFmpeg, and with settings of OpenCV: names and values in turns."""
    # FFmpeg only: OpenCV's reader of image sequences would take a digit in a name for a counter.
    # An absolute path: FFmpeg takes anything before a colon for a protocol.
    with silence():
        return cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, settings)


def _count(path: Path, stated: int | None, threads: int) -> int:
    """Count the frames that a video shows.

    Args:
        path: A video file.
        stated: Number of frames in its header; None if it is not to be believed.
        threads: Number of decoder threads.
    """
    # The header's number is a guess in some formats and wrong in a truncated file, so packets are
    # counted too, which decodes nothing. If the two differ, or the first packet depends on an
    # earlier one, only decoding can tell.
    packets = 0
    undecoded = open_capture(path, [cv2.CAP_PROP_FORMAT, -1])
    begins_whole = False
    while undecoded.grab():
        if not packets:
            begins_whole = bool(undecoded.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME))
        packets += 1
    if packets == stated and begins_whole:
        return packets
    capture = open_capture(path, [cv2.CAP_PROP_N_THREADS, threads])
    count = 0
    # Frames that do not decode may precede others that do.
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
    """Return a key that sorts frame 10 after frame 9, however many zeros their names have."""
    return [int(digits) for digits in re.findall(r"\d+", path.stem)], path.name
