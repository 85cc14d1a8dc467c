"""Faces in files below a folder, kept as columns: a million of them are a few arrays."""

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
    """What is known of a face in a file.

    Attributes:
        file: Path below the set's folder, with "/" between its parts.
        label: 1 = fake, 0 = real, None = not known.
        method: "real", or the kind of manipulation.
        video: The video it is a frame of; the file itself for a single image.
        identities: Whose face; see `lpx.data.face_sets.face_set.Face`.
        split: "train", "val", "test", or "" where none is named.
        frame: Number of the frame in its video, from 0; -1 where not known.
        width: Pixels; 0 where not known.
        height: Pixels; 0 where not known.
        size_bytes: Size of the file; -1 where not known.
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
    """What is known beyond `Columns`.

    Attributes:
        frame: int32 [N], number in the video; -1 where not known.
        width: int32 [N], pixels; 0 where not known.
        height: int32 [N], pixels; 0 where not known.
        size_bytes: int64 [N]; -1 where not known.
    """

    frame: NDArray[np.int32]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    size_bytes: NDArray[np.int64]

    def take(self, rows: Rows) -> Details:
        """The same of these rows."""
        return Details(self.frame[rows], self.width[rows], self.height[rows], self.size_bytes[rows])


@dataclass(frozen=True, eq=False)
class FaceTable(LazyFaces):
    """Faces in files below a folder.

    Attributes:
        root: The folder.
        names: Path of each file below it, in bytes as on disk.
        columns: What sets are selected by.
        details: What else is known.
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
            # A name in another encoding could be neither printed nor written into a report.
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
        """The file of the face in this row."""
        return ImageFile(self.root / os.fsdecode(self.names.raw(row)))

    def take(self, rows: Rows) -> FaceTable:
        """The faces in these rows; blocks of text are shared, not copied."""
        return FaceTable(
            self.root, self.names.take(rows), self.columns.take(rows), self.details.take(rows)
        )

    def paths(self) -> list[bytes]:
        """Path of each face's file, in bytes as on disk."""
        root = os.path.join(os.fsencode(self.root), b"")
        return [root + self.names.raw(row) for row in range(len(self))]


def make_table(root: Path, rows: Iterable[FaceRow]) -> FaceTable:
    """A table of these faces, in this order.

    Raises:
        LpxError: A path leaves the folder.
    """
    listed = list(rows)
    numbers = np.array(
        [(r.frame, r.width, r.height, r.size_bytes) for r in listed], np.int64
    ).reshape(-1, 4)
    frame, width, height = (numbers[:, i].astype(np.int32) for i in range(3))
    table = FaceTable(
        root,
        pack(r.file for r in listed),
        Columns(
            np.array([-1 if r.label is None else r.label for r in listed], np.int8),
            encode(r.method for r in listed),
            encode(r.video for r in listed),
            encode(r.split for r in listed),
            encode_identities(r.identities for r in listed),
        ),
        Details(frame, width, height, numbers[:, 3]),
    )
    check_inside(table.names, str(root))
    return table


def check_inside(files: Strings, where: str) -> None:
    """Refuse paths that leave the folder they are relative to.

    Args:
        files: Paths with "/" between their parts, one behind the other in their block.
        where: What names them, for the message.

    Raises:
        LpxError: A path is empty, absolute, goes up with "..", or holds a zero byte.
    """
    if row := _leaving(files):
        raise LpxError(
            f"{where} names the file {files[row - 1]!r}",
            "a file must lie below the folder: no absolute path, no .., and no empty name",
            "put the file below the folder, and name it relative to that",
        )


def _leaving(files: Strings) -> int:
    """One more than the first row whose path leaves the folder; 0 where none does."""
    blob, start, stop = files.blob, files.start, files.stop
    bad = start == stop
    bad[~bad] = blob[start[~bad]] == ord("/")
    rows = [np.flatnonzero(bad)]
    dots = blob == ord(".")
    at = np.flatnonzero(dots[:-1] & dots[1:])
    owner = np.searchsorted(stop, at, side="right")
    at, owner = at[owner < len(stop)], owner[owner < len(stop)]
    inside = at + 2 <= stop[owner]
    at, owner = at[inside], owner[inside]
    opens = (at == start[owner]) | (blob[at - 1] == ord("/"))
    ends = at + 2 == stop[owner]
    closes = ends | (blob[np.minimum(at + 2, len(blob) - 1)] == ord("/"))
    rows.append(owner[opens & closes])
    rows.append(np.searchsorted(stop, np.flatnonzero(blob == 0), side="right"))
    found = np.concatenate(rows)
    return int(found.min()) + 1 if len(found) else 0
