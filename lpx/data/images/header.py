"""Read the size of an image from its header, before memory is allocated for its pixels.

Formats: PNG (ISO/IEC 15948), JPEG (ITU-T T.81, B.2.2), WebP (RFC 9649), BMP, TIFF 6.0 with BigTIFF,
GIF 89a, JPEG 2000 (ITU-T T.800, A.5.1 and I.5.3.1), AVIF (ISO/IEC 23008-12, 6.5.3) and the portable
bitmaps of Netpbm.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple


class Size(NamedTuple):
    """Width and height, pixels."""

    width: int
    height: int


_PNG = b"\x89PNG\r\n\x1a\n"
# JPEG markers that begin a frame; the three left out define tables, or are reserved.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# JPEG markers without a segment.
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
# JPEG marker that pixels follow.
_SCAN = 0xDA
# The first bytes of a TIFF, and the byte order they mean; "+" is BigTIFF.
_TIFF = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_WIDTH, _LENGTH = 256, 257
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
# A letter, width and height, with comments between them.
_NETPBM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s")
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
# Extents of an AVIF file to look at: those of its items come before the pixels.
_MAX_EXTENTS = 64


def image_size(data: bytes) -> Size | None:
    """Read width and height from a header, as stored, before any rotation.

    Args:
        data: The whole file.

    Returns:
        None for other formats, and for a file that ends before its size.
    """
    try:
        if data[:8] == _PNG:
            return Size(*struct.unpack_from(">II", data, 16))
        if data[:2] == b"\xff\xd8":
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data[:2] == b"BM":
            return _bmp(data)
        if data[:4] in _TIFF:
            return _tiff(data)
        if data[:6] in (b"GIF87a", b"GIF89a"):
            return Size(*struct.unpack_from("<HH", data, 6))
        if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":
            return _jpeg_2000(data)
        if data[:4] == b"\xff\x4f\xff\x51":
            return _code_stream(data, 0)
        if data[4:8] == b"ftyp":
            return _avif(data)
        netpbm = _NETPBM.match(data)
        if netpbm is not None:
            return Size(int(netpbm[1]), int(netpbm[2]))
    except (struct.error, OverflowError):
        # The file ends within its header, or points far beyond its end.
        return None
    return None


def _jpeg(data: bytes) -> Size | None:
    place = 2
    while True:
        # Like libjpeg, skip anything between segments.
        place = data.find(b"\xff", place)
        if place < 0:
            return None
        # Any number of 0xFF may precede a marker.
        while data[place : place + 1] == b"\xff":
            place += 1
        if place >= len(data):
            return None
        marker = data[place]
        place += 1
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 3)
            return Size(width, height)
        if marker != 0 and marker not in _ALONE:
            place += struct.unpack_from(">H", data, place)[0]


def is_cut_off(data: bytes) -> bool:
    """Return whether a JPEG or PNG ends before its pixels do.

    Args:
        data: The whole file.
    """
    # OpenCV does not decode such a JPEG, and does not say why. For such a PNG it allocates as much
    # memory as the missing part claims to have.
    if data[:8] == _PNG:
        return _is_cut_off_png(data)
    if data[:2] != b"\xff\xd8":
        return False
    place = 2
    # Segments are skipped one by one, as a thumbnail before the pixels has an end of its own.
    while (place := data.find(b"\xff", place)) >= 0 and place + 4 <= len(data):
        marker = data[place + 1]
        if marker == _SCAN:
            # Among pixels, 0xFF is followed by 0 or by a number from 0xD0 to 0xD7 (restart).
            return data.find(b"\xff\xd9", place) < 0
        if marker in (0, 0xFF) or marker in _ALONE:
            place += 1
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return True


def _is_cut_off_png(data: bytes) -> bool:
    place = len(_PNG)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"IEND":
            return False
        place += 12 + length
    return place > len(data)


def _webp(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8X":
        low, high = data[24:27], data[27:30]
        if len(high) < 3:
            return None
        return Size(int.from_bytes(low, "little") + 1, int.from_bytes(high, "little") + 1)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        # The upper two bits are a scale for display.
        return Size(width & 0x3FFF, height & 0x3FFF)
    return None


def _bmp(data: bytes) -> Size:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        return Size(*struct.unpack_from("<HH", data, 18))
    width, height = struct.unpack_from("<ii", data, 18)
    # A negative height means rows from top to bottom.
    return Size(abs(width), abs(height))


def _tiff(data: bytes) -> Size | None:
    order = _TIFF[data[:4]]
    big = b"+" in data[:4]
    start, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    (place,) = struct.unpack_from(order + start, data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + count, data, place)
    place += struct.calcsize(order + count)
    sides: dict[int, int] = {}
    for at in range(place, min(place + entries * entry, len(data)), entry):
        tag, kind = struct.unpack_from(order + "HH", data, at)
        if tag in (_WIDTH, _LENGTH) and kind in _TYPES:
            value = struct.unpack_from(order + _TYPES[kind], data, at + (12 if big else 8))[0]
            # If a tag occurs twice, readers differ in which one they believe.
            sides[tag] = max(value, sides.get(tag, 0))
    if len(sides) < 2:
        return None
    return Size(sides[_WIDTH], sides[_LENGTH])


def _jpeg_2000(data: bytes) -> Size | None:
    # Decoders believe the code stream, whatever the boxes around it say.
    place = data.find(b"\xff\x4f\xff\x51")
    if place < 0:
        return None
    return _code_stream(data, place)


def _code_stream(data: bytes, place: int) -> Size:
    right, bottom, left, top = struct.unpack_from(">IIII", data, place + 8)
    return Size(right - left, bottom - top)


def _avif(data: bytes) -> Size | None:
    (length,) = struct.unpack_from(">I", data, 0)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, min(length, 256), 4))}
    if brands.isdisjoint(_AVIF_BRANDS):
        return None
    # Every item has an extent, including thumbnails: the largest one will be decoded.
    extents: list[Size] = []
    place = data.find(b"ispe", length)
    while place >= 0 and len(extents) < _MAX_EXTENTS:
        extents.append(Size(*struct.unpack_from(">II", data, place + 8)))
        place = data.find(b"ispe", place + 4)
    return max(extents, key=lambda size: size.width * size.height, default=None)


def is_turned_avif(data: bytes) -> bool:
    """Return whether an AVIF file is to be turned or mirrored when shown.

    Args:
        data: The whole file.
    """
    if data[4:8] != b"ftyp":
        return False
    # These properties are boxes of nine bytes, including length and name.
    place = data.find(b"\0\0\0\x09irot")
    turned = place >= 0 and data[place + 8 : place + 9] not in (b"", b"\0")
    return turned or b"\0\0\0\x09imir" in data


def is_animated(data: bytes) -> bool:
    """Return whether a GIF or PNG holds more than one picture.

    Args:
        data: The file, or its beginning.
    """
    if data[:8] == _PNG:
        # The animation control chunk precedes the pixels, which may contain its name by chance.
        control = data.find(b"acTL", 0, max(data.find(b"IDAT"), 0))
        return control >= 0 and data[control + 4 : control + 8] > b"\0\0\0\1"
    return _is_animated_gif(data)


def _is_animated_gif(data: bytes) -> bool:
    if data[:6] not in (b"GIF87a", b"GIF89a") or len(data) < 13:
        return False
    place = 13 + _colours(data[10])
    pictures = 0
    while place < len(data):
        kind = data[place]
        if kind == 0x21:
            place += 2
        elif kind == 0x2C and place + 9 < len(data):
            pictures += 1
            if pictures > 1:
                return True
            # Position, size and colours are followed by the size of the codes.
            place += 11 + _colours(data[place + 9])
        else:
            return False
        while place < len(data) and data[place]:
            place += data[place] + 1
        place += 1
    return False


def _colours(flags: int) -> int:
    """Return the size of the colour table that these flags announce, bytes."""
    if not flags & 0x80:
        return 0
    return 3 << ((flags & 7) + 1)
