"""What a bench has scored so far, on disk as it comes, so that one that was killed goes on.

A folder holds `of.json`, which says of what, one file per engine, and the faces that could not be
read. An engine's file is a row of frames, one per batch; a frame that was cut off in the middle, or
whose checksum is wrong, ends what is believed.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.data.face_set import Skipped
from lpx.engines.base import Prediction
from lpx.workspace import no_follow, unwritable, write_json

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
    """

    def __init__(self, folder: Path, of: Mapping[str, Any], engines: Mapping[str, str]) -> None:
        self.folder = folder
        self.of = dict(of)
        self._files = {name: folder / _file_name(name, told) for name, told in engines.items()}
        if folder.is_dir() and not self._same():
            self.remove()

    def _same(self) -> bool:
        try:
            return bool(json.loads((self.folder / _OF).read_text()) == self.of)
        except (OSError, ValueError):
            return False

    def read(self, name: str) -> list[Stored]:
        """An engine's batches in order; what comes after a damaged one is dropped, on disk too."""
        path = self._files[name]
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return []
        frames, end = _parse(data)
        if end < len(data):
            with open(path, "r+b", opener=no_follow) as stream:
                stream.truncate(end)
        return frames

    def add(self, name: str, indices: NDArray[np.int64], prediction: Prediction) -> None:
        """Append a batch.

        Raises:
            LpxError: The folder cannot be written.
        """
        self._append(self._files[name], _frame(indices, prediction))

    def skipped(self) -> list[Skipped]:
        """Faces that could not be read; one may come twice."""
        try:
            lines = (self.folder / _SKIPPED).read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return []
        # The last line is cut off where the process was killed while it wrote it.
        return [Skipped(*json.loads(line)) for line in lines[:-1]]

    def skip(self, faces: Iterable[Skipped]) -> None:
        """Note faces that cannot be read; they come before the scores of their batch.

        Raises:
            LpxError: The folder cannot be written.
        """
        lines = "".join(json.dumps([face.name, face.reason]) + "\n" for face in faces)
        if lines:
            self._append(self.folder / _SKIPPED, lines.encode())

    def _append(self, path: Path, data: bytes) -> None:
        if not (self.folder / _OF).exists():
            write_json(self.folder / _OF, self.of)
        try:
            with open(path, "ab", opener=no_follow) as stream:
                stream.write(data)
        except OSError as error:
            raise unwritable(path, error) from error

    def remove(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _file_name(name: str, told: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}.{told[:16]}.scores"


def _frame(indices: NDArray[np.int64], prediction: Prediction) -> bytes:
    _, height, width = prediction.patch_map.shape
    payload = b"".join((
        indices.astype("<i8").tobytes(),
        prediction.score.astype("<f4").tobytes(),
        prediction.patch_map.astype("<f4").tobytes(),
    ))  # fmt: skip
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
