"""Files that every node must see as the machine does that started the run."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lpx.errors import LpxError


class FileState(NamedTuple):
    """What a machine sees at a path.

    Attributes:
        path: The path, absolute.
        size: Bytes of a file, or number of entries of a folder; -1 if there is neither.
        is_folder: Whether it is a folder.
    """

    path: str
    size: int
    is_folder: bool


def file_states(paths: Iterable[Path]) -> tuple[FileState, ...]:
    """Return what this machine sees at paths."""
    return tuple(_state(os.path.abspath(path)) for path in paths)


def _state(path: str) -> FileState:
    try:
        if os.path.isdir(path):
            return FileState(path, len(os.listdir(path)), is_folder=True)
        return FileState(path, os.stat(path).st_size, is_folder=False)
    except OSError:
        return FileState(path, -1, is_folder=False)


def check_same(states: Iterable[FileState]) -> None:
    """Check, on a node, that it sees the same as the machine that started the run.

    Raises:
        LpxError: It does not; the file and the node are named.
    """
    for state in states:
        here = _state(state.path)
        if here != state:
            raise unlike(state.path, f"it is {_words(here)} there, and {_words(state)} here")


def unlike(path: str, why: str) -> LpxError:
    """Make the error for a file that this node does not see as the machine that started the run."""
    return LpxError(
        f"node {platform.node()} does not see {path} as this machine does",
        why,
        "share the folder with all nodes under the same path, by NFS for example, or leave that "
        "node out of the cluster",
        code="not-found",
    )


def _words(state: FileState) -> str:
    if state.size < 0:
        return "missing"
    if state.is_folder:
        return f"a folder with {state.size} entries"
    return f"a file of {state.size} bytes"
