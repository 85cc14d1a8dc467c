"""Bundles for tests, whole and tampered with."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

from lpx.bundle.archive import ArchiveWriter
from lpx.bundle.manifest import FILE
from lpx.schema import sealed

Members = list[tuple[str, bytes]]


def read_members(path: Path) -> Members:
    """Names and contents of a bundle's members, in order."""
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def write_members(path: Path, members: Members) -> Path:
    """Write an archive of these members, whatever they are."""
    with path.open("wb") as stream:
        writer = ArchiveWriter(stream)
        for name, data in members:
            writer.add(name, [data])
        writer.finish()
    return path


def change_manifest(members: Members, /, **changes) -> Members:
    """The same members, with other values in `bundle.json`, and a checksum that matches them."""
    values = json.loads(dict(members)[FILE])
    del values["checksum"]
    data = json.dumps(sealed({**values, **changes})).encode()
    return [(name, data if name == FILE else content) for name, content in members]


def listed(members: Members) -> dict[str, dict]:
    """The members that `bundle.json` lists."""
    return json.loads(dict(members)[FILE])["members"]


def boundaries(data: bytes) -> list[tuple[str, int, int]]:
    """Name, start and end of each member in an archive: local header and content."""
    parts, offset = [], 0
    while data[offset : offset + 4] == b"PK\3\4":
        size, name_bytes = struct.unpack("<18xL4xH2x", data[offset : offset + 30])
        name = data[offset + 30 : offset + 30 + name_bytes].decode()
        end = offset + 30 + name_bytes + size
        parts.append((name, offset, end))
        offset = end
    return parts
