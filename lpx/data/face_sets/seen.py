"""Whether a node of a cluster sees the same faces as the machine that started the run."""

from __future__ import annotations

import os

import numpy as np

from lpx.cluster.files import unlike
from lpx.data.face_sets.face_set import FaceSet, ImageFile, LazyFaces


def check_seen(faces: FaceSet, rows: range) -> None:
    """Check that files have the contents that they had where the set was opened.

    Args:
        faces: All faces, with the contents that were read there.
        rows: The faces to check.

    Raises:
        LpxError: One does not, or is missing; it is named with the node.
    """
    chosen = np.arange(rows.start, rows.stop)
    here = faces.take(chosen).read_contents()
    differing = (here != faces.contents[chosen]).any(axis=1)
    if differing.any():
        at = int(np.argmax(differing))
        reason = "it has another content there" if here[at].any() else "it cannot be read there"
        raise unlike(_path(faces, rows[at]), reason)


def _path(faces: FaceSet, row: int) -> str:
    if isinstance(faces.faces, LazyFaces):
        return os.fsdecode(faces.faces.take(np.array([row])).paths()[0])
    face = faces.faces[row]
    if isinstance(face.source, ImageFile):
        return os.path.abspath(face.source.path)
    return face.name
