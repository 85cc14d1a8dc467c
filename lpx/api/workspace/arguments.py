"""Arguments that several steps take."""

from __future__ import annotations

import os
from pathlib import Path

from lpx.arguments import as_path

StrPath = str | os.PathLike[str]


def optional_path(name: str, value: StrPath | None) -> Path | None:
    """Return a path that may be left out."""
    return None if value is None else as_path(name, value)


def face_set(name: str, value: StrPath | None) -> str | None:
    """Return the name of a face set, or the path of its folder, as `open_set` takes them."""
    return None if value is None else os.fspath(as_path(name, value))
