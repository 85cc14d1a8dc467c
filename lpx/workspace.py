"""Where artefacts lie, what made them, whether they still match.

A workspace is a folder. Every artefact is written under a temporary name and renamed, so that it
is either whole or absent; every artefact has a manifest beside it that names the SHA-256 of what it
was made from; and one process at a time may write.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from lpx import interrupts
from lpx.arguments import as_path
from lpx.errors import LpxError
from lpx.schema import MAX_BYTES, SchemaError, parse_json, sealed, unsealed

DEFAULT = Path("lpx-out")
SYNC_SECONDS = 1.0
"""A loss of power loses at most about this much of what was added to a journal."""
_SHORT = 16
"""Characters of a file's name that its temporary name repeats."""


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` when the block ends well.

    Args:
        path: The file.
        durable: Wait until file and name are on the disk, so that a loss of power afterwards loses
            nothing. Not worth its milliseconds where there are many files that are easily made
            again.

    Raises:
        LpxError: The folder cannot be written.
    """
    temporary = None
    try:
        # A signal in here would leave the file behind: it waits until the name is known.
        with interrupts.deferred():
            temporary = _new_beside(path)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        if durable:
            # Before the name: after a loss of power the new name must not lead to an empty file.
            _sync(temporary)
        temporary.replace(path)
        if durable:
            _sync(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _new_beside(path: Path) -> Path:
    """An empty file in the folder of `path`, which is made if need be.

    Raises:
        LpxError: The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Some writers go by what a name ends in. Where the path's name fits, this must fit too.
        suffix = path.suffix if len(path.suffix) <= _SHORT else ""
        handle, name = tempfile.mkstemp(suffix, f".{path.stem[:_SHORT]}.", path.parent)
    except OSError as error:
        raise unwritable(path.parent, error) from error
    os.close(handle)
    return Path(name)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk.

    Raises:
        OSError: The disk is full or failed.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        sync_handle(handle)
    finally:
        os.close(handle)


def sync_handle(handle: int) -> None:
    """Wait until what was written through a handle is on the disk.

    Raises:
        OSError: The disk is full or failed.
    """
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems cannot, of folders above all.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS, errno.EBADF):
            raise


class Appended:
    """A file that only grows: what was added is on the disk within about `SYNC_SECONDS`.

    Args:
        path: The file; made, with its folder, when something is first added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._synced = -math.inf

    def add(self, data: bytes) -> None:
        """Add to the end.

        Raises:
            LpxError: It cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab", buffering=0, opener=no_follow) as stream:
                rest = memoryview(data)
                while rest:
                    rest = rest[stream.write(rest) :]
                if time.monotonic() - self._synced >= SYNC_SECONDS:
                    first = self._synced == -math.inf
                    sync_handle(stream.fileno())
                    if first:
                        _sync(self.path.parent)
                    self._synced = time.monotonic()
        except OSError as error:
            raise unwritable(self.path, error) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def unwritable(path: Path, error: OSError) -> LpxError:
    """The error for a path that cannot be written."""
    why = error.strerror or str(error)
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        why = "there is a file where a folder is needed"
    return LpxError(
        f"{path} cannot be written",
        why,
        "free the place, or choose another: a workspace with -w DIR or LPX_WORKSPACE, a folder for "
        "predictions with --out DIR",
    )


def check_writable(folder: Path, *names: str) -> None:
    """Find out before long work that its results could not be written; nothing is left behind.

    Args:
        folder: Where results are to go; it need not exist.
        names: Of the files there.

    Raises:
        LpxError: The folder cannot be made or written, or a folder has the name of a result.
    """
    place = folder
    try:
        while not _exists(place):
            place = place.absolute().parent
        # Without a name, so that not even a kill leaves it behind.
        with tempfile.TemporaryFile(dir=place):
            pass
        for name in names:
            if (folder / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{name} in it is a folder, not a file")
    except OSError as error:
        raise unwritable(folder, error) from error


def _exists(path: Path) -> bool:
    """Whether something is there; a link to nothing, or a name that no file can have, raises."""
    try:
        os.stat(path)
    except FileNotFoundError:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "it is a link to nothing") from None
        return False
    return True


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file atomically; see `atomic_path`."""
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, readable by people."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON atomically, with a checksum: what other steps read and rely on."""
    write_json(path, sealed(values))


def read_regular(path: Path, *, inside: Path | None = None, limit: int | None = None) -> bytes:
    """The bytes of a regular file: a pipe would keep lpx waiting, a device has no end.

    Args:
        path: The file.
        inside: Folder that the file must be in, after links are followed.
        limit: Largest size, bytes.

    Raises:
        OSError: It cannot be read, is not a regular file, is elsewhere, or is too large.
    """
    if inside is not None and not path.resolve().is_relative_to(inside.resolve()):
        raise OSError(errno.EPERM, f"it is a link to a file outside {inside}")
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with open(os.open(path, flags), "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if limit is not None and status.st_size > limit:
            raise OSError(errno.EFBIG, f"it has {status.st_size} bytes; the limit is {limit}")
        return stream.read()


def no_follow(path: str, flags: int) -> int:
    """An opener for files that lpx adds to: one that is a link may name a file of the user's.

    Raises:
        OSError: The path is a link, or a pipe that nobody reads.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    return os.open(path, flags, 0o666)


def read_json(path: Path, remake: str) -> dict[str, Any]:
    """Read a file that holds one object.

    Args:
        path: The file.
        remake: The command that makes it.

    Raises:
        LpxError: Missing or damaged.
    """
    try:
        value = parse_json(read_regular(path, limit=MAX_BYTES))
    except FileNotFoundError:
        raise LpxError(f"{path} does not exist", "", f"make it with `{remake}`") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise LpxError(f"{path} cannot be read", why, f"make it again with `{remake}`") from error
    if not isinstance(value, dict):
        raise LpxError(f"{path} is not a manifest", "", f"make it again with `{remake}`")
    return value


def read_sealed(path: Path, remake: str) -> dict[str, Any]:
    """Read what `write_sealed` wrote.

    Args:
        path: The file.
        remake: The command that makes it.

    Raises:
        LpxError: Missing, damaged, or with another checksum than it was written with.
    """
    value = read_json(path, remake)
    try:
        return unsealed(value)
    except SchemaError as error:
        raise LpxError(
            f"{path} is not as lpx wrote it", str(error), f"make it again with `{remake}`"
        ) from error


class WorkspaceFolder:
    """Paths and lock of a workspace. `lpx.Workspace` adds the steps.

    Args:
        root: The folder, created when something is first written.
    """

    def __init__(self, root: str | os.PathLike[str] = DEFAULT) -> None:
        self.root = as_path("root", root)

    @property
    def model(self) -> Path:
        """The exported ONNX model; its manifest is `model.json`."""
        return self.root / "model.onnx"

    @property
    def reference(self) -> Path:
        """The PyTorch checkpoint that engines are compared with."""
        return self.root / "reference.pt"

    @property
    def engines(self) -> Path:
        """One folder per engine: `engine.onnx` or `engine.plan`, and `manifest.json`."""
        return self.root / "engines"

    @property
    def scales(self) -> Path:
        """Calibrated ranges."""
        return self.root / "scales.json"

    @property
    def predictions(self) -> Path:
        """Where `lpx predict` puts its pictures by default."""
        return self.root / "predictions"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the workspace against other processes; released when this one ends, however.

        Raises:
            LpxError: Another process holds it, or the folder cannot be written.
        """
        with locked(self.root, "workspace", "work elsewhere with -w DIR"):
            yield


@contextmanager
def locked(root: Path, kind: str, elsewhere: str) -> Iterator[None]:
    """Hold a folder against other processes; released when this one ends, however.

    Args:
        root: The folder; made where it does not exist. Its lock is `.lock`.
        kind: What the folder is, for the error.
        elsewhere: What to do instead of waiting.

    Raises:
        LpxError: Another process holds it, or the folder cannot be written.
    """
    path = root / ".lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        stream = _open_lock(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise LpxError(
                f"{path} is a symbolic link",
                "lpx writes its process number into it, and does not write through links",
                "remove it",
            ) from error
        raise unwritable(root, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = ascii(stream.read(20).strip())[1:-1] or "unknown"
            raise LpxError(
                f"{kind} {root} is in use by process {holder}",
                "two processes would overwrite each other's artefacts",
                f"wait for it, or {elsewhere}",
            ) from None
        if os.fstat(stream.fileno()).st_nlink == 1:
            # A file with another name too may be one that somebody needs.
            stream.seek(0)
            stream.truncate()
            stream.write(f"{os.getpid()}\n")
            stream.flush()
        yield


def _open_lock(path: Path) -> TextIO:
    """Open a lock for reading and writing, without following a link or waiting for a pipe."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    handle = os.open(path, flags, 0o666)
    stream = os.fdopen(handle, "r+", encoding="utf-8", errors="replace")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, f"{path.name} in it is not a regular file")
    return stream
