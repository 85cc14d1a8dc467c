"""Whether the edit list of an MP4 or QuickTime file leaves out frames that the file holds.

A video that was trimmed without encoding it again (on a phone, or by copying streams) still holds
every frame from the last key frame before the cut; its edit list says which of them are shown
(ISO/IEC 14496-12, 8.6.6). FFmpeg obeys it, but counts every frame that is stored.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"})
"""Boxes that such a file begins with; any other file has no edit list."""
_MAX_BYTES = 256 * 1024 * 1024
"""A larger table of frames is not read."""

Box = tuple[bytes, bytes]
"""A box's type and contents."""


def is_trimmed(path: Path) -> bool:
    """Whether some frames of a video's file may not be shown, by its edit list.

    Args:
        path: Any file; one that is neither MP4 nor QuickTime has no edit list.

    Returns:
        True also where the list cannot be read, or says more than that all is shown once.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        if stream.read(8)[4:] not in FIRST_BOXES:
            return False
        try:
            movie = _movie(stream)
            return any(
                _track_is_trimmed(box, movie) for name, box in _boxes(movie) if name == b"trak"
            )
        except (struct.error, LookupError, ValueError):
            return True


def _movie(stream: BinaryIO) -> bytes:
    """Contents of the box that describes the tracks; b"" where there is none."""
    end = stream.seek(0, 2)
    start = 0
    while start + 8 <= end:
        stream.seek(start)
        header = stream.read(16)
        size, name = struct.unpack_from(">I4s", header)
        before = 8
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
        yield name, data[start + before : start + size]
        start += size


def _find(data: bytes, *path: bytes) -> bytes | None:
    for wanted in path:
        found = next((box for name, box in _boxes(data) if name == wanted), None)
        if found is None:
            return None
        data = found
    return data


def _track_is_trimmed(track: bytes, movie: bytes) -> bool:
    edits = _find(track, b"edts", b"elst")
    handler = _find(track, b"mdia", b"hdlr")
    if edits is None or handler is None or handler[8:12] != b"vide":
        return False
    shown = [edit for edit in _edits(edits) if edit[1] >= 0]
    if len(shown) != 1:
        return bool(shown)
    duration, start = shown[0]
    movie_header, header = _find(movie, b"mvhd"), _find(track, b"mdia", b"mdhd")
    if movie_header is None or header is None:
        raise LookupError("a header is missing")
    movie_hz, _ = _clock(movie_header)
    media_hz, length = _clock(header)
    first = _first_offset(_find(track, b"mdia", b"minf", b"stbl", b"ctts"))
    if start > first:
        return True
    # Durations are rounded to ticks of the movie's clock.
    return start + (duration + 1) * media_hz / movie_hz < first + length


def _edits(box: bytes) -> list[tuple[int, int]]:
    """Duration, in ticks of the movie, and start, in ticks of the track; -1 shows nothing."""
    version, count = box[0], struct.unpack_from(">I", box, 4)[0]
    entry, size = (">Qq", 20) if version else (">Ii", 12)
    return [struct.unpack_from(entry, box, 8 + size * number) for number in range(count)]


def _clock(header: bytes) -> tuple[int, int]:
    """Ticks per second, and a duration in ticks."""
    hz, duration = struct.unpack_from(*((">IQ", header, 20) if header[0] else (">II", header, 12)))
    if not hz:
        raise ValueError("a clock stands still")
    return hz, duration


def _first_offset(box: bytes | None) -> int:
    """How much later the first frame is shown than decoded, in ticks of the track."""
    if box is None or struct.unpack_from(">I", box, 4)[0] == 0:
        return 0
    return int(struct.unpack_from(">i", box, 12)[0])
