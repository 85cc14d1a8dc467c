"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

from lpx.data.demo_set import demo_set
from lpx.data.face_set import FaceSet
from lpx.data.folder_set import folder_set
from lpx.errors import LpxError

KNOWN = "demo, folder:DIR (face crops in DIR/real and DIR/fake), or just DIR"


def open_set(name: str, split: str) -> FaceSet:
    """Open a data set.

    Args:
        name: "demo", "folder:DIR", or an existing folder.
        split: "train" or "test"; a folder has no splits and is taken whole.

    Raises:
        LpxError: Unknown name; the known ones are listed.
    """
    if name == "demo":
        return demo_set(split)
    if name.startswith("folder:"):
        return folder_set(Path(name.removeprefix("folder:")).expanduser())
    if Path(name).expanduser().is_dir():
        return folder_set(Path(name).expanduser())
    raise LpxError(
        f"unknown data set {name!r}",
        f"known data sets: {KNOWN}",
        "name one of these; to measure on another set now, crop its faces into real/ and fake/",
    )
