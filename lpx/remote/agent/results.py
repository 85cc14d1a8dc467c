"""Results in a workspace on a board."""

import os
import sys
from typing import BinaryIO, Dict, List, Union

from lpx.remote.agent.files import CHUNK, WORKSPACE, Request, answer, digest_of, inside
from lpx.remote.agent.machine import describe

# Names in a workspace that are results.
REPORTS = ("report.json", "report.html", "report.md")
RESULTS = ("engines", "predictions", "debug", "sensitivity", "search")
# What these keep for the next run on the board.
UNFINISHED = {"sensitivity": ("shifts",), "search": ("shifts", "engines")}
# Files of an engine that only the GPU which made them can use.
CACHES = ("kernels.cache", "cache")


def results(base: str, request: Request, stream: BinaryIO) -> None:
    """List the results in a workspace, with their SHA-256."""
    root = os.path.join(base, "work", request["work"], WORKSPACE)
    names = [name for name in REPORTS if os.path.isfile(os.path.join(root, name))]
    for top in RESULTS:
        for parent, folders, files in os.walk(os.path.join(root, top)):
            kept = UNFINISHED.get(top, ())
            folders[:] = [name for name in folders if not skipped(name) and name not in kept]
            below = os.path.relpath(parent, root).replace(os.sep, "/")
            names += [below + "/" + name for name in files if not skipped(name)]
    listed: Dict[str, List[Union[int, str]]] = {}
    for name in names:
        path = os.path.join(root, name)
        digest = digest_of(path)
        # Links, and what has just gone: lpx makes none.
        if digest:
            listed[name] = [os.lstat(path).st_size, digest]
    answer(request, {"files": listed, "machine": describe()})


def skipped(name: str) -> bool:
    """Return whether a file stays on the board: hidden, or a cache."""
    return name.startswith(".") or name in CACHES


def fetch(base: str, request: Request, stream: BinaryIO) -> None:
    """Send the contents of files, one behind the other."""
    root = os.path.join(base, "work", request["work"], WORKSPACE)
    answer(request, {})
    for name, size in request["files"]:
        with open(inside(root, name), "rb") as source:
            while size:
                chunk = source.read(min(CHUNK, size))
                if not chunk:
                    # It became shorter: the workstation notices that bytes are missing.
                    os._exit(1)
                size -= len(chunk)
                sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
