"""Files below a folder, in a fixed order, by what their names end in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from pathlib import Path


def walk_files(folder: Path, suffixes: Set[str], skip: Set[Path] = frozenset()) -> Iterator[Path]:
    """Files below a folder; hidden ones are left out.

    Args:
        folder: Where to look.
        suffixes: Of the files wanted, in lower case with the dot.
        skip: Folders not to look into, resolved.
    """
    # followlinks stays off: a link back to a parent would never end.
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if Path(root, name).resolve() not in skip)
        for name in sorted(files):
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                yield Path(root) / name
