"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

from lpx.data.demo_set import demo_set
from lpx.data.face_set import FaceSet
from lpx.data.folder_set import folder_set
from lpx.errors import LpxError

KNOWN = "demo, folder:DIR (face crops in DIR/real and DIR/fake, or a DIR/faces.csv), or just DIR"


def open_set(name: str, split: str, skip: tuple[Path, ...] = ()) -> FaceSet:
    """Open a data set.

    Args:
        name: "demo", "folder:DIR", or an existing folder.
        split: "train" or "test", or "all"; a folder is taken whole, unless its faces.csv names
            splits.
        skip: Folders not to look into, where they lie below the one that is opened.

    Raises:
        LpxError: Unknown name; the known ones are listed.
    """
    if name == "demo":
        return demo_set(split)
    if name.startswith("folder:"):
        return _part(folder_set(Path(name.removeprefix("folder:")).expanduser(), skip), split)
    if Path(name).expanduser().is_dir():
        return _part(folder_set(Path(name).expanduser(), skip), split)
    raise LpxError(
        f"unknown data set {name!r}",
        f"it is no folder either; known data sets: {KNOWN}",
        "name one of these; for another set, crop its faces into DIR/real and DIR/fake",
    )


def _part(faces: FaceSet, split: str) -> FaceSet:
    if split == "all" or faces.splits() == ("",):
        return faces
    return faces.select(split=split)
