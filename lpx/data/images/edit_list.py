"""Detect edit lists of MP4 and QuickTime files that hide stored frames.

A video that was trimmed without being encoded again (on a phone, or by copying streams) still holds
every frame from the last key frame before the cut; its edit list says which of them are shown
(ISO/IEC 14496-12, 8.6.6). FFmpeg obeys it, but counts every stored frame.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

# Types of the first box of such a file; any other file has no edit list.
FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"})
# A larger movie box, which holds the tables of frames, is not read.
_MAX_BYTES = 256 * 1024 * 1024


class Box(NamedTuple):
    """A box: its type of four bytes, and its contents."""

    name: bytes
    contents: bytes


class _Edit(NamedTuple):
    """An entry of an edit list.

    Attributes:
        duration: Duration in ticks of the movie's clock.
        start: Start in ticks of the track's clock; -1 shows nothing for the duration.
    """

    duration: int
    start: int


class _Clock(NamedTuple):
    """A clock, and a duration in its ticks."""

    hz: int
    duration: int


def is_trimmed(path: Path) -> bool:
    """Return whether the edit list of a video may hide some of its frames.

    Args:
        path: Any file; one that is neither MP4 nor QuickTime has no edit list.

    Returns:
        True also if the list cannot be read, or says more than that everything is shown once.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        if stream.read(8)[4:] not in FIRST_BOXES:
            return False
        try:
            movie = _movie(stream)
            for name, box in _boxes(movie):
                if name == b"trak" and _track_is_trimmed(box, movie):
                    return True
        except (struct.error, LookupError, ValueError):
            # Damaged: only decoding can tell how many frames there are.
            return True
    return False


def _movie(stream: BinaryIO) -> bytes:
    """Return the contents of the box that describes the tracks; b"" if there is none."""
    # Like _boxes(), but without reading the frames, which may be gigabytes.
    end = stream.seek(0, 2)
    start = 0
    while start + 8 <= end:
        stream.seek(start)
        header = stream.read(16)
        size, name = struct.unpack_from(">I4s", header)
        before = 8
        # ISO/IEC 14496-12, 4.2: a size of 1 is followed by a long one, and 0 means up to the end.
        if size == 1:
            (size,) = struct.unpack_from(">Q", header, 8)
            before = 16
        elif size == 0:
            size = end - start
        if size < before:
            raise ValueError("a box is shorter than its header")
        if name == b"moov":
            if size > _MAX_BYTES:
                raise ValueError("the movie box is too large")
            stream.seek(start + before)
            return stream.read(size - before)
        start += size
    return b""


def _boxes(data: bytes) -> Iterator[Box]:
    start = 0
    while start + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, start)
        before = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            before = 16
        elif size == 0:
            size = len(data) - start
        if size < before:
            raise ValueError("a box is shorter than its header")
        yield Box(name, data[start + before : start + size])
        start += size


def _find(data: bytes, *path: bytes) -> bytes | None:
    """Return the contents of the first box at a path of types; None if there is none."""
    for wanted in path:
        for name, contents in _boxes(data):
            if name == wanted:
                data = contents
                break
        else:
            return None
    return data


def _track_is_trimmed(track: bytes, movie: bytes) -> bool:
    edits = _find(track, b"edts", b"elst")
    handler = _find(track, b"mdia", b"hdlr")
    if edits is None or handler is None or handler[8:12] != b"vide":
        return False
    shown = [edit for edit in _edits(edits) if edit.start >= 0]
    if len(shown) != 1:
        return bool(shown)
    movie_header, header = _find(movie, b"mvhd"), _find(track, b"mdia", b"mdhd")
    if movie_header is None or header is None:
        raise LookupError("a header is missing")
    movie_clock, media_clock = _clock(movie_header), _clock(header)
    first = _first_offset(_find(track, b"mdia", b"minf", b"stbl", b"ctts"))
    edit = shown[0]
    if edit.start > first:
        return True
    # One tick more, as durations are rounded to ticks of the movie's clock.
    longest = (edit.duration + 1) * media_clock.hz / movie_clock.hz
    return edit.start + longest < first + media_clock.duration


def _edits(box: bytes) -> list[_Edit]:
    version, count = box[0], struct.unpack_from(">I", box, 4)[0]
    # Entries end in a playback rate of 4 bytes.
    entry, size = (">Qq", 20) if version else (">Ii", 12)
    edits = []
    for number in range(count):
        duration, start = struct.unpack_from(entry, box, 8 + size * number)
        edits.append(_Edit(duration, start))
    return edits


def _clock(header: bytes) -> _Clock:
    """Read the clock of a movie or track header, whose version decides on the size of fields."""
    if header[0]:
        hz, duration = struct.unpack_from(">IQ", header, 20)
    else:
        hz, duration = struct.unpack_from(">II", header, 12)
    if not hz:
        raise ValueError("a clock has 0 ticks per second")
    return _Clock(hz, duration)


def _first_offset(box: bytes | None) -> int:
    """Return the time from decoding to showing the first frame, in ticks of the track."""
    if box is None or struct.unpack_from(">I", box, 4)[0] == 0:
        return 0
    return int(struct.unpack_from(">i", box, 12)[0])
