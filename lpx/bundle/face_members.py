"""A face set as members of a bundle: crops, and a `faces.csv` that makes them a set again.

A crop from a file is packed byte for byte. A face that is made when it is read, like those of the
demo set, is packed as PNG, which is lossless.
"""

from __future__ import annotations

import csv
import io
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lpx.bundle.archive import MAX_MEMBER_BYTES
from lpx.bundle.manifest import FACES
from lpx.bundle.names import MemberNames
from lpx.bundle.sources import Source, bytes_source, file_source
from lpx.data.face_sets.csv import FILE as CSV
from lpx.data.face_sets.csv import means_real
from lpx.data.face_sets.face_set import Face, FaceSet, ImageFile, ImageSource
from lpx.data.text_table import NOTHING
from lpx.render.encode import encode_png

_COLUMNS = ("file", "label", "method", "video", "identity", "split")
_LABELS = {0: "0", 1: "1", None: ""}
# Names of files that are kept. Others are packed under a number: a name may be in any encoding, and
# differ from another in case only.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+=()-]*")
# Longer cells are replaced: a line of a table has a maximum length.
_MAX_CELL = 1000


@dataclass(frozen=True)
class FaceMembers:
    """A face set to pack.

    Attributes:
        sources: The crops, and `faces.csv`.
        count: Number of crops.
        unreadable: Names of faces that are left out, as their files cannot be read.
    """

    sources: tuple[Source, ...]
    count: int
    unreadable: tuple[str, ...]


def face_members(faces: FaceSet) -> FaceMembers:
    """Return the members for a face set, in bounded memory: contents are read when written.

    Labels, methods, videos, people and splits survive; names do where every file system takes
    them. A value that a CSV cell cannot hold (such as a video called "null") is replaced by another
    one that is as different from all others: they only group faces.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    names = _FileNames()
    cells = {column: _Cells(column) for column in _COLUMNS[2:]}
    sources: list[Source] = []
    unreadable: list[str] = []
    # A face does not name its split; columns do.
    splits = faces.columns.split
    for row, face in enumerate(faces.faces):
        if isinstance(face.source, ImageFile) and not _is_readable(face.source.path):
            unreadable.append(face.name)
            continue
        file = names.add(face)
        sources.append(_crop(f"{FACES}/{file}", face.source))
        identities = ";".join(cells["identity"].cell(one) for one in face.identities)
        writer.writerow(
            (
                file,
                _LABELS[face.label],
                _method(face, cells["method"]),
                cells["video"].cell(face.video),
                identities,
                cells["split"].cell(splits[row]),
            )
        )
    data = table.getvalue().encode()
    count = len(sources)
    if count:
        sources.append(bytes_source(f"{FACES}/{CSV}", data))
    return FaceMembers(tuple(sources), count, tuple(unreadable))


def _is_readable(path: Path) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    fits = 0 < status.st_size <= MAX_MEMBER_BYTES
    return fits and stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK)


def _crop(name: str, source: ImageSource) -> Source:
    if isinstance(source, ImageFile):
        return file_source(name, source.path)
    return Source(name, lambda: io.BytesIO(encode_png(source.read())))


def _method(face: Face, cells: _Cells) -> str:
    """Return the cell for a face's method, in which `faces.csv` must not contradict the label."""
    if face.label is None:
        # A method without a label would be read as one.
        return ""
    if face.label == 0:
        # Whatever a set calls its real faces, a table has one word for them.
        return "real"
    return cells.cell(face.method)


class _FileNames:
    """Names of the crops below `faces/`."""

    def __init__(self) -> None:
        self._names = MemberNames()
        # So that no crop takes the table's name.
        self._names.add(CSV)
        self._numbered = 0

    def add(self, face: Face) -> str:
        """Return the name for a crop: the face's own, or a number."""
        name = face.name
        if not isinstance(face.source, ImageFile):
            name = str(PurePosixPath(name).with_suffix(".png"))
        if all(_PLAIN.fullmatch(part) for part in name.split("/")) and not self._names.add(name):
            return name
        # The suffix is kept, as people and programs go by it.
        suffix = PurePosixPath(name).suffix
        if not _PLAIN.fullmatch(f"x{suffix}"):
            suffix = ""
        for number in self._numbers():
            name = f"numbered/{number:06d}{suffix}"
            if not self._names.add(name):
                return name
        raise AssertionError("numbers have no end")

    def _numbers(self) -> Iterator[int]:
        while True:
            self._numbered += 1
            yield self._numbered


class _Cells:
    """Values of a column, each replaced if it would not be read back as it is."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._cells: dict[str, str] = {"": ""}

    def cell(self, value: str) -> str:
        """Return the cell for a value: always the same one, and different from all others."""
        cell = self._cells.get(value)
        if cell is None:
            cell = value if self._survives(value) else f"{self._column}:{len(self._cells)}"
            self._cells[value] = cell
        return cell

    def _survives(self, value: str) -> bool:
        if value != value.strip() or not value.isprintable() or len(value) > _MAX_CELL:
            return False
        # Cells that readers of tables take for empty, and values that look like a replacement.
        if value in NOTHING or value.startswith(f"{self._column}:"):
            return False
        if self._column == "identity":
            return ";" not in value
        if self._column == "method":
            # A fake's method whose name means real faces would contradict its label.
            return means_real(value) is not True
        return True
