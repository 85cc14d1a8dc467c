"""The size of an image, from the first bytes of its file: before memory is taken for its pixels.

Formats: PNG (ISO/IEC 15948), JPEG (ITU-T T.81, B.2.2), WebP (RFC 9649), BMP, TIFF 6.0 with BigTIFF,
GIF 89a, JPEG 2000 (ITU-T T.800, A.5.1 and I.5.3.1), AVIF (ISO/IEC 23008-12, 6.5.3) and the portable
bitmaps of Netpbm.
"""

from __future__ import annotations

import re
import struct

Size = tuple[int, int]
"""Width and height, pixels."""


def image_size(data: bytes) -> Size | None:
    """Width and height that the header states, turned or not as the file stores them.

    Args:
        data: The whole file.

    Returns:
        None for any other format, and where the file ends before its size is stated.
    """
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return struct.unpack_from(">II", data, 16)
        if data[:2] == b"\xff\xd8":
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data[:2] == b"BM":
            return _bmp(data)
        if data[:4] in _TIFF:
            return _tiff(data)
        if data[:6] in (b"GIF87a", b"GIF89a"):
            return struct.unpack_from("<HH", data, 6)
        if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":
            return _jpeg_2000(data)
        if data[:4] == b"\xff\x4f\xff\x51":
            return _code_stream(data, 0)
        if data[4:8] == b"ftyp":
            return _avif(data)
        if netpbm := _NETPBM.match(data):
            return int(netpbm[1]), int(netpbm[2])
    except (struct.error, OverflowError):
        # It ends within its header, or points far beyond its end.
        return None
    return None


_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers that begin a frame; the three left out define tables, or are reserved."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""JPEG markers that no segment follows."""


def _jpeg(data: bytes) -> Size | None:
    place = 2
    while True:
        # Anything between segments is passed over, as libjpeg does.
        place = data.find(b"\xff", place)
        if place < 0:
            return None
        while data[place : place + 1] == b"\xff":
            place += 1
        if place >= len(data):
            return None
        marker = data[place]
        place += 1
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 3)
            return width, height
        if marker != 0 and marker not in _ALONE:
            place += struct.unpack_from(">H", data, place)[0]


def is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or PNG ends before its pixels do.

    Of such a JPEG decoders fill the rest with grey, and say nothing; for such a PNG they take as
    much memory as the part that is cut off claims to have.

    Args:
        data: The whole file.
    """
    if data[:8] == _PNG:
        return _is_cut_off_png(data)
    if data[:2] != b"\xff\xd8":
        return False
    place = 2
    # A thumbnail before the pixels has an end of its own.
    while (place := data.find(b"\xff", place)) >= 0 and place + 4 <= len(data):
        marker = data[place + 1]
        if marker == _SCAN:
            # Among pixels a 0 follows every 0xFF that is one.
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


_PNG = b"\x89PNG\r\n\x1a\n"
_SCAN = 0xDA
"""JPEG marker that pixels follow."""


def _webp(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8X":
        low, high = data[24:27], data[27:30]
        if len(high) < 3:
            return None
        return int.from_bytes(low, "little") + 1, int.from_bytes(high, "little") + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _bmp(data: bytes) -> Size:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        return struct.unpack_from("<HH", data, 18)
    width, height = struct.unpack_from("<ii", data, 18)
    # A negative height means rows from top to bottom.
    return abs(width), abs(height)


_TIFF = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_WIDTH, _LENGTH = 256, 257
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}


def _tiff(data: bytes) -> Size | None:
    order = _TIFF[data[:4]]
    big = b"+" in data[:4]
    start, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    (place,) = struct.unpack_from(order + start, data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + count, data, place)
    place += struct.calcsize(order + count)
    found: dict[int, int] = {}
    for at in range(place, min(place + entries * entry, len(data)), entry):
        tag, kind = struct.unpack_from(order + "HH", data, at)
        if tag in (_WIDTH, _LENGTH) and kind in _TYPES:
            value = struct.unpack_from(order + _TYPES[kind], data, at + (12 if big else 8))[0]
            # Of a tag that stands twice, readers differ in which they believe.
            found[tag] = max(value, found.get(tag, 0))
    if len(found) < 2:
        return None
    return found[_WIDTH], found[_LENGTH]


_NETPBM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s")
"""A letter, width and height; comments may stand between them."""


def _jpeg_2000(data: bytes) -> Size | None:
    # Decoders believe the code stream, whatever the boxes around it say.
    return _code_stream(data, place) if (place := data.find(b"\xff\x4f\xff\x51")) >= 0 else None


def _code_stream(data: bytes, place: int) -> Size:
    right, bottom, left, top = struct.unpack_from(">IIII", data, place + 8)
    return right - left, bottom - top


_AVIF_BRANDS = frozenset({b"avif", b"avis"})


def _avif(data: bytes) -> Size | None:
    (length,) = struct.unpack_from(">I", data, 0)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, min(length, 256), 4))}
    if brands.isdisjoint(_AVIF_BRANDS):
        return None
    # Every item states its extent, a thumbnail too: the largest is what will be decoded.
    found: list[Size] = []
    place = data.find(b"ispe", length)
    while place >= 0 and len(found) < _MOST_EXTENTS:
        found.append(struct.unpack_from(">II", data, place + 8))
        place = data.find(b"ispe", place + 4)
    return max(found, key=lambda size: size[0] * size[1], default=None)


_MOST_EXTENTS = 64
"""Extents of an AVIF file to look at: those of its items come first, and then its pixels."""


def is_turned_avif(data: bytes) -> bool:
    """Whether an AVIF file says that its pixels are to be turned or mirrored when shown.

    Args:
        data: The whole file.
    """
    if data[4:8] != b"ftyp":
        return False
    # The properties are boxes of nine bytes, length and name included.
    place = data.find(b"\0\0\0\x09irot")
    turned = place >= 0 and data[place + 8 : place + 9] not in (b"", b"\0")
    return turned or b"\0\0\0\x09imir" in data


def is_animated(data: bytes) -> bool:
    """Whether a GIF or a PNG holds more than one picture.

    Args:
        data: The file, or its beginning.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n":
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
            # Behind its place, size and colours stands how long its codes are.
            place += 11 + _colours(data[place + 9])
        else:
            return False
        while place < len(data) and data[place]:
            place += data[place] + 1
        place += 1
    return False


def _colours(flags: int) -> int:
    """Bytes of the table of colours that these flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
