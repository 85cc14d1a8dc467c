"""The workspace folder, and how files in it are written and read.

Every artefact is written under a temporary name and renamed, so that it is either whole or absent.
Beside it is a manifest with the SHA-256 of what it was made from. One process at a time may write.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

from lpx import interrupts
from lpx.arguments import as_path
from lpx.errors import LpxError
from lpx.schema import MAX_BYTES, SchemaError, parse_json, sealed, unsealed

DEFAULT = Path("lpx-out")
# Time between syncs of a journal: about this much is lost with the power.
SYNC_SECONDS = 1.0
# Errors of file systems without locks: Lustre and BeeGFS have them only if mounted so.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)
# Characters of a file's name that its temporary name repeats.
_SHORT = 16


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder, renamed to `path` if the block succeeds.

    Args:
        path: The file.
        durable: Wait until file and name are on the disk, so that they survive a loss of power.
            This takes milliseconds; leave it out for many files that are easily made again.

    Raises:
        LpxError: The folder cannot be written.
    """
    temporary = None
    try:
        # A signal in here would leave the file behind: defer it until the name is known.
        with interrupts.deferred():
            temporary = _new_beside(path)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        if durable:
            # Before renaming: after a loss of power the new name must not lead to an empty file.
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
    """Create an empty file in the folder of `path`, and the folder if needed.

    Raises:
        LpxError: The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Some writers go by the suffix. The temporary name must not be longer than `path` can be.
        suffix = path.suffix if len(path.suffix) <= _SHORT else ""
        handle, name = tempfile.mkstemp(suffix, f".{path.stem[:_SHORT]}.", path.parent)
    except OSError as error:
        raise unwritable(path.parent, error) from error
    os.close(handle)
    return Path(name)


def _sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk.

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
        # Some file systems cannot sync, folders above all.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS, errno.EBADF):
            raise


class Appended:
    """A file that only grows, synced to the disk about every `SYNC_SECONDS`.

    Args:
        path: The file, created with its folder when something is first added.
        clock: Returns the time, seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._synced = -math.inf

    def add(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            LpxError: The file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab", buffering=0, opener=no_follow) as stream:
                rest = memoryview(data)
                while rest:
                    rest = rest[stream.write(rest) :]
                if self._clock() - self._synced >= SYNC_SECONDS:
                    first = self._synced == -math.inf
                    sync_handle(stream.fileno())
                    if first:
                        _sync(self.path.parent)
                    self._synced = self._clock()
        except OSError as error:
            raise unwritable(self.path, error) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def unwritable(path: Path, error: OSError) -> LpxError:
    """Make the error for a path that cannot be written."""
    why = error.strerror or str(error)
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        why = "there is a file where a folder is needed"
    return LpxError(
        f"{path} cannot be written",
        why,
        "remove what is in the way, free space or check permissions; or use another folder",
        code="unwritable",
    )


def check_writable(folder: Path, *names: str) -> None:
    """Check before long work that its results can be written. Leaves nothing behind.

    Args:
        folder: Folder for results; it need not exist.
        names: Names of the result files.

    Raises:
        LpxError: The folder cannot be created or written, or a folder has the name of a result.
    """
    place = folder
    try:
        while not _exists(place):
            place = place.absolute().parent
        # Without a name, so that not even SIGKILL leaves it behind.
        with tempfile.TemporaryFile(dir=place):
            pass
        for name in names:
            if (folder / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{name} in it is a folder, not a file")
    except OSError as error:
        raise unwritable(folder, error) from error


def _exists(path: Path) -> bool:
    """Check that something exists; a dangling link or an impossible name raises OSError."""
    try:
        os.stat(path)
    except FileNotFoundError:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "it is a dangling link") from None
        return False
    return True


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file atomically; see `atomic_path`."""
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON with a checksum atomically, for other steps to read."""
    write_json(path, sealed(values))


def read_regular(path: Path, *, inside: Path | None = None, limit: int | None = None) -> bytes:
    """Read a regular file; a pipe could block forever, and a device never ends.

    Args:
        path: The file.
        inside: Folder that must contain the file once links are followed.
        limit: Largest size, bytes.

    Raises:
        OSError: It cannot be read, is not a regular file, is outside, or is too large.
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
    """Open a file to append to, but not through a link, which may lead to a file of the user's.

    Raises:
        OSError: The path is a link, or a pipe without a reader.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    return os.open(path, flags, 0o666)


def read_json(path: Path, remake: str) -> dict[str, Any]:
    """Read a JSON file with one object.

    Args:
        path: The file.
        remake: The command that writes it.

    Raises:
        LpxError: Missing or damaged.
    """
    try:
        value = parse_json(read_regular(path, limit=MAX_BYTES))
    except FileNotFoundError:
        raise LpxError(
            f"{path} does not exist", "", f"run `{remake}` first", code="not-found"
        ) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise LpxError(
            f"{path} cannot be read", why, f"run `{remake}` again", code="damaged"
        ) from error
    if not isinstance(value, dict):
        raise LpxError(f"{path} is not a manifest", "", f"run `{remake}` again", code="damaged")
    return value


def read_sealed(path: Path, remake: str) -> dict[str, Any]:
    """Read a file that `write_sealed` wrote.

    Args:
        path: The file.
        remake: The command that writes it.

    Raises:
        LpxError: Missing or damaged, or its checksum does not match.
    """
    value = read_json(path, remake)
    try:
        return unsealed(value)
    except SchemaError as error:
        raise LpxError(
            f"{path} is not as lpx wrote it", str(error), f"run `{remake}` again", code="damaged"
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
        """Path of the exported ONNX model; its manifest is `model.json`."""
        return self.root / "model.onnx"

    @property
    def reference(self) -> Path:
        """Path of the PyTorch checkpoint that engines are compared with."""
        return self.root / "reference.pt"

    @property
    def engines(self) -> Path:
        """Folder with a folder per engine: `engine.onnx` or `engine.plan`, and `manifest.json`."""
        return self.root / "engines"

    @property
    def scales(self) -> Path:
        """Path of the calibrated scales."""
        return self.root / "scales.json"

    @property
    def bundle(self) -> Path:
        """Path of the manifest of the bundle that this workspace came from; absent in others."""
        return self.root / "bundle.json"

    @property
    def predictions(self) -> Path:
        """Default folder for the pictures and tables of `predict`."""
        return self.root / "predictions"

    @property
    def probe(self) -> Path:
        """Folder of the probe faces that came with a bundle; absent in other workspaces."""
        return self.root / "probe"

    @property
    def timing_caches(self) -> Path:
        """Folder that keeps TensorRT's kernel times between builds."""
        return self.root / "timing-caches"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the workspace against other processes until the block, or this process, ends.

        Raises:
            LpxError: Another process holds it, or the folder cannot be written.
        """
        with locked(self.root, "workspace", "use another workspace"):
            yield


class NoLocksError(LpxError):
    """The file system of a folder has no locks, so that no process can hold the folder."""

    code = "unwritable"


def take_lock(
    stream: IO[Any], folder: Path, *, flock: Callable[[IO[Any], int], None] = fcntl.flock
) -> None:
    """Lock an open file against other processes, until it is closed.

    Args:
        stream: The file.
        folder: Its folder, for the error.
        flock: Locks a file, as `fcntl.flock`.

    Raises:
        BlockingIOError: Another process holds it.
        NoLocksError: The file system has no locks.
    """
    try:
        flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise NoLocksError(
                f"the file system of {folder} has no locks",
                "without them, two processes could overwrite each other's files; Lustre and BeeGFS "
                "have locks only if they are mounted with them",
                "mount it with locks, or use another folder",
            ) from error
        raise


@contextmanager
def locked(
    root: Path,
    kind: str,
    elsewhere: str,
    *,
    flock: Callable[[IO[Any], int], None] = fcntl.flock,
) -> Iterator[None]:
    """Lock a folder against other processes until the block, or this process, ends.

    Args:
        root: The folder, created if needed. Its lock is `.lock`.
        kind: Kind of folder, for the error.
        elsewhere: Alternative to waiting, for the error.
        flock: Locks a file, as `fcntl.flock`.

    Raises:
        NoLocksError: The file system has no locks.
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
                "lpx writes its process ID into it, and does not write through links",
                "remove the link",
                code="unwritable",
            ) from error
        raise unwritable(root, error) from error
    with stream:
        try:
            take_lock(stream, root, flock=flock)
        except BlockingIOError:
            stream.seek(0)
            holder = ascii(stream.read(20).strip())[1:-1] or "unknown"
            raise LpxError(
                f"{kind} {root} is in use by process {holder}",
                "two processes would overwrite each other's artefacts",
                f"wait for it to finish, or {elsewhere}",
                code="in-use",
            ) from None
        if os.fstat(stream.fileno()).st_nlink == 1:
            # A file with a second (hard) link may be one that someone needs.
            stream.seek(0)
            stream.truncate()
            stream.write(f"{os.getpid()}\n")
            stream.flush()
        yield


def _open_lock(path: Path) -> TextIO:
    """Open a lock file without following a link or blocking on a pipe."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    handle = os.open(path, flags, 0o666)
    stream = os.fdopen(handle, "r+", encoding="utf-8", errors="replace")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, f"{path.name} in it is not a regular file")
    return stream
