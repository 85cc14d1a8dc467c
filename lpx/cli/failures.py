"""Messages for failures of the machine, of files and of runtimes.

Exit code 3 means a bug in lpx. A full disk, a vanished file or exhausted memory can come up at any
line of code, so they are recognised here, once, by the exception.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from lpx.errors import LpxError, first_line, out_of_memory

_OTHER_FOLDER = "use another folder: a workspace with -w DIR, a folder for results with --out DIR"
_PERMISSIONS = "check the permissions of the file and of the folders above it"
# What is wrong with the file that an error names, and what to do, by error number.
_NAMED: dict[int, tuple[str, str]] = {
    errno.ENOENT: ("no longer exists", "restore it, and run the same command again"),
    errno.ENOTDIR: ("needs a folder where there is a file", _OTHER_FOLDER),
    errno.EISDIR: ("is a folder, not a file", "name a file, or remove the folder"),
    errno.EEXIST: ("is in the way", _OTHER_FOLDER),
    errno.ENOTEMPTY: ("is a folder that is not empty", _OTHER_FOLDER),
    errno.EACCES: ("cannot be opened", _PERMISSIONS),
    errno.EPERM: ("cannot be opened", _PERMISSIONS),
    errno.ELOOP: (
        "is a symbolic link that leads in a circle, or may not be followed",
        "remove the link",
    ),
    errno.ENAMETOOLONG: ("has too long a name", "use a shorter name, or a folder nearer the root"),
    errno.ENXIO: ("is a pipe or a device, not a file", "name a regular file"),
    errno.ENODEV: ("is a pipe or a device, not a file", "name a regular file"),
    errno.EINVAL: ("cannot be used as a file", "name a regular file on a usual file system"),
    errno.EBUSY: ("is in use", "wait for the other program, and run the same command again"),
    errno.ETXTBSY: ("is in use", "wait for the other program, and run the same command again"),
    errno.ESTALE: ("is a stale handle of a network file system", "run the same command again"),
    errno.ENOTSUP: ("is on a file system that cannot do this", _OTHER_FOLDER),
}
_FREE_SPACE = f"free some space, or {_OTHER_FOLDER}; temporary files go to the folder TMPDIR"
# What the machine lacks, and what to do, by error number.
_MACHINE: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", _FREE_SPACE),
    errno.EDQUOT: ("the disk quota is used up", _FREE_SPACE),
    errno.EFBIG: (
        "a file would become larger than is allowed here",
        f"raise the limit (`ulimit -f`, or the file system's), or {_OTHER_FOLDER}",
    ),
    errno.EROFS: ("the file system is read-only", _OTHER_FOLDER),
    errno.EIO: (
        "the disk, or the network to it, failed",
        "look at the system's log (`dmesg`), and run the same command again",
    ),
    errno.EMFILE: ("too many files are open", "raise the limit with `ulimit -n 4096`"),
    errno.ENFILE: ("too many files are open", "end other programs"),
    errno.EAGAIN: (
        "no more processes or threads can be started",
        "end other programs, or raise the limit (`ulimit -u`)",
    ),
}


def user_error(error: BaseException) -> LpxError | None:
    """Make the message for a failure that is not a bug in lpx; None for any other.

    Args:
        error: The exception that a command raised.
    """
    if short := out_of_memory(error):
        return short
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return LpxError(*_split(_MACHINE[errno.EAGAIN], first_line(error)))
    if type(error).__module__.startswith("onnxruntime."):
        return LpxError(
            "ONNX Runtime cannot run the model",
            first_line(error),
            "update onnxruntime; if it is the newest, please report the message, the command and "
            "the output of `lpx doctor`",
        )
    return None


def _of_system(error: OSError) -> LpxError | None:
    number = error.errno
    if number is None:
        return None
    if number == errno.ENOMEM:
        return LpxError("there is not enough memory", first_line(error), "end other programs")
    if number in _MACHINE:
        return LpxError(*_split(_MACHINE[number], _where(error)))
    if number == errno.ENOENT and (lost := _of_folders(error)):
        return lost
    if number not in _NAMED or error.filename is None or _is_installed(error):
        return None
    what, fix = _NAMED[number]
    return LpxError(f"{_name(error)} {what}", error.strerror or "", fix)


def _of_folders(error: OSError) -> LpxError | None:
    """Recognise missing folders that Python needs but does not name in the error."""
    if "temporary directory" in str(error):
        return LpxError(
            "there is no usable folder for temporary files",
            first_line(error),
            "set one that is writable and has space: TMPDIR=DIR lpx ...",
        )
    try:
        os.getcwd()
    except OSError:
        return LpxError(
            "the current folder no longer exists",
            "relative paths start there",
            "change to another folder with cd",
        )
    return None


def _split(entry: tuple[str, str], why: str) -> tuple[str, str, str]:
    return entry[0], why, entry[1]


def _is_installed(error: OSError) -> bool:
    """Return whether the file belongs to lpx or Python, so that its absence is not a user error."""
    homes = (Path(__file__).parents[1], Path(sys.prefix) / "lib", Path(sys.base_prefix) / "lib")
    try:
        path = Path(os.path.abspath(os.fsdecode(error.filename)))
    except (TypeError, OSError):
        return True
    return any(path.is_relative_to(home) for home in homes)


def _name(error: OSError) -> str:
    name = error.filename2 if error.filename2 is not None else error.filename
    try:
        return os.fsdecode(name)
    except TypeError:
        return str(name)


def _where(error: OSError) -> str:
    said = error.strerror or str(error)
    return said if error.filename is None else f"{_name(error)}: {said}"
