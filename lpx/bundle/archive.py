"""ZIP files whose every byte follows from the names and contents of their members.

Members are stored, not compressed: weights and images hardly shrink, and what zlib writes depends
on its version. So a bundle is the same on every machine, nothing in it grows when it is read, and a
reader can compare each header with the only one that it can be. `zipfile` and `unzip` read these
files too. Layout: PKWARE's APPNOTE 6.3, with ZIP64 for many members and large files.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

# Bytes of a member in memory at a time.
CHUNK = 1 << 20
# Maximum number of members.
MAX_MEMBERS = 200_000
# Maximum length of a member's name in UTF-8.
MAX_NAME_BYTES = 1024
# Maximum size of a member: larger ones would need ZIP64 sizes in their local headers.
MAX_MEMBER_BYTES = (1 << 32) - 2

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s4B4H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_OFFSET_64 = struct.Struct("<2HQ")
_LOCAL_MARK, _CENTRAL_MARK = b"PK\3\4", b"PK\1\2"
_END_MARK, _END_64_MARK, _LOCATOR_64_MARK = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_VERSION, _VERSION_64 = 20, 45
_UNIX = 3
# An ordinary file that everybody may read; 1 January 1980, the first day that ZIP knows.
_MODE = 0o100644 << 16
_TIME, _DATE = 0, 1 << 5 | 1
# Bit 11: the name is UTF-8. Names in ASCII go without, as `zipfile` has it.
_UTF_8 = 1 << 11
# In place of a number that does not fit, and is in a ZIP64 record.
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF


class ArchiveError(ValueError):
    """An archive is damaged, or was not written by `ArchiveWriter`.

    Args:
        member: Name of the member concerned; "" if it is unknown.
        reason: What is wrong with it.
    """

    def __init__(self, member: str, reason: str) -> None:
        super().__init__(member, reason)
        self.member = member
        self.reason = reason


@dataclass(frozen=True)
class Entry:
    """A member of an archive.

    Attributes:
        name: Name, with "/" between its parts.
        size: Bytes.
        crc: CRC-32 of its content.
        offset: Position of its local header in the file.
    """

    name: str
    size: int
    crc: int
    offset: int

    @property
    def data_offset(self) -> int:
        """Position of its content in the file."""
        return self.offset + _LOCAL.size + len(self.name.encode())

    @property
    def end(self) -> int:
        """Position behind its content."""
        return self.data_offset + self.size


@dataclass(frozen=True)
class Written:
    """A member that was written: its size in bytes, and the SHA-256 of its content."""

    size: int
    sha256: str


class FirstMember(NamedTuple):
    """Name and content of the first member of an archive."""

    name: str
    content: bytes


class _End(NamedTuple):
    """What an archive's last record says of its directory: members, size and position in bytes."""

    members: int
    size: int
    offset: int


class ArchiveWriter:
    """Writes members one after the other, in bounded memory.

    Args:
        stream: Empty file to write; it must be seekable.
        max_members: Maximum number of members.
        max_member_bytes: Maximum size of a member.
    """

    def __init__(
        self,
        stream: BinaryIO,
        *,
        max_members: int = MAX_MEMBERS,
        max_member_bytes: int = MAX_MEMBER_BYTES,
    ) -> None:
        self._stream = stream
        self._max_members = max_members
        self._max_member_bytes = max_member_bytes
        self._entries: list[Entry] = []

    def add(self, name: str, content: Iterable[bytes]) -> Written:
        """Write a member.

        Args:
            name: Its name.
            content: Its content, in pieces.

        Raises:
            ArchiveError: It is too large, or there are too many members.
            OSError: The archive cannot be written.
        """
        if len(self._entries) >= self._max_members:
            raise ArchiveError(name, f"an archive has at most {self._max_members} members")
        offset = self._stream.tell()
        # The header has the size and CRC, which are known once the content was read.
        self._stream.write(_local_header(Entry(name, 0, 0, offset)))
        size, crc, digest = 0, 0, hashlib.sha256()
        for chunk in content:
            size += len(chunk)
            if size > self._max_member_bytes:
                raise ArchiveError(name, f"it has more than {self._max_member_bytes} bytes")
            crc = zlib.crc32(chunk, crc)
            digest.update(chunk)
            self._stream.write(chunk)
        entry = Entry(name, size, crc, offset)
        self._stream.seek(offset)
        self._stream.write(_local_header(entry))
        self._stream.seek(entry.end)
        self._entries.append(entry)
        return Written(size, digest.hexdigest())

    def finish(self) -> None:
        """Write the directory of members, which ends the archive."""
        for part in directory(self._entries, self._stream.tell()):
            self._stream.write(part)


def _local_header(entry: Entry) -> bytes:
    name = entry.name.encode()
    head = _LOCAL.pack(
        _LOCAL_MARK,
        _VERSION,
        _flags(entry.name),
        0,
        _TIME,
        _DATE,
        entry.crc,
        entry.size,
        entry.size,
        len(name),
        0,
    )
    return head + name


def _flags(name: str) -> int:
    return 0 if name.isascii() else _UTF_8


def _central_header(entry: Entry) -> bytes:
    name, extra, offset, version = entry.name.encode(), b"", entry.offset, _VERSION
    if offset >= _FULL_32:
        # 1 is the tag of ZIP64's extra field, 8 the bytes behind it.
        extra, offset, version = _OFFSET_64.pack(1, 8, entry.offset), _FULL_32, _VERSION_64
    head = _CENTRAL.pack(
        _CENTRAL_MARK,
        version,
        _UNIX,
        version,
        0,
        _flags(entry.name),
        0,
        _TIME,
        _DATE,
        entry.crc,
        entry.size,
        entry.size,
        len(name),
        len(extra),
        0,
        0,
        0,
        _MODE,
        offset,
    )
    return head + name + extra


def directory(entries: Iterable[Entry], offset: int) -> Iterator[bytes]:
    """Yield the directory of an archive, from the first central header to the end of the file.

    Args:
        entries: Members, in order.
        offset: Position of the directory in the file.
    """
    count, size = 0, 0
    for entry in entries:
        header = _central_header(entry)
        count += 1
        size += len(header)
        yield header
    yield _end(count, size, offset)


def _end(count: int, size: int, offset: int) -> bytes:
    """Return what stands behind the central headers."""
    parts = b""
    if count >= _FULL_16 or size >= _FULL_32 or offset >= _FULL_32:
        # 44: size of the record without its first two fields.
        parts = _END_64.pack(
            _END_64_MARK, 44, _VERSION_64, _VERSION_64, 0, 0, count, count, size, offset
        )
        parts += _LOCATOR_64.pack(_LOCATOR_64_MARK, 0, offset + size, 1)
    few, small, near = min(count, _FULL_16), min(size, _FULL_32), min(offset, _FULL_32)
    return parts + _END.pack(_END_MARK, 0, 0, few, few, small, near, 0)


def read_entries(stream: BinaryIO, *, max_members: int = MAX_MEMBERS) -> tuple[Entry, ...]:
    """Read the directory of an archive, and check that it could have been written here.

    Members follow each other without gaps, so none can overlap another.

    Args:
        stream: The archive.
        max_members: Maximum number of members.

    Raises:
        ArchiveError: It is cut off or damaged, or another program wrote it.
        OSError: It cannot be read.
    """
    file_size = stream.seek(0, io.SEEK_END)
    count, size, offset = _read_end(stream, file_size)
    # Before anything is allocated by these numbers.
    if count > max_members or size > count * (_CENTRAL.size + _OFFSET_64.size + MAX_NAME_BYTES):
        raise ArchiveError("", f"its directory has {count} members in {size} bytes")
    if offset + size + len(_end(count, size, offset)) != file_size:
        raise ArchiveError("", "its directory is not at its end")
    stream.seek(offset)
    # The limits above bound it: by default, 200,000 names of 1 KiB at most.
    block = stream.read(size)
    entries: list[Entry] = []
    position, end = 0, 0
    for _ in range(count):
        entry = _read_central(block, position)
        # Overlapping members are how a small archive claims a large content; a gap could hide one.
        if entry.offset != end:
            raise ArchiveError(entry.name, "it does not follow the member before it")
        entries.append(entry)
        position += len(_central_header(entry))
        end = entry.end
    if position != len(block) or end != offset:
        raise ArchiveError("", "there are bytes that belong to no member")
    stream.seek(offset + size)
    if stream.read() != _end(count, size, offset):
        raise ArchiveError("", "the end of its directory is damaged")
    return tuple(entries)


def _read_end(stream: BinaryIO, file_size: int) -> _End:
    """Read the record at the end, which says where the central headers are."""
    stream.seek(max(0, file_size - _END.size))
    end = stream.read()
    if len(end) < _END.size or not end.startswith(_END_MARK):
        raise _cut_off(stream, file_size)
    _, _, _, _, count, size, offset, _ = _END.unpack(end)
    start = file_size - _END.size - _LOCATOR_64.size - _END_64.size
    if start >= 0:
        stream.seek(start)
        record = stream.read(_END_64.size)
        # Where the small record says enough, bytes before it are a member's name or content.
        if count == _FULL_16 or _FULL_32 in (size, offset):
            if not record.startswith(_END_64_MARK):
                raise ArchiveError("", "the end of its directory is damaged")
            *_, count, size, offset = _END_64.unpack(record)
    return _End(count, size, offset)


def _read_central(block: bytes, position: int) -> Entry:
    """Return the member whose central header is at a position of the directory."""
    head = block[position : position + _CENTRAL.size]
    if len(head) < _CENTRAL.size or not head.startswith(_CENTRAL_MARK):
        raise ArchiveError("", "its directory is damaged")
    fields = _CENTRAL.unpack(head)
    crc, size, name_bytes, extra_bytes, mode, offset = (
        fields[9],
        fields[11],
        fields[12],
        fields[13],
        fields[17],
        fields[18],
    )
    start = position + _CENTRAL.size
    raw = block[start : start + name_bytes]
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise ArchiveError(ascii(raw)[2:-1], "its name is not UTF-8") from None
    if len(raw) > MAX_NAME_BYTES:
        raise ArchiveError(name[:100], f"its name has more than {MAX_NAME_BYTES} bytes")
    if mode != _MODE:
        raise ArchiveError(name, "it is not an ordinary file: links and devices are refused")
    if extra_bytes == _OFFSET_64.size and offset == _FULL_32:
        extra = block[start + name_bytes : start + name_bytes + extra_bytes]
        if len(extra) == _OFFSET_64.size:
            offset = _OFFSET_64.unpack(extra)[2]
    # Name, size, CRC and offset are all that may vary: with these, the header can be only one.
    entry = Entry(name, size, crc, offset)
    header = _central_header(entry)
    if block[position : position + len(header)] != header:
        raise ArchiveError(name, "its entry in the directory is not as lpx writes it")
    return entry


def read_content(stream: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """Yield the content of a member in pieces, checked at the end.

    Raises:
        ArchiveError: Its header or content is damaged.
        OSError: It cannot be read.
    """
    stream.seek(entry.offset)
    header = _local_header(entry)
    if stream.read(len(header)) != header:
        raise ArchiveError(entry.name, "its header does not match the directory")
    left, crc = entry.size, 0
    # The size is the directory's, which the manifest confirms: no more than that is ever read.
    while left:
        chunk = stream.read(min(left, CHUNK))
        if not chunk:
            raise ArchiveError(entry.name, "it is cut off")
        left -= len(chunk)
        crc = zlib.crc32(chunk, crc)
        yield chunk
    if crc != entry.crc:
        raise ArchiveError(entry.name, "its content does not match its CRC-32")


def read_first(stream: BinaryIO, limit: int) -> FirstMember:
    """Return name and content of the first member, of an archive that may be of a newer format.

    Args:
        stream: The archive.
        limit: Largest size of the content, bytes. If it has more, or the file is not an archive,
            name and content are empty.
    """
    nothing = FirstMember("", b"")
    stream.seek(0)
    head = stream.read(_LOCAL.size)
    if len(head) < _LOCAL.size or not head.startswith(_LOCAL_MARK):
        return nothing
    *_, size, name_bytes, extra_bytes = _LOCAL.unpack(head)
    if size > limit or name_bytes > MAX_NAME_BYTES:
        return nothing
    name = stream.read(name_bytes).decode(errors="replace")
    stream.seek(extra_bytes, io.SEEK_CUR)
    return FirstMember(name, stream.read(size))


def _cut_off(stream: BinaryIO, file_size: int) -> ArchiveError:
    """Find the member at which an archive without an end was cut off."""
    # The directory would be at the end, which is missing: local headers lead from one to the next.
    before, offset = "", 0
    while True:
        stream.seek(offset)
        head = stream.read(_LOCAL.size)
        if head.startswith(_CENTRAL_MARK):
            reason = "its directory is cut off, or followed by other bytes"
            return ArchiveError("", f"{reason}; members end with {before}")
        if len(head) < _LOCAL.size or not head.startswith(_LOCAL_MARK):
            break
        *_, size, name_bytes, extra_bytes = _LOCAL.unpack(head)
        name = stream.read(name_bytes).decode(errors="replace")
        offset += _LOCAL.size + name_bytes + extra_bytes + size
        if offset > file_size:
            return ArchiveError(name, "it is cut off: the file ends within it")
        before = name
    if not before:
        return ArchiveError("", "it is cut off, or not a bundle")
    # The file ends before or within the header of the next member, whose name is then unknown.
    if len(head) < _LOCAL.size:
        return ArchiveError(before, "the file is cut off behind it")
    return ArchiveError(before, "what follows it is damaged")
