"""The journal of a prepared set: its settings, then a record of each finished video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from lpx.data.prepare.record import VideoRecord
from lpx.data.wording import are, counted
from lpx.errors import LpxError
from lpx.journal import ResumeJournal
from lpx.schema import SchemaError, unsealed_line

FILE = "journal.jsonl"
FORMAT = "lpx-journal/3"

# The first line holds settings as a dict, every other line a record.
_Entry = VideoRecord | dict[str, Any]


class VideoJournal:
    """Finished videos of a prepared set.

    Attributes:
        records: The last record of each video, by the video's name.
        damaged: Number of lines that cannot be read.
    """

    def __init__(self, lines: ResumeJournal[_Entry]) -> None:
        self.records: dict[str, VideoRecord] = {}
        self.damaged = len(lines.damaged)
        self._lines = lines
        for line in lines.lines:
            if isinstance(line.entry, VideoRecord):
                self.records[line.entry.video] = line.entry

    def damage(self) -> str:
        """Describe damaged lines; "" if there are none."""
        if not self.damaged:
            return ""
        return (
            f"{counted(self.damaged, 'line')} of {FILE} {are(self.damaged)} damaged: videos that "
            "no other line records were cut again."
        )

    def append(self, record: VideoRecord) -> None:
        """Record a finished video.

        Raises:
            OSError: The disk is full; the journal is as before.
        """
        self._lines.append(record.to_dict())
        self.records[record.video] = record


@contextmanager
def open_journal(
    folder: Path, settings: Mapping[str, Any], *, locked: bool = True
) -> Iterator[VideoJournal]:
    """Open or create the journal of the set prepared in `folder`.

    Args:
        folder: Folder of the set.
        settings: Settings of the set, its first line.
        locked: Hold it against other processes; False if the caller holds the folder.

    Raises:
        LpxError: Another process is preparing this set, it was prepared with other settings, or
            the line that holds them is damaged.
        OSError: The folder cannot be written.
    """
    path = folder / FILE
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lines: ResumeJournal[_Entry] = ResumeJournal(path, _parse, locked=locked)
    except BlockingIOError:
        raise LpxError(
            f"{folder} is being prepared by another process",
            "two processes would overwrite each other's crops",
            "wait until it has finished, or use another folder (`store`)",
            code="in-use",
        ) from None
    with closing(lines):
        head = {"format": FORMAT, **settings}
        first = lines.lines[0] if lines.lines else None
        if first is not None and first.number == 1 and isinstance(first.entry, dict):
            if first.entry != head:
                raise _other_settings(folder, first.entry, head)
        elif first is None and not lines.damaged:
            lines.append(head)
        else:
            raise LpxError(
                f"{path} is damaged",
                "its first line, with the settings of the set, is not readable; an earlier version "
                "of lpx may have written it",
                f"remove {folder} and prepare the set again",
                code="damaged",
            )
        yield VideoJournal(lines)


def read_records(folder: Path, data: bytes, settings: Mapping[str, Any]) -> dict[str, VideoRecord]:
    """Return the last record of each video in a whole journal that is not written any more.

    Args:
        folder: Its folder, for errors.
        data: Its content.
        settings: Settings that it must have.

    Raises:
        LpxError: It has other settings.
    """
    records: dict[str, VideoRecord] = {}
    head: _Entry | None = None
    # Not splitlines(), which also splits at a carriage return in damaged bytes.
    for number, line in enumerate(data.split(b"\n")):
        # Damaged lines were so when the journal was finished: their videos have others.
        with suppress(SchemaError, KeyError, TypeError):
            entry = _parse(unsealed_line(line))
            if isinstance(entry, VideoRecord):
                records[entry.video] = entry
            elif number == 0:
                head = entry
    if head != {"format": FORMAT, **settings}:
        raise LpxError(
            f"{folder / FILE} is of other settings than its part",
            "its first line should name them",
            "remove this part, and run its shard again",
            code="damaged",
        )
    return records


def _parse(values: dict[str, Any]) -> _Entry:
    return values if "format" in values else VideoRecord.from_dict(values)


def _other_settings(folder: Path, stored: dict[str, Any], asked: Mapping[str, Any]) -> LpxError:
    keys = [key for key in asked if stored.get(key) != asked[key]]
    if not keys:
        keys = sorted(set(stored) - set(asked))
    differences = [f"{key} {stored.get(key)!r}, not {asked.get(key)!r}" for key in keys]
    return LpxError(
        f"{folder} was prepared with other settings",
        f"with {', '.join(differences)}",
        f"use another folder (`store`), or remove {folder}",
    )
