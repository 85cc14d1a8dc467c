"""Archives: the same bytes everywhere, read by others, and no byte of them may change."""

from __future__ import annotations

import io
import zipfile
import zlib

import pytest

from lpx.bundle.archive import (
    ArchiveError,
    ArchiveWriter,
    Entry,
    directory,
    read_content,
    read_entries,
)
from tests.support.bundles import boundaries

MEMBERS = {"FORMAT": b"lpx-bundle/1\n", "faces/\u00fc.png": b"\x89PNG" * 9, "empty": b""}


def written(members=MEMBERS, **limits):
    stream = io.BytesIO()
    writer = ArchiveWriter(stream, **limits)
    for name, data in members.items():
        writer.add(name, [data[:5], data[5:]])
    writer.finish()
    return stream.getvalue()


def read(data):
    stream = io.BytesIO(data)
    return {e.name: b"".join(read_content(stream, e)) for e in read_entries(stream)}


def with_zipfile(members, **attributes):
    """What Python's own writer makes of the same members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o100644 << 16
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            packed.writestr(info, data)
    return stream.getvalue()


def test_members_come_back():
    assert read(written()) == MEMBERS


def test_bytes_are_those_of_zipfile():
    assert written() == with_zipfile(MEMBERS)


def test_an_archive_without_members():
    assert read(written({})) == {}


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_no_byte_may_differ(flip):
    data = bytearray(written())
    for place in range(len(data)):
        data[place] ^= flip
        with pytest.raises(ArchiveError):
            read(bytes(data))
        data[place] ^= flip


def test_no_byte_may_be_missing_or_more():
    data = written()
    for length in range(len(data)):
        with pytest.raises(ArchiveError):
            read(data[:length])
    for more in (b"\0", b"PK\5\6", data):
        with pytest.raises(ArchiveError):
            read(data + more)


def test_the_member_at_which_it_was_cut_is_named():
    data = written()
    for name, start, end in boundaries(data):
        for length in range(start + 31 + len(name.encode()), end):
            with pytest.raises(ArchiveError) as caught:
                read(data[:length])
            assert caught.value.member == name
            assert "cut off" in caught.value.reason
        with pytest.raises(ArchiveError) as caught:
            read(data[:end])
        assert caught.value.member == name


@pytest.mark.parametrize(
    "attributes",
    [
        {"external_attr": 0o120777 << 16},
        {"external_attr": 0o060644 << 16},
        {"external_attr": 0o100755 << 16},
        {"compress_type": zipfile.ZIP_DEFLATED},
        {"date_time": (2026, 1, 1, 0, 0, 0)},
        {"comment": b"hello"},
        {"extra": b"\x01\x00\x08\x00" + bytes(8)},
        {"create_system": 0},
    ],
)
def test_what_lpx_does_not_write_is_refused(attributes):
    with pytest.raises(ArchiveError) as caught:
        read(with_zipfile({"a": b"content", "b": b"more"}, **attributes))
    assert caught.value.member == "a"


def test_members_that_overlap_are_refused():
    """The trick of small archives that grow without end: many entries for the same bytes."""
    head = written({"a": b"content"})[: boundaries(written({"a": b"content"}))[0][2]]
    crc = zlib.crc32(b"content")
    twice = [Entry("a", 7, crc, 0), Entry("a", 7, crc, 0)]
    with pytest.raises(ArchiveError, match="does not follow"):
        read(head + b"".join(directory(twice, len(head))))


def test_more_members_than_plain_zip_can_count():
    members = {f"{number:05d}": b"" for number in range(66_000)}
    data = written(members)
    assert list(read(data)) == list(members)
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        assert packed.namelist() == list(members)
    for place in range(len(data) - 98, len(data), 9):
        with pytest.raises(ArchiveError):
            read_entries(io.BytesIO(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]))


def test_offsets_beyond_4_gib(tmp_path):
    """The members are holes in a sparse file; only what says where they are is written."""
    path, entries, offset = tmp_path / "large.zip", [], 0
    for name in ("a", "b", "c"):
        entries.append(Entry(name, 3 << 30, 0, offset))
        offset = entries[-1].end
    with path.open("w+b") as stream:
        stream.seek(offset)
        stream.writelines(directory(entries, offset))
        assert read_entries(stream) == tuple(entries)
    with zipfile.ZipFile(path) as packed:
        assert [info.header_offset for info in packed.infolist()] == [e.offset for e in entries]


def test_limits():
    members = {"a": b"ok", "b": b"more"}
    assert written(members, max_members=2, max_member_bytes=4) == written(members)
    with pytest.raises(ArchiveError, match="more than 3 bytes"):
        written(members, max_member_bytes=3)
    with pytest.raises(ArchiveError, match="at most 1 members"):
        written(members, max_members=1)
    with pytest.raises(ArchiveError, match="2 members"):
        read_entries(io.BytesIO(written(members)), max_members=1)


def test_a_name_is_not_without_end():
    with pytest.raises(ArchiveError, match="1024 bytes"):
        read(written({"x" * 1025: b""}))


def test_a_name_that_is_not_utf_8():
    data = written().replace("\u00fc".encode(), b"\xff\xfe")
    with pytest.raises(ArchiveError, match="not UTF-8"):
        read(data)
