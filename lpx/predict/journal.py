"""The journal of `predict`: which files were scored, and with which result."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lpx.bench.parity.score import ROUNDING
from lpx.data.contents import UNREADABLE, ContentCache
from lpx.data.wording import counted, some
from lpx.journal import ResumeJournal
from lpx.metrics.roc import called_fake
from lpx.predict.results import FileScore, verdict
from lpx.reporter import SILENT, Reporter
from lpx.schema import MAX_INTEGER, SchemaError, in_range, read_record
from lpx.workspace import unwritable

_PATHS = ("picture", "timeline")


class _State(NamedTuple):
    """File attributes that change whenever the file is written or replaced."""

    inode: int
    size: int
    mtime_ns: int
    # Programs can restore the modification time, but not the change time.
    ctime_ns: int


class ScoreJournal:
    """Results of earlier runs, and those of this run as they come.

    Args:
        path: The file, created with the first result.
        settings: Everything that results depend on, except the scored file itself.
        reporter: Receives a warning if lines of an earlier run are damaged.

    Attributes:
        changed: Number of files whose content differs from when they were scored.

    Raises:
        LpxError: The journal cannot be read.
    """

    def __init__(self, path: Path, settings: dict[str, Any], reporter: Reporter = SILENT) -> None:
        self.changed = 0
        self._path = path
        self._settings = settings
        self._contents = ContentCache()
        # State of each file when `find` was asked for it, which is before it is scored.
        self._before: dict[str, _State] = {}
        try:
            self._journal = ResumeJournal(path, _parse)
        except OSError as error:
            # The database is open already, and nobody could close it: the object is not returned.
            self._contents.close()
            raise unwritable(path, error) from error
        # Later lines replace earlier ones of the same name.
        self._entries = {line.entry["result"]["name"]: line.entry for line in self._journal.lines}
        damaged = self._journal.damaged
        if damaged:
            reporter.warn(
                f"{counted(len(damaged), 'line')} of {path} cannot be used; these files are scored "
                f"again: {some(damaged)}"
            )

    def close(self) -> None:
        """Close the database of file contents."""
        self._contents.close()

    def find(self, name: str, path: Path) -> FileScore | None:
        """Return the earlier result of a file, if settings and file are the same.

        Call it before the file is scored, so that `add` can tell whether the file changed
        meanwhile.
        """
        try:
            before = _state(path)
            # Taken before the contents are read: a change in between is then noticed by `add`.
            self._before[name] = before
            entry = self._entries.get(name)
            # The file's part of the key is compared apart, as its digest is expensive.
            if entry is None or {**entry["key"], "file": None} != {**self._settings, "file": None}:
                return None
            location, size, digest = entry["key"]["file"]
            # Another file of the same name is not a file that changed, so it is not counted as one.
            if location != _location(path):
                return None
            # The size comes first, as it saves reading a large file that cannot be the same.
            if size != before.size or digest != self._contents.digest(path).hex():
                self.changed += 1
                return None
            result = _result_from_dict(entry["result"])
            _check(result, self._settings.get("threshold"))
            # A removed picture is drawn again, which needs the scores of all frames.
            for drawn in (result.picture, result.timeline):
                if drawn is not None and not drawn.is_file():
                    return None
        except (KeyError, TypeError, ValueError, OSError):
            # Includes a file that no longer exists: scoring it reports why it cannot be read.
            return None
        return result

    def add(self, result: FileScore, path: Path) -> None:
        """Record a result, unless the file was removed or changed since `find`.

        Raises:
            LpxError: The journal cannot be written.
        """
        digest = self._contents.digest(path)
        try:
            state = _state(path)
            location = _location(path)
        except OSError:
            return
        # The content of a file that changed while it was scored belongs to neither state.
        if digest == UNREADABLE or self._before.pop(result.name, state) != state:
            return
        # JSON has no paths.
        values = asdict(result)
        for name in _PATHS:
            if values[name] is not None:
                values[name] = str(values[name])
        key = {**self._settings, "file": [location, state.size, digest.hex()]}
        try:
            self._journal.append({"key": key, "result": values})
        except OSError as error:
            raise unwritable(self._path, error) from error


def _parse(values: dict[str, Any]) -> dict[str, Any]:
    # Only a text can be looked up as a name; everything else is checked by `find`.
    if not isinstance(values["result"]["name"], str):
        raise SchemaError("the name of its file is not a text")
    return values


def _state(path: Path) -> _State:
    status = path.stat()
    return _State(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _location(path: Path) -> str:
    # Escaped: JSON has no room for bytes of a path that are not UTF-8.
    return ascii(str(path.resolve()))


def _result_from_dict(values: object) -> FileScore:
    """Convert a result back from JSON.

    Raises:
        SchemaError: It has another structure.
    """
    if not isinstance(values, dict):
        raise SchemaError("it is not a result")
    plain = dict(values)
    paths: list[Path | None] = []
    for name in _PATHS:
        text = plain.pop(name, None)
        if not isinstance(text, str | None):
            raise SchemaError(f"{name} is not a path")
        paths.append(None if text is None else Path(text))
    picture, timeline = paths
    return replace(read_record(FileScore, plain), picture=picture, timeline=timeline)


def _check(result: FileScore, threshold: float | None) -> None:
    """Reject scores out of range, and verdicts that contradict their score.

    Raises:
        SchemaError: There is one.
    """
    # The journal is a text file that anyone may have edited.
    in_range(result.frames, 0, MAX_INTEGER, "frames")
    for score in (result.score, *(face.score for face in result.faces)):
        in_range(score, -ROUNDING, 1 + ROUNDING, "a score")
    if threshold is None:
        return
    if result.score is not None and result.fake is not (result.score >= threshold):
        raise SchemaError(f"a score of {result.score} is not called {verdict(result.fake)}")
    # Scores of faces are float32, and compared as such: 0.7 as float32 is less than 0.7 as float64.
    scores = np.array([face.score for face in result.faces], np.float32)
    for face, fake in zip(result.faces, called_fake(scores, threshold).tolist(), strict=True):
        if face.fake is not fake:
            raise SchemaError(f"a score of {face.score} is not called {verdict(face.fake)}")
