"""Faces in files below a folder, stored as columns: a million of them are a few arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from lpx.data.face_sets.columns import Columns, Rows, Strings, encode, encode_identities, pack
from lpx.data.face_sets.face_set import Face, ImageFile, LazyFaces
from lpx.data.wording import printable
from lpx.errors import LpxError


@dataclass(frozen=True)
class FaceRow:
    """A face in a file.

    Attributes:
        file: Path below the set's folder, with "/".
        label: 1 = fake, 0 = real, None = unknown.
        method: "real", or the manipulation.
        video: Video that the face is a frame of; the file itself for a single image.
        identities: People shown, see `lpx.data.face_sets.face_set.Face`.
        split: "train", "val", "test", or "" if none is named.
        frame: Frame number in the video, from 0; -1 if unknown.
        width: Pixels; 0 if unknown.
        height: Pixels; 0 if unknown.
        size_bytes: Size of the file; -1 if unknown.
    """

    file: str
    label: int | None
    method: str
    video: str
    identities: tuple[str, ...] = ()
    split: str = ""
    frame: int = -1
    width: int = 0
    height: int = 0
    size_bytes: int = -1


@dataclass(frozen=True)
class Details:
    """Properties of faces beyond `Columns`.

    Attributes:
        frame: Frame number in the video, int32 [N]; -1 if unknown.
        width: Pixels, int32 [N]; 0 if unknown.
        height: Pixels, int32 [N]; 0 if unknown.
        size_bytes: Size of the file, int64 [N]; -1 if unknown.
    """

    frame: NDArray[np.int32]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    size_bytes: NDArray[np.int64]

    def take(self, rows: Rows) -> Details:
        """Select rows."""
        return Details(self.frame[rows], self.width[rows], self.height[rows], self.size_bytes[rows])


@dataclass(frozen=True, eq=False)
class FaceTable(LazyFaces):
    """Faces in files below a folder.

    Attributes:
        root: The folder.
        names: Path of each file below it, in bytes as on disk.
        columns: Properties by which sets are selected.
        details: Other properties.
    """

    root: Path
    names: Strings
    columns: Columns
    details: Details

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, key: int) -> Face: ...

    @overload
    def __getitem__(self, key: slice) -> FaceTable: ...

    def __getitem__(self, key: int | slice) -> Face | FaceTable:
        if isinstance(key, slice):
            return self.take(np.arange(len(self))[key])
        row = range(len(self))[key]
        raw = self.names.raw(row)
        label = int(self.columns.label[row])
        return Face(
            # A name in another encoding could neither be printed nor written into a report.
            name=printable(raw.decode("utf-8", "surrogateescape")),
            label=None if label < 0 else label,
            method=self.columns.method[row],
            video=printable(self.columns.video[row]),
            identities=self.columns.identities[row],
            source=self.source(row),
        )

    def __iter__(self) -> Iterator[Face]:
        return (self[row] for row in range(len(self)))

    def source(self, row: int) -> ImageFile:
        """Return the file of a face."""
        return ImageFile(self.root / os.fsdecode(self.names.raw(row)))

    def take(self, rows: Rows) -> FaceTable:
        """Select rows; blocks of text are shared, not copied."""
        return FaceTable(
            self.root, self.names.take(rows), self.columns.take(rows), self.details.take(rows)
        )

    def paths(self) -> list[bytes]:
        """Return the path of each face's file, in bytes as on disk."""
        root = os.path.join(os.fsencode(self.root), b"")
        return [root + self.names.raw(row) for row in range(len(self))]


def make_table(root: Path, rows: Iterable[FaceRow]) -> FaceTable:
    """Make a table of faces, in the order of `rows`.

    Raises:
        LpxError: A path leaves the folder.
    """
    listed = list(rows)
    labels = np.full(len(listed), -1, np.int8)
    numbers = np.empty((len(listed), 4), np.int64)
    for place, row in enumerate(listed):
        if row.label is not None:
            labels[place] = row.label
        numbers[place] = row.frame, row.width, row.height, row.size_bytes
    small = numbers[:, :3].astype(np.int32)
    table = FaceTable(
        root,
        pack(row.file for row in listed),
        Columns(
            labels,
            encode(row.method for row in listed),
            encode(row.video for row in listed),
            encode(row.split for row in listed),
            encode_identities(row.identities for row in listed),
        ),
        Details(small[:, 0], small[:, 1], small[:, 2], numbers[:, 3]),
    )
    check_inside(table.names, str(root))
    return table


def check_inside(files: Strings, where: str) -> None:
    """Reject paths that leave the folder they are relative to.

    Args:
        files: Paths with "/", consecutive in their block.
        where: File or set that names them, for the message.

    Raises:
        LpxError: A path is empty, absolute, goes up with "..", or contains a zero byte.
    """
    row = _first_leaving(files)
    if row is not None:
        raise LpxError(
            f"{where} names the file {files[row]!r}",
            "a file must be below the folder: no absolute path, no .., and no empty name",
            "put the file below the folder, and name it relative to that",
        )


def _first_leaving(files: Strings) -> int | None:
    """Return the first row whose path leaves the folder."""
    # On the bytes of all paths at once: a loop over a million paths would take seconds.
    blob, start, stop = files.blob, files.start, files.stop
    bad = start == stop
    bad[~bad] = blob[start[~bad]] == ord("/")
    rows = [np.flatnonzero(bad)]
    # Two dots, at the start of a path or after a slash, and at its end or before a slash.
    dots = blob == ord(".")
    at = np.flatnonzero(dots[:-1] & dots[1:])
    owner = np.searchsorted(stop, at, side="right")
    at, owner = at[owner < len(stop)], owner[owner < len(stop)]
    # The second dot may belong to the next path.
    inside = at + 2 <= stop[owner]
    at, owner = at[inside], owner[inside]
    opens = (at == start[owner]) | (blob[at - 1] == ord("/"))
    ends = at + 2 == stop[owner]
    closes = ends | (blob[np.minimum(at + 2, len(blob) - 1)] == ord("/"))
    rows.append(owner[opens & closes])
    # Zero bytes end a path for the system, but not for Python.
    rows.append(np.searchsorted(stop, np.flatnonzero(blob == 0), side="right"))
    leaving = np.concatenate(rows)
    return int(leaving.min()) if len(leaving) else None
