"""A journal of finished work, so that a step that was stopped at any moment can be resumed.

One JSON object per line, with a checksum, appended as soon as a part of the work is done.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from lpx.schema import SchemaError, sealed_line, unsealed_line
from lpx.workspace import (
    SYNC_SECONDS,
    no_follow,
    read_regular,
    sync_handle,
    take_lock,
    write_bytes,
)

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class JournalLine(Generic[Entry]):
    """A readable line of a journal.

    Attributes:
        number: Line number in the file, from 1.
        entry: Parsed content.
    """

    number: int
    entry: Entry


class ResumeJournal(Generic[Entry]):
    """Finished parts of a step, on disk as they come.

    A last line without a line break was being written when a run was killed: it is dropped without
    mention. Any other line that fails its checksum, or that `parse` refuses, is listed as damaged.

    Args:
        path: The file. Unless `locked`, it is created by the first `append`.
        parse: Converts the object of a line into an entry. Raises SchemaError, KeyError or
            TypeError if it cannot.
        locked: Create the file if needed, and hold it against other processes until `close`.

    Attributes:
        lines: Readable lines, in the order of the file.
        damaged: A message for each damaged line, such as "line 3: its checksum does not match".

    Raises:
        BlockingIOError: Another process holds the journal.
        OSError: The file cannot be read, or cannot be created.
    """

    def __init__(
        self, path: Path, parse: Callable[[dict[str, Any]], Entry], *, locked: bool = False
    ) -> None:
        self.path = path
        self.lines: list[JournalLine[Entry]] = []
        self.damaged: list[str] = []
        self._synced_at = -math.inf
        # Bytes to replace the file by before anything is appended; None if the file is sound.
        self._repaired: bytes | None = None
        self._lock: BinaryIO | None = None
        if locked:
            self._lock = _open_locked(path)
        try:
            self._read(parse)
        except BaseException:
            self.close()
            raise

    def _read(self, parse: Callable[[dict[str, Any]], Entry]) -> None:
        try:
            data = read_regular(self.path)
        except FileNotFoundError:
            return
        sound = []
        # Not splitlines(), which also splits at a carriage return in damaged bytes.
        for number, text in enumerate(data.split(b"\n")[:-1], start=1):
            line = text + b"\n"
            try:
                self.lines.append(JournalLine(number, parse(unsealed_line(line))))
            except (SchemaError, KeyError, TypeError) as error:
                self.damaged.append(f"line {number}: {error}")
            else:
                sound.append(line)
        kept = b"".join(sound)
        end = data.rfind(b"\n") + 1
        if self._lock is not None:
            # The lock belongs to this inode, so the file is repaired in place: only its unfinished
            # end is cut off, which no crash can turn into a loss of other lines.
            if end < len(data):
                self._lock.truncate(end)
        elif kept != data:
            self._repaired = kept

    def append(self, values: Mapping[str, Any]) -> None:
        """Add a line.

        It is on the disk within about `SYNC_SECONDS`, or with the next line: waiting for each line
        would take longer than some of the work that the lines record.

        Args:
            values: A JSON object that `parse` accepts.

        Raises:
            OSError: The disk is full, or the file cannot be written; the journal is as before.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._repaired is not None:
            write_bytes(self.path, self._repaired)
            self._repaired = None
        # Unbuffered: bytes that found no room must not be tried again when the file is closed.
        with open(self.path, "ab", buffering=0, opener=no_follow) as stream:
            append_whole(stream, sealed_line(values))
            if time.monotonic() - self._synced_at < SYNC_SECONDS:
                return
            sync_handle(stream.fileno())
        if self._synced_at == -math.inf:
            # The name of a new file is in its folder, which is synced separately.
            _sync_folder(self.path.parent)
        self._synced_at = time.monotonic()

    def close(self) -> None:
        """Release the file to other processes."""
        if self._lock is not None:
            self._lock.close()
        self._lock = None


def append_whole(stream: BinaryIO, data: bytes) -> None:
    """Append all of `data` to an unbuffered stream, or nothing.

    Raises:
        OSError: There is no room; the file has its earlier length.
    """
    end = stream.seek(0, os.SEEK_END)
    written = 0
    try:
        while written < len(data):
            written += stream.write(data[written:])
    except OSError:
        # Half a line would run into the next one, and take it along.
        stream.truncate(end)
        raise


def _open_locked(path: Path) -> BinaryIO:
    stream = open(path, "ab", buffering=0, opener=no_follow)  # noqa: SIM115 (held by the journal)
    try:
        take_lock(stream, path.parent)
    except BaseException:
        stream.close()
        raise
    return stream


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        sync_handle(handle)
    finally:
        os.close(handle)
