"""Which videos are done: a file that only grows, so that a run may end at any moment.

Each line is a checksum and one JSON value: the settings first, then a `VideoRecord` per video, the
last of a video counting. A last line that a killed run left unfinished is cut off. Another line
that fails its checksum is damaged: its video is done again, and that is said.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lpx.data.prepare.record import VideoRecord
from lpx.errors import LpxError
from lpx.schema import SchemaError, parse_json
from lpx.workspace import SYNC_SECONDS, sync_handle

FILE = "journal.jsonl"
FORMAT = "lpx-journal/2"


class Journal:
    """The journal of a prepared set, held against other processes.

    Attributes:
        records: Every video that is done, by name.
        damaged: Number of lines that could not be read.
    """

    def __init__(self, stream: BinaryIO, records: dict[str, VideoRecord], damaged: int = 0) -> None:
        self.records = records
        self.damaged = damaged
        self._stream = stream
        self._end = stream.seek(0, os.SEEK_END)
        self._synced = -math.inf

    def append(self, record: VideoRecord) -> None:
        """Note that a video is done.

        Raises:
            OSError: There is no room; the journal is as it was before.
        """
        self._end = _append(self._stream, self._end, record.to_dict())
        self.records[record.video] = record
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            sync_handle(self._stream.fileno())
            self._synced = time.monotonic()


@contextmanager
def open_journal(folder: Path, settings: Mapping[str, Any]) -> Iterator[Journal]:
    """Open or begin the journal of the set that is prepared in `folder`.

    Raises:
        LpxError: Another process prepares this set, or it was prepared with other settings.
        OSError: The folder cannot be written.
    """
    path = folder / FILE
    folder.mkdir(parents=True, exist_ok=True)
    # Unbuffered: what a write could not place must not be tried again at the end.
    with path.open("a+b", buffering=0) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LpxError(
                f"{folder} is being prepared by another process",
                "two would overwrite each other's crops",
                "wait for it, or prepare elsewhere with --store DIR",
            ) from None
        first, values, damaged = _read(stream)
        head = {"format": FORMAT, **settings}
        if first is None:
            if damaged:
                raise LpxError(
                    f"{path} is damaged",
                    "its first line, which says how the set was prepared, cannot be read",
                    f"remove {folder} and prepare the set again",
                )
            _append(stream, 0, head)
        elif first != head:
            raise _other_settings(folder, first, head)
        records = [_record(path, value) for value in values]
        yield Journal(stream, {record.video: record for record in records}, damaged)


def _read(stream: BinaryIO) -> tuple[Any, list[Any], int]:
    """The first line's value, those of the others, and how many are damaged.

    A last line that was not finished is cut off; None where there is no first line.
    """
    stream.seek(0)
    data = stream.read()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        stream.truncate(end)
    lines = [_value(line) for line in data[:end].split(b"\n")[:-1]]
    good = [value for value in lines[1:] if value is not None]
    return (lines[0] if lines else None), good, lines.count(None)


def _value(line: bytes) -> Any:
    """The value of a line; None where it is damaged, or lpx did not write it."""
    checksum, _, text = line.partition(b" ")
    if checksum != _checksum(text + b"\n"):
        return None
    try:
        return parse_json(text)
    except SchemaError:
        return None


def _append(stream: BinaryIO, end: int, value: Any) -> int:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    line = _checksum(text) + b" " + text
    written = 0
    try:
        while written < len(line):
            written += stream.write(line[written:])
    except OSError:
        stream.truncate(end)
        raise
    return end + len(line)


def _checksum(text: bytes) -> bytes:
    return f"{zlib.crc32(text):08x}".encode()


def _record(path: Path, value: Any) -> VideoRecord:
    try:
        return VideoRecord.from_dict(value)
    except SchemaError as error:
        raise LpxError(
            f"{path} is damaged",
            f"it does not hold what it should: {error}",
            f"remove {path.parent} and prepare the set again",
        ) from error


def _other_settings(folder: Path, found: Any, asked: Mapping[str, Any]) -> LpxError:
    found = found if isinstance(found, dict) else {}
    keys = [key for key in asked if found.get(key) != asked[key]] or sorted(set(found) - set(asked))
    differ = ", ".join(f"{key} {found.get(key)!r}, not {asked.get(key)!r}" for key in keys)
    return LpxError(
        f"{folder} was prepared otherwise",
        f"with {differ}",
        f"prepare elsewhere with --store DIR, or remove {folder}",
    )
