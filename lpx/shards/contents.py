"""Digests of the faces of a part, from which the merging machine sees that it has the same ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lpx.data.face_sets.face_set import FaceSet
from lpx.errors import LpxError
from lpx.reporter import Reporter
from lpx.shards.join import Whole
from lpx.shards.part import PartWork, read_payload
from lpx.workspace import write_bytes

FILE = "contents.sha256"
_DIGEST_BYTES = 32


def take(faces: FaceSet, rows: range) -> FaceSet:
    """Return the faces of a shard's range."""
    return faces.take(np.arange(rows.start, rows.stop))


def reopen_if_changed(work: PartWork, faces: FaceSet, reporter: Reporter) -> None:
    """Reopen a complete part if the files of its faces have changed since.

    Args:
        work: The part.
        faces: The faces of its shard.
        reporter: Receives a warning.

    Raises:
        LpxError: The folder cannot be written.
    """
    if not work.manifest.complete:
        return
    # Intact, as `open_part` reopens a part whose files were altered.
    if (work.folder / FILE).read_bytes() != faces.contents.tobytes():
        work.reopen(reporter, f"the files of its faces have changed ({faces.name})")


def save_contents(work: PartWork, faces: FaceSet) -> None:
    """Write the SHA-256 of each face of a part, 32 bytes each, in the order of the set."""
    # Digests as of the first use, before the work: callers have checked that no file changed since.
    write_bytes(work.folder / FILE, faces.contents.tobytes())


def check_contents(whole: Whole, faces: FaceSet, unit: int) -> None:
    """Check that the faces here are those that the shards saw.

    Args:
        whole: All parts.
        faces: All faces, in the order of which the shards took their ranges.
        unit: The unit of `Shard.rows`.

    Raises:
        LpxError: A part saw another face, or its list of digests is damaged.
    """
    # Not settled by the key, which has a digest of the list of faces only, since no shard reads
    # all files.
    for part in whole.parts:
        rows = part.manifest.shard.rows(len(faces.faces), unit)
        pieces: list[bytes] = []
        read_payload(part.folder, part.manifest, part.file(FILE), pieces.append)
        theirs = b"".join(pieces)
        ours = np.ascontiguousarray(faces.contents[rows.start : rows.stop])
        if theirs == ours.tobytes():
            continue
        first = next(_differing(theirs, ours), None)
        face = "" if first is None else f"; the first is {faces.faces[rows.start + first].name}"
        raise LpxError(
            f"part {part.manifest.shard} in {part.folder} saw other faces than those of "
            f"{faces.name} here",
            f"their files differ{face}",
            "merge where the faces are the same files, or name their folder here (`faces`)",
        )


def _differing(theirs: bytes, ours: NDArray[np.uint8]) -> Iterator[int]:
    """Yield the rows that differ; none if their number differs."""
    if len(theirs) != ours.size:
        return
    other = np.frombuffer(theirs, np.uint8).reshape(-1, _DIGEST_BYTES)
    yield from np.flatnonzero((other != ours).any(axis=1)).tolist()
