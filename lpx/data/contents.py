"""What files hold, as SHA-256, without reading again what has not changed.

Whether faces, pictures or videos are still the same is asked often: by every build, bench and
resumed run. Sizes and names do not answer it, and reading a million files each time would take
longer than some of the work. So digests are remembered in a database in the user's cache folder, by
path, device, inode, size and the times of the last change of the content (mtime) and of the inode
(ctime), which programs cannot set back.

The database is not part of a workspace: a workspace that somebody else made cannot bring digests of
its own. Where it cannot be used, or is damaged, files are read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lpx.errors import LpxError

SIZE = hashlib.sha256().digest_size
"""Bytes of a digest."""
UNREADABLE = bytes(SIZE)
"""Stands for the digest of a file that cannot be read, or is not a regular one."""
SETTLED_SECONDS = 2.0
"""A file that changed later than this long ago is not remembered: it could change again without a
new time, since the clocks of file systems are coarse."""
MAX_DATABASE_BYTES = 2 << 30
"""A database that has grown larger is begun again: it may be full of files that are gone."""

_FILE = "contents.sqlite3"
_VERSION = 1
_COARSE_NS = 10_000_000
_STATUS = struct.Struct("<QQQqq")
_VALUE = struct.Struct(f"<{_STATUS.size}s{SIZE}sI")
_KEY_BYTES = 16
_AT_ONCE = 512
_COMMIT = 32
"""Batches of `_AT_ONCE` files between two commits."""
_CHUNK = 1 << 20
_DISK_THREADS = 8

Tell = Callable[[int, int], None]
"""Called with files done and files in all."""


class _File(NamedTuple):
    """A file that must be read.

    Attributes:
        place: In the list that was asked for.
        path: Its path.
        key: Under which it is remembered.
    """

    place: int
    path: bytes
    key: bytes


class _Read(NamedTuple):
    file: _File
    digest: bytes
    status: bytes | None


class ContentCache:
    """Digests of files, remembered between runs; to be used by one thread.

    Args:
        path: The database; None takes one in `$LPX_CACHE`, by default in `$XDG_CACHE_HOME/lpx` or
            `~/.cache/lpx`.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path if path is not None else _default_path()
        self._database = _open(self._path)
        self.read = 0
        """Files that had to be read so far."""

    def __enter__(self) -> ContentCache:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the database."""
        if self._database is not None:
            self._database.close()
        self._database = None

    def digest(self, path: Path) -> bytes:
        """SHA-256 of a file; `UNREADABLE` where it cannot be read."""
        return bytes(self.digests([os.fsencode(path)])[0])

    def digests(self, paths: Sequence[bytes], progress: Tell | None = None) -> NDArray[np.uint8]:
        """SHA-256 of files.

        Args:
            paths: Their paths, in bytes as on disk. Links are followed.
            progress: Receives how many files are done.

        Returns:
            uint8 [N, 32]; zeros where a file cannot be read.
        """
        found = [UNREADABLE] * len(paths)
        fresh: list[_Read] = []
        with ThreadPoolExecutor(_DISK_THREADS) as pool:
            try:
                for number, start in enumerate(range(0, len(paths), _AT_ONCE), 1):
                    batch = paths[start : start + _AT_ONCE]
                    unknown = self._look_up(batch, start, found)
                    for one in _read_all(unknown, pool):
                        found[one.file.place] = one.digest
                        fresh.append(one)
                    self.read += len(unknown)
                    if number % _COMMIT == 0:
                        self._remember(fresh)
                        fresh = []
                    if progress is not None:
                        progress(start + len(batch), len(paths))
            finally:
                # What was read is worth keeping when the user loses patience, too.
                self._remember(fresh)
        return np.frombuffer(b"".join(found), np.uint8).reshape(-1, SIZE)

    def _look_up(self, paths: Sequence[bytes], start: int, found: list[bytes]) -> list[_File]:
        """Enter the digests that are known; returns the files whose are not."""
        files = [_File(start + i, path, _key(path)) for i, path in enumerate(paths)]
        known = self._known([file.key for file in files])
        unknown = []
        for file in files:
            value = known.get(file.key)
            digest = _checked(file.key, value, file.path) if value is not None else None
            if digest is None:
                unknown.append(file)
            else:
                found[file.place] = digest
        return unknown

    def _known(self, keys: list[bytes]) -> dict[bytes, bytes]:
        if self._database is None:
            return {}
        marks = ",".join("?" * len(keys))
        try:
            rows = self._database.execute(
                f"SELECT key, value FROM contents WHERE key IN ({marks})", keys
            ).fetchall()
        except sqlite3.Error as error:
            self._give_up(error)
            return {}
        return {k: v for k, v in rows if isinstance(k, bytes) and isinstance(v, bytes)}

    def _remember(self, files: Iterable[_Read]) -> None:
        rows = [
            (one.file.key, _value(one.file.key, one.status, one.digest))
            for one in files
            if one.status is not None
        ]
        if self._database is None or not rows:
            return
        try:
            with self._database:
                self._database.executemany(
                    "INSERT OR REPLACE INTO contents (key, value) VALUES (?, ?)", rows
                )
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: sqlite3.Error) -> None:
        """Go on without the database; one that is damaged is removed."""
        self.close()
        # A full disk and a lock that another process holds are no damage.
        if not isinstance(error, sqlite3.OperationalError) and self._path is not None:
            _remove(self._path)


def file_digests(paths: Sequence[bytes], progress: Tell | None = None) -> NDArray[np.uint8]:
    """SHA-256 of files, see `ContentCache.digests`."""
    with ContentCache() as cache:
        return cache.digests(paths, progress)


def training_digests(paths: Sequence[Path]) -> list[bytes]:
    """SHA-256 of each file that a training reads.

    Raises:
        LpxError: A file cannot be read.
    """
    found = [bytes(row) for row in file_digests([os.fsencode(path) for path in paths])]
    for path, digest in zip(paths, found, strict=True):
        if digest == UNREADABLE:
            raise LpxError(
                f"{path} cannot be read",
                "training does not leave faces out silently",
                "remove it (and its line in faces.csv), or repair the file",
            )
    return found


def _default_path() -> Path | None:
    """The database in the user's cache folder; None where there is no such folder to be had."""
    if named := os.environ.get("LPX_CACHE"):
        return Path(named) / _FILE
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    with contextlib.suppress(RuntimeError):
        base = Path(shared) if os.path.isabs(shared) else Path.home() / ".cache"
        return base / "lpx" / _FILE
    return None


def _open(path: Path | None) -> sqlite3.Connection | None:
    """Open or begin the database; None where that is impossible."""
    if path is None:
        return None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                return None
            if status.st_size > MAX_DATABASE_BYTES:
                _remove(path)
        try:
            return _connect(path)
        except sqlite3.OperationalError:
            return None
        except sqlite3.DatabaseError:
            _remove(path)
            return _connect(path)
    except (OSError, ValueError, sqlite3.Error):
        return None


def _connect(path: Path) -> sqlite3.Connection:
    # A new file is readable for its owner alone: the paths in it are hashed, their number is not.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    database = sqlite3.connect(path, timeout=5.0)
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"version {version}")
        with database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS contents (key BLOB PRIMARY KEY, value BLOB NOT NULL) "
                "WITHOUT ROWID"
            )
            database.execute(f"PRAGMA user_version = {_VERSION}")
    except BaseException:
        database.close()
        raise
    return database


def _remove(path: Path) -> None:
    for end in ("", "-journal", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            os.unlink(f"{path}{end}")


def _key(path: bytes) -> bytes:
    # Another way to write the same path costs one more reading, no more.
    whole = path if path.startswith(b"/") else os.path.abspath(path)
    return hashlib.blake2b(whole, digest_size=_KEY_BYTES).digest()


def _value(key: bytes, status: bytes, digest: bytes) -> bytes:
    return _VALUE.pack(status, digest, zlib.crc32(key + status + digest))


def _checked(key: bytes, value: bytes, path: bytes) -> bytes | None:
    """The digest in a remembered value; None where the file is another now, or it is damaged."""
    if len(value) != _VALUE.size:
        return None
    status, digest, checksum = _VALUE.unpack(value)
    try:
        now = os.stat(path)
    except (OSError, ValueError):
        return None
    if _packed(now) != status or zlib.crc32(key + status + digest) != checksum:
        return None
    return bytes(digest)


def _packed(status: os.stat_result) -> bytes:
    """All that tells one state of a file from another."""
    return _STATUS.pack(
        status.st_dev & (2**64 - 1),
        status.st_ino & (2**64 - 1),
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _read_all(files: list[_File], pool: ThreadPoolExecutor) -> Iterator[_Read]:
    if len(files) == 1:
        yield _read_one(files[0])
        return
    # A few tasks of many files: handing over each file costs as much as reading a small one.
    step = -(-len(files) // _DISK_THREADS) or 1
    parts = [files[start : start + step] for start in range(0, len(files), step)]
    for done in pool.map(lambda part: [_read_one(file) for file in part], parts):
        yield from done


def _read_one(file: _File) -> _Read:
    """Digest a file; its status is None where it cannot be relied on to tell of a change."""
    began = time.time()
    try:
        # A pipe would keep lpx waiting.
        handle = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):
        return _Read(file, UNREADABLE, None)
    try:
        before = os.fstat(handle)
        if not stat.S_ISREG(before.st_mode):
            return _Read(file, UNREADABLE, None)
        digest = hashlib.sha256()
        while chunk := os.read(handle, _CHUNK):
            digest.update(chunk)
        after = os.fstat(handle)
    except OSError:
        return _Read(file, UNREADABLE, None)
    finally:
        os.close(handle)
    same = _packed(before) == _packed(after)
    kept = _packed(after) if same and _is_settled(after, began) else None
    return _Read(file, digest.digest(), kept)


def _is_settled(status: os.stat_result, now: float) -> bool:
    """Whether any later change gives the file another time.

    File systems with coarse times (FAT, exFAT, ISO 9660, squashfs, some servers) keep no time of
    the inode's change, or none that a copied image of the file system does not repeat.
    """
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    return status.st_ctime_ns % _COARSE_NS != 0 and now * 1e9 - changed >= SETTLED_SECONDS * 1e9
