"""Scores of the checkpoint, recorded face by face, so that a bench elsewhere needs no PyTorch.

A recording is two files in `reference/` of the workspace. `NAME.json` says what the scores are of
and names the other, which holds them, compressed with zlib: the SHA-256 of each face's content,
[N, 32] bytes in ascending order, then the scores, float32 [N], and the maps, float32 [N, h, w];
both are little-endian, with the bytes of a value apart (first all lowest bytes, and so on).
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.score import are_maps, are_probabilities
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.wording import counted
from lpx.engines.base import Prediction
from lpx.errors import LpxError
from lpx.formats import check_format
from lpx.schema import SchemaError, in_range, read_record, sealed
from lpx.workspace import read_regular, read_sealed, write_bytes

# Folder in the workspace.
FOLDER = "reference"
FORMAT = "lpx-recording/1"
# Bytes of a content's SHA-256.
_DIGEST = 32
# Largest ratio of compression. zlib reaches 1,000, with which a small file could claim all memory.
_MAX_RATIO = 100
# Rows and columns of a map.
_MAX_SIDE = 1 << 12
_RECORD_AGAIN = "lpx bench"
_BENCH_AGAIN = "run `lpx bench` again where the checkpoint is"


@dataclass(frozen=True)
class Origin:
    """Where and when the checkpoint's scores were computed.

    Attributes:
        torch: PyTorch's version.
        device: The device that PyTorch computed on.
        machine: The machine, in words.
        created: Time of the last bench that added scores, ISO 8601 in UTC.
        lpx: Version of lpx.
    """

    torch: str
    device: str
    machine: str
    created: str
    lpx: str


@dataclass(frozen=True)
class Subject:
    """What the scores of a recording are of: another value of any field gives other scores.

    Attributes:
        model_sha256: SHA-256 of the exported model.
        weights_sha256: SHA-256 of the checkpoint's weights.
        input_size: Side of a face, pixels.
    """

    model_sha256: str
    weights_sha256: str
    input_size: int


@dataclass(frozen=True)
class Recording:
    """Recorded scores.

    Attributes:
        subject: What they are of.
        origin: Where and when they were computed.
        crops: Recipes by which the faces were cropped, sorted.
        contents: SHA-256 of each face's content, uint8 [N, 32], ascending and without repeats.
        prediction: Scores [N] and maps [N, h, w].
    """

    subject: Subject
    origin: Origin
    crops: tuple[str, ...]
    contents: NDArray[np.uint8]
    prediction: Prediction

    def rows(self, contents: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the row of each content, int64; -1 where there is none.

        Args:
            contents: uint8 [M, 32].
        """
        ours, theirs = _keys(self.contents), _keys(contents)
        at = np.minimum(np.searchsorted(ours, theirs), len(ours) - 1)
        return np.where(ours[at] == theirs, at, -1).astype(np.int64)

    def renamed(self, contents: Mapping[bytes, bytes]) -> Recording:
        """Add the scores of faces under the contents that they have elsewhere.

        Args:
            contents: New content by old one; contents without a score are passed over.
        """
        if not contents:
            return self
        old = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, _DIGEST)
        new = np.frombuffer(b"".join(contents.values()), np.uint8).reshape(-1, _DIGEST)
        rows = self.rows(old)
        known = rows >= 0
        taken = _take(self.prediction, rows[known])
        return replace(self, **_merged(self, new[known], taken))


@dataclass(frozen=True)
class RecordedScores:
    """Recorded scores of the faces of a set.

    Attributes:
        prediction: Scores [N] and maps [N, h, w], in the order of the set. Rows of faces that
            cannot be read are undefined.
        origin: Where and when they were computed.
    """

    prediction: Prediction
    origin: Origin


@dataclass(frozen=True)
class _Record:
    format: str
    subject: Subject
    origin: Origin
    crops: tuple[str, ...]
    faces: int
    grid: tuple[int, int]
    file: str
    sha256: str


def record(
    folder: Path,
    recording: Recording,
    warn: Callable[[str], None] = lambda text: None,
) -> None:
    """Write scores, beside those of other faces that were recorded with the same PyTorch here.

    Args:
        folder: `reference` in the workspace.
        recording: Contents need not be sorted.
        warn: Receives the reason why an earlier recording is replaced.

    Raises:
        LpxError: The folder cannot be written.
    """
    path = folder / f"{_name(recording)}.json"
    crops = recording.crops
    values: dict[str, Any] = {}
    if path.exists():
        try:
            earlier = _read(path)
        except LpxError as error:
            warn(f"{error.what}, and is replaced: {error.why}")
        else:
            crops = tuple(sorted({*earlier.crops, *crops}))
            values = _merged(earlier, recording.contents, recording.prediction)
    if not values:
        values = _sorted(recording.contents, recording.prediction)
    files = files_of(replace(recording, crops=crops, **values))
    for name, data in files.items():
        write_bytes(folder / name, data)
    # The JSON, written last, names another file now: until then the earlier one was complete.
    for file in folder.glob(f"{path.stem}.*.scores"):
        if file.name not in files:
            file.unlink(missing_ok=True)


def files_of(recording: Recording) -> dict[str, bytes]:
    """Return the contents of a recording's files by name, the JSON last."""
    data = _packed(recording)
    digest = hashlib.sha256(data).hexdigest()
    name = _name(recording)
    file = f"{name}.{digest[:16]}.scores"
    _, height, width = recording.prediction.patch_map.shape
    values = asdict(
        _Record(
            FORMAT,
            recording.subject,
            recording.origin,
            recording.crops,
            len(recording.contents),
            (height, width),
            file,
            digest,
        )
    )
    return {file: data, f"{name}.json": (json.dumps(sealed(values), indent=2) + "\n").encode()}


def read_recordings(folder: Path) -> tuple[Recording, ...]:
    """Read all recordings of a workspace, sorted by name.

    Args:
        folder: `reference` in the workspace; it need not exist.

    Raises:
        LpxError: One is damaged, or of a newer lpx.
    """
    return tuple(_read(path) for path in sorted(folder.glob("*.json")))


def has_recordings(folder: Path) -> bool:
    """Return whether a workspace has a recording, without reading it."""
    return any(folder.glob("*.json"))


def recorded_scores(folder: Path, subject: Subject, faces: FaceSet) -> RecordedScores:
    """Return the recorded scores of a face set.

    Of several recordings, the one with most of the faces is used, and of equal ones the latest.

    Args:
        folder: `reference` in the workspace.
        subject: The model that engines are compared with.
        faces: The faces to score.

    Raises:
        LpxError: Nothing was recorded (code "not-found"); the recording is of another model or
            lacks faces ("invalid-input"), is damaged ("damaged"), or of a newer lpx
            ("unsupported").
    """
    recordings = read_recordings(folder)
    if not recordings:
        raise LpxError(
            f"{folder} has no recorded scores of the checkpoint",
            "engines are compared with them where PyTorch or the checkpoint is missing",
            "run `lpx bench` where the checkpoint is, and `lpx pack` after it",
            code="not-found",
        )
    fitting = [recording for recording in recordings if recording.subject == subject]
    if not fitting:
        raise LpxError(
            "the recorded scores are of another model",
            f"they are of {recordings[0].subject.model_sha256[:12]}, this workspace has "
            f"{subject.model_sha256[:12]}",
            "run `lpx bench` of this model where its checkpoint is",
        )
    readable: NDArray[np.bool_] = np.asarray(faces.contents.any(axis=1))
    best = max(fitting, key=lambda one: (_covered(one, faces, readable), one.origin.created))
    rows = best.rows(faces.contents)
    missing = np.flatnonzero(readable & (rows < 0))
    if len(missing):
        _refuse(best, faces, missing, int(readable.sum()))
    return RecordedScores(_take(best.prediction, np.maximum(rows, 0)), best.origin)


def _covered(recording: Recording, faces: FaceSet, readable: NDArray[np.bool_]) -> int:
    return int((recording.rows(faces.contents)[readable] >= 0).sum())


def _refuse(
    recording: Recording, faces: FaceSet, missing: NDArray[np.int64], readable: int
) -> None:
    """Raise the error for faces without a recorded score."""
    first = faces.faces[int(missing[0])].name
    why = f"the first is {first}"
    if faces.crop not in recording.crops:
        why = (
            f"{faces.name} is cropped by {faces.crop}, the recorded faces by "
            f"{', '.join(recording.crops)}: other pixels have other scores"
        )
    raise LpxError(
        f"{len(missing)} of {counted(readable, 'face')} of {faces.name} have no recorded score of "
        "the checkpoint",
        why,
        "bench the faces that were recorded, or run `lpx bench` on these where the checkpoint is",
    )


def _keys(contents: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Return contents [N, 32] as [N] values, which compare as their bytes do."""
    # NumPy strips zeros at the end of a byte string only where it becomes a Python object.
    return np.ascontiguousarray(contents).view(f"S{_DIGEST}")[:, 0]


def _sorted(contents: NDArray[np.uint8], prediction: Prediction) -> dict[str, Any]:
    """Sort rows by content; of several with one content the last is kept."""
    # Unreadable faces have no content.
    rows = np.flatnonzero(contents.any(axis=1))[::-1]
    _, first = np.unique(_keys(contents[rows]), return_index=True)
    rows = rows[first]
    return {"contents": contents[rows], "prediction": _take(prediction, rows)}


def _merged(
    recording: Recording, contents: NDArray[np.uint8], prediction: Prediction
) -> dict[str, Any]:
    """Add rows to those of a recording; new ones replace old ones."""
    if recording.prediction.patch_map.shape[1:] != prediction.patch_map.shape[1:]:
        return _sorted(contents, prediction)
    both = Prediction(
        np.concatenate([recording.prediction.score, prediction.score]),
        np.concatenate([recording.prediction.patch_map, prediction.patch_map]),
    )
    return _sorted(np.concatenate([recording.contents, contents]), both)


def _take(prediction: Prediction, rows: NDArray[np.int64]) -> Prediction:
    return Prediction(prediction.score[rows], prediction.patch_map[rows])


def _name(recording: Recording) -> str:
    """Return the name of a recording's files: another model, PyTorch or machine has its own."""
    subject, origin = recording.subject, recording.origin
    # The format too: an older lpx must not replace what a newer one recorded.
    parts = (FORMAT, *asdict(subject).values(), origin.torch, origin.device, origin.machine)
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def _packed(recording: Recording) -> bytes:
    prediction = recording.prediction
    parts = (
        recording.contents.tobytes(),
        _apart(prediction.score),
        _apart(prediction.patch_map),
    )
    plain = b"".join(parts)
    data = zlib.compress(plain, 6)
    # Constant maps would exceed the ratio that a reader accepts.
    return data if len(plain) <= _MAX_RATIO * len(data) else zlib.compress(plain, 0)


def _apart(values: NDArray[np.float32]) -> bytes:
    """Return float32 values with their bytes apart: exponents compress well, mantissas do not."""
    apart = values.astype("<f4").reshape(-1, 1).view(np.uint8).T
    return bytes(apart.tobytes())


def _together(data: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    apart = np.frombuffer(data, np.uint8).reshape(4, -1)
    return np.ascontiguousarray(apart.T).view("<f4").reshape(shape).astype(np.float32)


def _read_record(path: Path) -> _Record:
    values = read_sealed(path, _RECORD_AGAIN)
    try:
        check_format(path, values.get("format"), FORMAT, _BENCH_AGAIN)
        read = read_record(_Record, values)
        in_range(read.faces, 1, 1 << 40, "faces")
        for side in read.grid:
            in_range(side, 1, _MAX_SIDE, "grid")
        if Path(read.file).name != read.file or not read.file.endswith(".scores"):
            raise SchemaError(f"{read.file[:60]!a} is not the name of a file of scores")
        return read
    except SchemaError as error:
        raise _damaged(path, str(error)) from error


def _read(path: Path) -> Recording:
    """Read a recording.

    Raises:
        LpxError: It is damaged, or of a newer lpx.
    """
    kept = _read_record(path)
    file = path.parent / kept.file
    try:
        data = read_regular(file, inside=path.parent)
    except OSError as error:
        raise _damaged(path, f"{file.name} cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != kept.sha256:
        raise _damaged(path, f"{file.name} was changed after it was written")
    height, width = kept.grid
    ends = np.cumsum([kept.faces * size for size in (_DIGEST, 4, 4 * height * width)])
    size = int(ends[-1])
    if size > _MAX_RATIO * len(data):
        raise _damaged(path, f"{file.name} cannot hold {kept.faces} faces")
    try:
        # One byte more than there may be, to notice it.
        plain = zlib.decompressobj().decompress(data, size + 1)
    except zlib.error as error:
        raise _damaged(path, f"{file.name}: {error}") from error
    if len(plain) != size:
        raise _damaged(path, f"{file.name} does not hold {kept.faces} faces")
    contents = np.frombuffer(plain, np.uint8, int(ends[0])).reshape(-1, _DIGEST)
    prediction = Prediction(
        _together(plain[ends[0] : ends[1]], (kept.faces,)),
        _together(plain[ends[1] :], (kept.faces, height, width)),
    )
    keys = _keys(contents)
    if (keys[1:] <= keys[:-1]).any():
        raise _damaged(path, "its faces are not in order")
    if not are_probabilities(prediction.score).all() or not are_maps(prediction.patch_map).all():
        raise _damaged(path, "a score or map is not a probability")
    return Recording(kept.subject, kept.origin, kept.crops, contents, prediction)


def _damaged(path: Path, why: str) -> LpxError:
    return LpxError(
        f"{os.fspath(path)} is damaged",
        why,
        _BENCH_AGAIN,
        code="damaged",
    )
