"""SHA-256 of files, without reading unchanged files again.

Every build, bench and resumed run has to know whether faces, pictures or videos are still the same.
Sizes and names are not enough, and reading a million files each time would take longer than some of
the work. So digests are stored in a database in the user's cache folder, by path, device, inode,
size and the times of the last change of the content (mtime) and of the inode (ctime), which
programs cannot set back.

The database is not part of a workspace, so that a workspace made by somebody else cannot bring
false digests. If it is damaged or cannot be used, files are read again.
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
from lpx.reporter import Progress

# Size of a digest, bytes.
SIZE = hashlib.sha256().digest_size
# Stands for the digest of a file that cannot be read, or is not a regular file.
UNREADABLE = bytes(SIZE)
# Digests of files changed more recently are not stored: clocks of file systems are coarse, so
# such a file could change again without a new time.
SETTLED_SECONDS = 2.0
# A larger database is discarded: it may be full of files that no longer exist.
MAX_DATABASE_BYTES = 2 << 30

_FILE = "contents.sqlite3"
_VERSION = 1
# Times that are whole multiples of 10 ms come from a file system with coarse times.
_COARSE_NS = 10_000_000
# Device, inode, size, mtime and ctime of a file, see _packed().
_STATUS = struct.Struct("<QQQqq")
# A stored value: status, digest, and the CRC-32 of key, status and digest. SQLite does not check
# its pages, and a wrong digest would pass one file off as another.
_VALUE = struct.Struct(f"<{_STATUS.size}s{SIZE}sI")
_KEY_BYTES = 16
# Files per query: SQLite allows 999 parameters in old versions.
_BATCH = 512
# Batches between two commits, each of which waits for the disk.
_COMMIT = 32
_CHUNK_BYTES = 1 << 20
# Enough for network file systems, where each request waits; hashing releases Python's lock.
_DISK_THREADS = 8


class _File(NamedTuple):
    """A file to read.

    Attributes:
        place: Index in the list asked for.
        path: Path in bytes.
        key: Key in the database.
    """

    place: int
    path: bytes
    key: bytes


class _Read(NamedTuple):
    file: _File
    digest: bytes
    status: bytes | None


class ContentCache:
    """Digests of files, stored between runs; for use by one thread.

    Args:
        path: The database; None for the one in `$LPX_CACHE`, by default in `$XDG_CACHE_HOME/lpx` or
            `~/.cache/lpx`.
        settled_seconds: Age from which on a change is stored, see `SETTLED_SECONDS`.
        max_bytes: Size of a database that is discarded when it is opened.
        timeout_s: Time to wait for another process that is writing, seconds.

    Attributes:
        read: Number of files read so far.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        settled_seconds: float = SETTLED_SECONDS,
        max_bytes: int = MAX_DATABASE_BYTES,
        timeout_s: float = 5.0,
    ) -> None:
        self._path = path if path is not None else _default_path()
        self._settled_seconds = settled_seconds
        self._database = _open(self._path, max_bytes, timeout_s)
        self.read = 0

    def __enter__(self) -> ContentCache:
        """Return itself."""
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
        """Return the SHA-256 of a file; `UNREADABLE` if it cannot be read."""
        # Paths are bytes throughout, as names need not be valid UTF-8.
        return bytes(self.digests([os.fsencode(path)])[0])

    def digests(
        self, paths: Sequence[bytes], progress: Progress | None = None
    ) -> NDArray[np.uint8]:
        """Return the SHA-256 of files.

        Args:
            paths: Paths in bytes, as on disk. Links are followed.
            progress: Receives the number of finished files, and that of all.

        Returns:
            uint8 [N, 32]; zeros for a file that cannot be read.
        """
        digests = [UNREADABLE] * len(paths)
        fresh: list[_Read] = []
        with ThreadPoolExecutor(_DISK_THREADS) as pool:
            try:
                for number, start in enumerate(range(0, len(paths), _BATCH), 1):
                    batch = paths[start : start + _BATCH]
                    unknown = self._look_up(batch, start, digests)
                    for one in self._read_all(unknown, pool):
                        digests[one.file.place] = one.digest
                        fresh.append(one)
                    self.read += len(unknown)
                    if number % _COMMIT == 0:
                        self._store(fresh)
                        # Forgotten once stored, so that memory does not grow with the number of
                        # files.
                        fresh = []
                    if progress is not None:
                        progress(start + len(batch), len(paths))
            finally:
                # Reading may take minutes: an interrupted run keeps its digests, too.
                self._store(fresh)
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, SIZE)

    def _look_up(self, paths: Sequence[bytes], start: int, digests: list[bytes]) -> list[_File]:
        """Enter the stored digests into a list, and return the files without one."""
        files = [_File(start + i, path, _key(path)) for i, path in enumerate(paths)]
        known = self._known([file.key for file in files])
        unknown = []
        for file in files:
            value = known.get(file.key)
            digest = None
            if value is not None:
                # Checked against the file's present status, as it may have changed since it was
                # stored.
                digest = _checked(file.key, value, file.path)
            if digest is None:
                unknown.append(file)
            else:
                digests[file.place] = digest
        return unknown

    def _read_all(self, files: list[_File], pool: ThreadPoolExecutor) -> Iterator[_Read]:
        # One file is read on this thread, as handing it over would only add a delay.
        if len(files) == 1:
            yield self._read_one(files[0])
            return
        # A few tasks of many files: submitting each file would cost as much as reading a small one.
        step = -(-len(files) // _DISK_THREADS) or 1
        tasks = [files[start : start + step] for start in range(0, len(files), step)]
        for done in pool.map(self._read_several, tasks):
            yield from done

    def _read_several(self, files: list[_File]) -> list[_Read]:
        return [self._read_one(file) for file in files]

    def _read_one(self, file: _File) -> _Read:
        return _read_file(file, self._settled_seconds)

    def _known(self, keys: list[bytes]) -> dict[bytes, bytes]:
        # A cache that cannot be opened costs time only, so nothing depends on it.
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
        # SQLite keeps any type in any column: a damaged or foreign database may hold texts.
        return {k: v for k, v in rows if isinstance(k, bytes) and isinstance(v, bytes)}

    def _store(self, files: Iterable[_Read]) -> None:
        rows = []
        for one in files:
            # Files that may still change are read again next time.
            if one.status is None:
                continue
            rows.append((one.file.key, _value(one.file.key, one.status, one.digest)))
        if self._database is None or not rows:
            return
        try:
            # The connection as a context commits at the end, or rolls back.
            with self._database:
                self._database.executemany(
                    "INSERT OR REPLACE INTO contents (key, value) VALUES (?, ?)", rows
                )
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: sqlite3.Error) -> None:
        """Continue without the database, and remove it if it is damaged."""
        # Closed first: the file of an open database must not be removed.
        self.close()
        # OperationalError: the disk is full, or another process holds a lock.
        if not isinstance(error, sqlite3.OperationalError) and self._path is not None:
            _remove(self._path)


def file_digests(paths: Sequence[bytes], progress: Progress | None = None) -> NDArray[np.uint8]:
    """Return the SHA-256 of files, see `ContentCache.digests`."""
    with ContentCache() as cache:
        return cache.digests(paths, progress)


def training_digests(paths: Sequence[Path]) -> list[bytes]:
    """Return the SHA-256 of each file used in training.

    Raises:
        LpxError: A file cannot be read.
    """
    digests = []
    # Read all at once, as threads read in parallel.
    for path, row in zip(paths, file_digests(list(map(os.fsencode, paths))), strict=True):
        digest = bytes(row)
        if digest == UNREADABLE:
            raise LpxError(
                f"{path} cannot be read",
                "training does not leave faces out silently",
                "remove it (and its line in faces.csv), or repair the file",
                code="damaged",
            )
        digests.append(digest)
    return digests


def _default_path() -> Path | None:
    """Return the database in the user's cache folder; None if the folder does not exist."""
    named = os.environ.get("LPX_CACHE")
    if named:
        return Path(named) / _FILE
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    if os.path.isabs(shared):
        return Path(shared) / "lpx" / _FILE
    try:
        return Path.home() / ".cache" / "lpx" / _FILE
    except RuntimeError:
        # A user without a home folder, as in some containers.
        return None


def _open(path: Path | None, max_bytes: int, timeout_s: float) -> sqlite3.Connection | None:
    """Open or create the database; None if that is impossible."""
    if path is None:
        return None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                return None
            if status.st_size > max_bytes:
                _remove(path)
        try:
            return _connect(path, timeout_s)
        # Locked or not permitted: the file may be sound, so it is kept.
        except sqlite3.OperationalError:
            return None
        except sqlite3.DatabaseError:
            # Damaged, or of another version.
            _remove(path)
            return _connect(path, timeout_s)
    except (OSError, ValueError, sqlite3.Error):
        return None


def _connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    # Only the owner may read a new file: paths in it are hashed, but not their number.
    with contextlib.suppress(FileExistsError):
        # O_EXCL: an existing file keeps its mode, and a link in its place is not followed.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    database = sqlite3.connect(path, timeout=timeout_s)
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        # 0 is a database that was created just now.
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"version {version}")
        with database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS contents (key BLOB PRIMARY KEY, value BLOB NOT NULL) "
                "WITHOUT ROWID"
            )
            database.execute(f"PRAGMA user_version = {_VERSION}")
    # BaseException, as an interrupt would leave the handle open as well.
    except BaseException:
        database.close()
        raise
    return database


def _remove(path: Path) -> None:
    # SQLite's files beside it: a journal left behind would be applied to the next database.
    for end in ("", "-journal", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            os.unlink(f"{path}{end}")


def _key(path: bytes) -> bytes:
    # Links are not resolved, which takes system calls: another name of a file only costs another
    # reading.
    whole = path if path.startswith(b"/") else os.path.abspath(path)
    return hashlib.blake2b(whole, digest_size=_KEY_BYTES).digest()


def _value(key: bytes, status: bytes, digest: bytes) -> bytes:
    return _VALUE.pack(status, digest, zlib.crc32(key + status + digest))


def _checked(key: bytes, value: bytes, path: bytes) -> bytes | None:
    """Return the digest in a stored value; None if the file changed or the value is damaged."""
    # unpack would raise an error on a value of another size.
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
    """Pack everything that changes when a file is written or replaced."""
    return _STATUS.pack(
        # Some systems give negative numbers, which the unsigned format refuses.
        status.st_dev & (2**64 - 1),
        status.st_ino & (2**64 - 1),
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _read_file(
    file: _File, settled_seconds: float, read: Callable[[int, int], bytes] = os.read
) -> _Read:
    """Digest a file; its status is None if a later change might not alter it."""
    # Before the file is opened: a change while it is read must count as recent.
    began = time.time()
    try:
        # O_NONBLOCK: opening a pipe would wait for somebody to write into it.
        handle = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):
        return _Read(file, UNREADABLE, None)
    try:
        before = os.fstat(handle)
        # Asked of the open handle, as the name may be replaced in between.
        if not stat.S_ISREG(before.st_mode):
            return _Read(file, UNREADABLE, None)
        digest = hashlib.sha256()
        while chunk := read(handle, _CHUNK_BYTES):
            digest.update(chunk)
        after = os.fstat(handle)
    except OSError:
        return _Read(file, UNREADABLE, None)
    finally:
        os.close(handle)
    kept = None
    # A file that was written while it was read has a digest of no state it ever had.
    if _packed(before) == _packed(after) and is_settled(after, began, settled_seconds):
        kept = _packed(after)
    return _Read(file, digest.digest(), kept)


def is_settled(status: os.stat_result, now: float, settled_seconds: float) -> bool:
    """Return whether any later change is sure to give the file another time.

    Args:
        status: Status of the file.
        now: Time at which it was read, seconds since the epoch.
        settled_seconds: Minimum age of the last change.
    """
    # File systems with coarse times (FAT, exFAT, ISO 9660, squashfs, some servers) keep no time of
    # the inode's change, or one that a copied image of the file system repeats.
    if status.st_ctime_ns % _COARSE_NS == 0:
        return False
    changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
    return now * 1e9 - changed_ns >= settled_seconds * 1e9
