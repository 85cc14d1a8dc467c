"""Where the contents of members come from: files, and bytes that are made when they are written."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class Source:
    """A member to write.

    Attributes:
        name: Name of the member.
        open: Opens its content.
        sha256: SHA-256 that the content must have; "" if any will do.
    """

    name: str
    open: Callable[[], BinaryIO]
    sha256: str = ""


def file_source(name: str, path: Path, sha256: str = "") -> Source:
    """Return a member with the content of a file."""
    return Source(name, lambda: open_regular(path), sha256)


def bytes_source(name: str, data: bytes) -> Source:
    """Return a member with these bytes."""
    return Source(name, lambda: io.BytesIO(data))


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read; links are followed.

    Raises:
        OSError: It cannot be read, or is a pipe, a device or a folder.
    """
    # O_NONBLOCK: opening a pipe would wait for somebody to write into it.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return os.fdopen(handle, "rb")
