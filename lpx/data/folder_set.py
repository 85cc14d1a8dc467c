"""A folder of face crops: `real/` and `fake/` below it, a `faces.csv`, or images without labels."""

from __future__ import annotations

from pathlib import Path

from lpx.data.decode import SUFFIXES
from lpx.data.face_csv import FILE, has_labels, read_face_csv
from lpx.data.face_set import FaceSet
from lpx.data.face_table import FaceRow, make_table
from lpx.data.walk import walk_files
from lpx.errors import LpxError

LABELS = {"real": 0, "fake": 1}


def folder_set(folder: Path, skip: tuple[Path, ...] = ()) -> FaceSet:
    """The faces that `faces.csv` lists, in its order; else all images below, in order of paths.

    Without a `faces.csv` that names labels or methods (see `lpx.data.face_csv`): where there is a
    `real/` or a `fake/`, only images below these count: they are labelled so, and a folder below
    `fake/` names the method. Without these two, images have no label.

    Args:
        folder: Where to look.
        skip: Folders not to look into, where they lie below.

    Raises:
        LpxError: The folder does not exist or holds no images, or its `faces.csv` is wrong.
    """
    if not folder.is_dir():
        found = "is a file, not a folder" if folder.exists() else "does not exist"
        raise LpxError(f"{folder} {found}", "", "name a folder of face crops")
    # A faces.csv without labels tells the identities of real faces to train on.
    if has_labels(folder / FILE):
        table, note = read_face_csv(folder)
        return FaceSet(f"folder:{folder}", "all", "unknown", table, note)
    labelled = [folder / name for name in LABELS if (folder / name).is_dir()]
    # Beside real/ and fake/ other pictures may lie, a workspace's heat maps for one.
    roots = sorted(labelled) or [folder]
    skipped = {path.resolve() for path in skip}
    inside = (
        path.relative_to(folder) for root in roots for path in walk_files(root, SUFFIXES, skipped)
    )
    table = make_table(folder, map(_row, inside))
    if not len(table):
        raise LpxError(
            f"{folder} holds no images",
            f"images are files that end in {', '.join(sorted(SUFFIXES))}",
            "put face crops there, in real/ and fake/ where their labels are known; "
            "`lpx demo --unpack DIR` writes an example",
        )
    return FaceSet(f"folder:{folder}", "all", "unknown", table)


def _row(inside: Path) -> FaceRow:
    label = LABELS.get(inside.parts[0]) if len(inside.parts) > 1 else None
    method = {0: "real", 1: "fake", None: "unknown"}[label]
    if label == 1 and len(inside.parts) > 2:
        method = inside.parts[1]
    return FaceRow(inside.as_posix(), label, method, inside.as_posix())
