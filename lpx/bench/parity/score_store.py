"""What a bench has scored so far, on disk as it comes, so that one that was killed goes on.

A folder holds `of.json`, which says of what, one file per engine, and the faces that could not be
read. An engine's file is a row of frames, one per batch; a frame that was cut off in the middle, or
whose checksum is wrong, ends what is believed. Whatever is not believed is said, and scored again.
"""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.data.face_sets.face_set import Skipped
from lpx.engines.base import Prediction
from lpx.errors import LpxError
from lpx.schema import SchemaError, sealed, sealed_line, unsealed, unsealed_line
from lpx.workspace import Appended, no_follow, read_regular, read_sealed, unwritable, write_sealed

FOLDER = "bench.partial"
_HEADER = struct.Struct("<4sIIIII")
_MAGIC = b"lpx1"
_OF = "of.json"
_SKIPPED = "skipped.jsonl"

Stored = tuple[NDArray[np.int64], Prediction]
"""Places in the face set, int64 [N], and what an engine said of these faces."""


class ScoreStore:
    """Scores of a bench that is under way.

    Args:
        folder: Made when the first scores come; emptied where it is of another bench.
        of: What the scores depend on besides the engine: faces, size, batch, versions.
        engines: Per name, what tells the engine from another of that name: a SHA-256.
        say: Receives what an earlier bench left and cannot be used, and why.

    Raises:
        LpxError: What another bench left cannot be removed.
    """

    def __init__(
        self,
        folder: Path,
        of: Mapping[str, Any],
        engines: Mapping[str, str],
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = folder
        self.of = dict(of)
        self._say = say or (lambda text: None)
        self._files = {
            name: Appended(folder / _file_name(name, told)) for name, told in engines.items()
        }
        self._skipped = Appended(folder / _SKIPPED)
        if folder.is_dir() and (why := self._unfit()):
            if any(folder.iterdir()):
                self._say(f"the scores of a stopped bench in {folder} are dropped: {why}")
            try:
                # What stayed would pass for scores of this bench.
                shutil.rmtree(folder)
            except OSError as error:
                raise unwritable(folder, error) from error

    def _unfit(self) -> str:
        """Why what is there is of no use; "" where it is of this bench."""
        try:
            found = read_sealed(self.folder / _OF, "lpx bench")
        except LpxError as error:
            return f"{error.what}: {error.why}" if error.why else error.what
        try:
            self._read_skipped()
        except SchemaError as error:
            return f"{_SKIPPED}: {error}"
        wanted = unsealed(sealed(self.of))
        if found == wanted:
            return ""
        if {**found, "faces": None} == {**wanted, "faces": None}:
            return "faces have changed since: their files, or what is said of them"
        differing = sorted(k for k in found.keys() | wanted if found.get(k) != wanted.get(k))
        return f"it was of something else ({', '.join(differing)})"

    def read(self, name: str) -> list[Stored]:
        """An engine's batches in order; what comes after a damaged one is dropped, on disk too.

        Raises:
            LpxError: The scores cannot be read.
        """
        path = self._files[name].path
        try:
            data = read_regular(path)
            frames, end = _parse(data)
            if end < len(data):
                whole = len(data) - end
                self._say(f"{path}: the last {whole} bytes are damaged, and are scored again")
                with open(path, "r+b", opener=no_follow) as stream:
                    stream.truncate(end)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unwritable(path, error) from error
        return frames

    def add(self, name: str, indices: NDArray[np.int64], prediction: Prediction) -> None:
        """Append a batch.

        Raises:
            LpxError: The folder cannot be written.
        """
        self._append(self._files[name], _frame(indices, prediction))

    def skipped(self) -> list[Skipped]:
        """Faces that could not be read; one may come twice."""
        return self._read_skipped()

    def _read_skipped(self) -> list[Skipped]:
        """The faces in the list, of which a last line that was cut off is dropped, on disk too.

        Raises:
            LpxError: It cannot be read.
            SchemaError: Another line is damaged: the report would not name all such faces.
        """
        path = self._skipped.path
        try:
            data = read_regular(path)
            end = data.rfind(b"\n") + 1
            if end < len(data):
                with open(path, "r+b", opener=no_follow) as stream:
                    stream.truncate(end)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unwritable(path, error) from error
        lines = (unsealed_line(line) for line in data[:end].splitlines())
        return [Skipped(str(line.get("name")), str(line.get("reason"))) for line in lines]

    def skip(self, faces: Iterable[Skipped]) -> None:
        """Note faces that cannot be read; they come before the scores of their batch.

        Raises:
            LpxError: The folder cannot be written.
        """
        lines = [sealed_line({"name": face.name, "reason": face.reason}) for face in faces]
        if lines:
            self._append(self._skipped, b"".join(lines))

    def _append(self, file: Appended, data: bytes) -> None:
        if not (self.folder / _OF).exists():
            write_sealed(self.folder / _OF, self.of)
        file.add(data)

    def remove(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _file_name(name: str, told: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}.{told[:16]}.scores"


def _frame(indices: NDArray[np.int64], prediction: Prediction) -> bytes:
    _, height, width = prediction.patch_map.shape
    payload = b"".join(
        (
            indices.astype("<i8").tobytes(),
            prediction.score.astype("<f4").tobytes(),
            prediction.patch_map.astype("<f4").tobytes(),
        )
    )
    sizes = (len(indices), height, width, len(payload))
    return _HEADER.pack(_MAGIC, *sizes, zlib.crc32(payload)) + payload


def _parse(data: bytes) -> tuple[list[Stored], int]:
    """The whole frames, and where they end."""
    frames: list[Stored] = []
    at = 0
    while at + _HEADER.size <= len(data):
        magic, count, height, width, size, checksum = _HEADER.unpack_from(data, at)
        payload = data[at + _HEADER.size : at + _HEADER.size + size]
        whole = magic == _MAGIC and len(payload) == size == count * (12 + 4 * height * width)
        if not whole or zlib.crc32(payload) != checksum:
            break
        indices = np.frombuffer(payload, "<i8", count).astype(np.int64)
        score = np.frombuffer(payload, "<f4", count, 8 * count).astype(np.float32)
        maps = np.frombuffer(payload, "<f4", -1, 12 * count).astype(np.float32)
        frames.append((indices, Prediction(score, maps.reshape(count, height, width))))
        at += _HEADER.size + size
    return frames, at
