"""Scores computed so far, on disk, so that an interrupted bench resumes.

A folder holds `of.json` with what the scores depend on, one file per engine, and the faces that
could not be read. An engine's file is a sequence of frames, one per batch. Reading ends at a frame
that is truncated or has a wrong checksum; the rest is dropped with a message, and scored again.
"""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lpx.data.face_sets.face_set import Skipped
from lpx.engines.base import Prediction
from lpx.errors import LpxError
from lpx.schema import SchemaError, sealed, sealed_line, unsealed, unsealed_line
from lpx.workspace import Appended, no_follow, read_regular, read_sealed, unwritable, write_sealed

FOLDER = "bench.partial"
# Faces per call. Part of what a stored score depends on: another size may round differently.
BATCH = 16
# Magic, faces, height and width of a map, bytes of the payload, its CRC-32; little-endian.
_HEADER = struct.Struct("<4sIIIII")
_MAGIC = b"lpx1"
OF = "of.json"
SKIPPED = "skipped.jsonl"

# Indices in the face set, int64 [N], and an engine's predictions for these faces.
Stored = tuple[NDArray[np.int64], Prediction]


class Scores(Protocol):
    """Receives the scores of a pass over faces."""

    def next_row(self, name: str) -> int:
        """Return the index of the first face that an engine has not scored."""
        ...

    def add(self, name: str, indices: NDArray[np.int64], prediction: Prediction) -> None:
        """Append an engine's batch."""
        ...

    def skip(self, faces: Iterable[Skipped]) -> None:
        """Append faces that cannot be read, before the scores of their batch."""
        ...


@dataclass
class UnitScores:
    """Scores of a unit of work, in memory, for the store of another machine.

    Attributes:
        done: Index of the first face that each engine has not scored before, by name.
        batches: Names of engines, indices and predictions, in the order in which they came.
        skipped: Faces that could not be read.
    """

    done: Mapping[str, int]
    batches: list[tuple[str, NDArray[np.int64], Prediction]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def next_row(self, name: str) -> int:
        """Return the index of the first face that an engine has not scored."""
        return self.done.get(name, 0)

    def add(self, name: str, indices: NDArray[np.int64], prediction: Prediction) -> None:
        """Append an engine's batch."""
        self.batches.append((name, indices, prediction))

    def skip(self, faces: Iterable[Skipped]) -> None:
        """Append faces that cannot be read."""
        self.skipped += faces


class ScoreStore:
    """Scores of a bench in progress.

    Args:
        folder: Folder of the store, created with the first scores; emptied if it is of another
            bench.
        inputs: What the scores depend on besides the engine: faces, size, batch, versions.
        engines: SHA-256 of each engine, by name.
        say: Receives messages about earlier scores that cannot be used.

    Raises:
        LpxError: Scores of another bench cannot be removed.
    """

    def __init__(
        self,
        folder: Path,
        inputs: Mapping[str, Any],
        engines: Mapping[str, str],
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = folder
        self.inputs = dict(inputs)
        self._say = say or (lambda text: None)
        self._files: dict[str, Appended] = {}
        for name, digest in engines.items():
            self._files[name] = Appended(folder / scores_file(name, digest))
        self._skipped = Appended(folder / SKIPPED)
        if folder.is_dir() and (why := self._unfit()):
            if any(folder.iterdir()):
                self._say(f"scores of an interrupted bench in {folder} are dropped: {why}")
            try:
                # Scores left behind would be taken for scores of this bench.
                shutil.rmtree(folder)
            except OSError as error:
                raise unwritable(folder, error) from error

    def _unfit(self) -> str:
        """Return the reason why the stored scores cannot be used; "" if they are of this bench."""
        try:
            stored = read_sealed(self.folder / OF, "lpx bench")
        except LpxError as error:
            return error.summary
        try:
            self._read_skipped()
        except SchemaError as error:
            return f"{SKIPPED}: {error}"
        wanted = unsealed(sealed(self.inputs))
        if stored == wanted:
            return ""
        if {**stored, "faces": None} == {**wanted, "faces": None}:
            return "faces have changed since: their files, or their labels, methods or videos"
        differing = sorted(k for k in stored.keys() | wanted if stored.get(k) != wanted.get(k))
        return f"they are of other inputs ({', '.join(differing)})"

    def read(self, name: str) -> list[Stored]:
        """Return an engine's batches in order; damaged ones are dropped, on disk too.

        Raises:
            LpxError: The scores cannot be read.
        """
        path = self._files[name].path
        try:
            data = read_regular(path)
            frames, end = parse_frames(data)
            if end < len(data):
                # Truncated, so that new frames are appended to whole ones.
                whole = len(data) - end
                self._say(
                    f"{path}: the last {whole} bytes are damaged; their faces are scored again"
                )
                with open(path, "r+b", opener=no_follow) as stream:
                    stream.truncate(end)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unwritable(path, error) from error
        return frames

    def next_row(self, name: str) -> int:
        """Return the index of the first face that an engine has not scored.

        Raises:
            LpxError: The scores cannot be read.
        """
        return next_row(self.read(name))

    def add(self, name: str, indices: NDArray[np.int64], prediction: Prediction) -> None:
        """Append a batch.

        Raises:
            LpxError: The folder cannot be written.
        """
        self._append(self._files[name], _frame(indices, prediction))

    def skipped(self) -> list[Skipped]:
        """Return faces that could not be read, some perhaps twice."""
        return self._read_skipped()

    def _read_skipped(self) -> list[Skipped]:
        """Read the list of faces; a truncated last line is dropped, on disk too.

        Raises:
            LpxError: It cannot be read.
            SchemaError: Another line is damaged.
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
        # A damaged line is not dropped: the report would not name all such faces.
        lines = (unsealed_line(line) for line in data[:end].splitlines())
        return [Skipped(str(line.get("name")), str(line.get("reason"))) for line in lines]

    def skip(self, faces: Iterable[Skipped]) -> None:
        """Append faces that cannot be read, before the scores of their batch.

        Raises:
            LpxError: The folder cannot be written.
        """
        lines = [sealed_line({"name": face.name, "reason": face.reason}) for face in faces]
        if lines:
            self._append(self._skipped, b"".join(lines))

    def _append(self, file: Appended, data: bytes) -> None:
        if not (self.folder / OF).exists():
            write_sealed(self.folder / OF, self.inputs)
        file.add(data)

    def remove(self) -> None:
        """Delete the store."""
        shutil.rmtree(self.folder, ignore_errors=True)


def next_row(batches: Sequence[Stored]) -> int:
    """Return the index of the face at which the batch after these begins."""
    return (int(batches[-1][0][-1]) // BATCH + 1) * BATCH if batches else 0


def scores_file(name: str, digest: str) -> str:
    """Return the name of the file with an engine's scores."""
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}.{digest[:16]}.scores"


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


def parse_frames(data: bytes) -> tuple[list[Stored], int]:
    """Return the complete frames, and the offset of their end."""
    frames: list[Stored] = []
    at = 0
    while at + _HEADER.size <= len(data):
        magic, count, height, width, size, checksum = _HEADER.unpack_from(data, at)
        payload = data[at + _HEADER.size : at + _HEADER.size + size]
        # 8 bytes of index and 4 of score per face, and 4 per patch.
        whole = magic == _MAGIC and len(payload) == size == count * (12 + 4 * height * width)
        if not whole or zlib.crc32(payload) != checksum:
            break
        indices = np.frombuffer(payload, "<i8", count).astype(np.int64)
        score = np.frombuffer(payload, "<f4", count, 8 * count).astype(np.float32)
        maps = np.frombuffer(payload, "<f4", -1, 12 * count).astype(np.float32)
        frames.append((indices, Prediction(score, maps.reshape(count, height, width))))
        at += _HEADER.size + size
    return frames, at
