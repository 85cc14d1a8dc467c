"""A folder of face crops: `real/` and `fake/` below it, or images without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lpx.data.decode import SUFFIXES
from lpx.data.face_set import Face, FaceSet, ImageFile
from lpx.errors import LpxError

LABELS = {"real": 0, "fake": 1}


def folder_set(folder: Path, skip: tuple[Path, ...] = ()) -> FaceSet:
    """All images below `folder`, in the order of their paths.

    Where there is a `real/` or a `fake/`, only images below these count: they are labelled so, and
    a folder below `fake/` names the method. Without these two, images have no label.

    Args:
        folder: Where to look.
        skip: Folders not to look into, where they lie below.

    Raises:
        LpxError: The folder does not exist or holds no images.
    """
    if not folder.is_dir():
        found = "is a file, not a folder" if folder.exists() else "does not exist"
        raise LpxError(f"{folder} {found}", "", "name a folder of face crops")
    labelled = [folder / name for name in LABELS if (folder / name).is_dir()]
    # Beside real/ and fake/ other pictures may lie, a workspace's heat maps for one.
    roots = sorted(labelled) or [folder]
    skipped = {path.resolve() for path in skip}
    faces = [_face(folder, path) for root in roots for path in _images(root, skipped)]
    if not faces:
        raise LpxError(
            f"{folder} holds no images",
            f"images are files that end in {', '.join(sorted(SUFFIXES))}",
            "put face crops there, in real/ and fake/ where their labels are known; "
            "`lpx demo --unpack DIR` writes an example",
        )
    return FaceSet(f"folder:{folder}", "all", "unknown", tuple(faces))


def _images(folder: Path, skip: set[Path]) -> Iterator[Path]:
    # followlinks stays off: a link back to a parent would never end.
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if Path(root, name).resolve() not in skip)
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(root) / name


def _face(folder: Path, path: Path) -> Face:
    inside = path.relative_to(folder)
    label = LABELS.get(inside.parts[0]) if len(inside.parts) > 1 else None
    method = {0: "real", 1: "fake", None: "unknown"}[label]
    if label == 1 and len(inside.parts) > 2:
        method = inside.parts[1]
    # A name in another encoding than UTF-8 could be neither printed nor written into a report.
    name = inside.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return Face(name, label, method, name, "", ImageFile(path))
