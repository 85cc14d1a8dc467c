"""Exchange of two folders, such as an engine and the one that was built to replace it."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

from lpx import interrupts


def swap(
    new: Path,
    old: Path,
    *,
    at_once: bool = True,
    rename: Callable[[Path, Path], None] = os.rename,
) -> None:
    """Exchange two folders of one file system, so that `old` is never missing.

    Args:
        new: A folder.
        old: The other.
        at_once: Use the system call for it, where C library and file system have it.
        rename: Renames a folder, if that is how it is done.

    Raises:
        OSError: One does not exist, or their parents cannot be written.
    """
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if at_once and exchange is not None:
        # -100: relative paths are those of this process; 2: RENAME_EXCHANGE.
        failed = exchange(-100, os.fsencode(new), -100, os.fsencode(old), 2)
        if not failed:
            return
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(number, os.strerror(number), str(old))
    aside = new.with_name(f"{new.name}.aside")
    # Between these calls `old` is missing: a signal has to wait until it is back.
    with interrupts.deferred():
        rename(old, aside)
        try:
            rename(new, old)
        except OSError:
            rename(aside, old)
            raise
        rename(aside, new)
