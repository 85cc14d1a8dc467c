"""Prepared faces on disk: crops below a folder, and a manifest that describes them.

The folder holds `manifest.json`, which people can read, with the properties of the set; and the
table that it names, `faces-<12 digits>.npz`, with the properties of each face. The digits are the
first of the table's SHA-256: a new table never replaces the old one under its name, so that the
manifest, which is renamed last, matches a whole table at any moment.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from lpx.arrays import read_arrays
from lpx.data.face_sets.columns import Coded, Columns, Identities, Strings, paired
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.face_sets.table import Details, FaceTable, check_inside
from lpx.data.wording import are, counted, some
from lpx.errors import LpxError
from lpx.schema import MAX_INTEGER, SchemaError, in_range, read_record
from lpx.workspace import read_sealed, sha256, write_bytes, write_sealed

FORMAT = "lpx-faces/1"
FILE = "manifest.json"
REMAKE = "lpx data prepare"
# Arrays of the table that hold texts.
_TEXTS = ("names", "methods", "videos", "splits", "people")
# Fields of the file that are not of a `FaceManifest`.
_OF_THE_TABLE = frozenset({"format", "faces", "table", "table_sha256"})


@dataclass(frozen=True)
class SkippedFrame:
    """A frame, or a whole video, that gave no face.

    Attributes:
        video: Video name.
        frame: Frame number; None for the whole video.
        reason: Reason, for the user.
        split: Split of the video; "" in manifests of earlier versions, and if the set has none.
        method: Method of the video; "" in manifests of earlier versions.
    """

    video: str
    frame: int | None
    reason: str
    split: str = ""
    method: str = ""


@dataclass(frozen=True)
class Count:
    """Number of faces and videos that share a split, a method and a label.

    Attributes:
        split: "" if the set has no splits.
        method: "real", or the manipulation.
        label: 1 = fake, 0 = real; None if unknown.
        faces: Number of faces.
        videos: Number of videos that they come from.
    """

    split: str
    method: str
    label: int | None
    faces: int
    videos: int


@dataclass(frozen=True)
class FaceManifest:
    """Properties of a prepared set.

    Attributes:
        name: Name of the data set, as the user typed it.
        crop: Crop recipe.
        frames_per_video: Number of frames asked for; None for all.
        detector: Face detector; "" if the set came as crops.
        several_faces: Rule for frames that show several faces.
        skipped: Frames and videos without a face.
        missing: Videos in the set's lists that were not on disk.
        note: Note for readers of results; "" if there is none.
        versions: Versions of lpx and its libraries, by name.
        about: Anything else that JSON can hold.
        counts: Counts per split, method and label; filled in by `write_manifest`.
    """

    name: str
    crop: str
    frames_per_video: int | None = None
    detector: str = ""
    several_faces: str = ""
    skipped: tuple[SkippedFrame, ...] = ()
    missing: tuple[str, ...] = ()
    note: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    counts: tuple[Count, ...] = ()


def write_manifest(folder: Path, manifest: FaceManifest, table: FaceTable) -> None:
    """Write a manifest and its table, replacing earlier ones in the last step.

    Args:
        folder: Folder of the crops; paths in `table` are relative to it.
        manifest: Properties of the set; its counts are taken from the table.
        table: Faces, in their final order.

    Raises:
        LpxError: The folder cannot be written.
    """
    stream = io.BytesIO()
    np.savez(stream, **_arrays(table))  # type: ignore[arg-type]
    digest = hashlib.sha256(stream.getbuffer()).hexdigest()
    path = folder / f"faces-{digest[:12]}.npz"
    write_bytes(path, stream.getvalue())
    values = asdict(manifest) | {"counts": [asdict(count) for count in count_faces(table.columns)]}
    head = {"format": FORMAT, "faces": len(table), "table": path.name, "table_sha256": digest}
    write_sealed(folder / FILE, head | values)
    # Only now: until the manifest was renamed, the old table was the one in use.
    for old in folder.glob("faces-*.npz"):
        if old != path:
            old.unlink(missing_ok=True)


def read_face_manifest(folder: Path, split: str = "all") -> FaceSet:
    """Open a folder of prepared faces.

    Args:
        folder: Folder of the manifest.
        split: Split whose skipped videos and frames the note describes; all faces are returned.

    Raises:
        LpxError: The manifest is missing, damaged, of another version or contradicts its table, or
            a face's path leaves the folder.
    """
    values = _read(folder)
    manifest = _parsed(folder, values)
    table = _read_table(folder, values)
    if sum(count.faces for count in manifest.counts) != len(table):
        raise _damaged(folder / FILE, "its counts do not add up to its number of faces")
    faces = FaceSet(manifest.name, "all", manifest.crop, table)
    chosen = faces if split == "all" or split not in faces.splits() else faces.select(split)
    sentences = (
        manifest.note,
        missing_note(manifest.missing),
        left_out_note(manifest, split),
        damage_note(manifest, chosen),
    )
    return replace(faces, note=" ".join(filter(None, sentences)))


def read_manifest_head(folder: Path) -> FaceManifest:
    """Read the properties of a set, without the table of faces.

    Raises:
        LpxError: The manifest is missing, damaged or of another version.
    """
    return _parsed(folder, _read(folder))


def count_faces(columns: Columns) -> tuple[Count, ...]:
    """Count faces and videos per split, method and label, in the order of first occurrence."""
    if not len(columns):
        return ()
    split = columns.split.codes.astype(np.int64)
    kind = paired(paired(split, columns.method.codes), columns.label + 1)
    _, rows = np.unique(kind, return_index=True)
    faces = np.bincount(kind)
    # One row of each pair of a kind and a video: counting these counts videos.
    _, firsts = np.unique(paired(kind, columns.video.codes), return_index=True)
    videos = np.bincount(kind[firsts])
    counts = []
    for number in np.argsort(rows).tolist():
        row = int(rows[number])
        label = None if columns.label[row] < 0 else int(columns.label[row])
        counts.append(
            Count(
                columns.split[row],
                columns.method[row],
                label,
                int(faces[number]),
                int(videos[number]),
            )
        )
    return tuple(counts)


def missing_note(missing: tuple[str, ...]) -> str:
    """Describe videos that were not on disk; "" if none is missing."""
    if not missing:
        return ""
    were = "was" if len(missing) == 1 else "were"
    return (
        f"{counted(len(missing), 'video')} that the set's lists name {were} not on disk and "
        f"{are(len(missing))} left out: {some(missing)}."
    )


def left_out_note(
    manifest: FaceManifest, split: str = "all", methods: Collection[str] | None = None
) -> str:
    """Describe videos and frames that gave no face; "" if all did.

    Args:
        manifest: Manifest of the set.
        split: Split to describe; "all" for all.
        methods: Methods to describe, besides real videos; None for all.
    """
    # Reasons by video; videos and reasons of single frames.
    videos: dict[str, str] = {}
    frames: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for one in manifest.skipped:
        # Manifests of earlier versions do not say: what may count is described.
        if split != "all" and one.split not in ("", split):
            continue
        if methods is not None and one.method not in ("", "real", *methods):
            continue
        if one.frame is None:
            videos[one.video] = one.reason
        else:
            frames[one.video] += 1
            reasons[one.reason] += 1
    sentences = []
    if videos:
        named = [f"{video} ({reason})" for video, reason in videos.items()]
        sentences.append(
            f"{counted(len(videos), 'video')} could not be read and {are(len(videos))} left out: "
            f"{some(named)}."
        )
    if frames:
        total = sum(frames.values())
        why = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
        named = [f"{video} ({count})" for video, count in frames.most_common()]
        sentences.append(
            f"{counted(total, 'frame')} of {counted(len(frames), 'video')} gave no face and "
            f"{are(total)} left out ({why}): {some(named)}."
        )
    return " ".join(sentences)


def damage_note(manifest: FaceManifest, faces: FaceSet) -> str:
    """Describe videos that faces come from and that seem incomplete; "" if there are none."""
    damaged = manifest.about.get("damaged", {})
    if not damaged:
        return ""
    videos = set(faces.videos())
    named = [f"{video} ({damage})" for video, damage in damaged.items() if video in videos]
    if not named:
        return ""
    seem = "seems" if len(named) == 1 else "seem"
    return (
        f"{counted(len(named), 'video')} {seem} incomplete; faces come from what can be read: "
        f"{some(named)}."
    )


def _arrays(table: FaceTable) -> dict[str, NDArray[Any]]:
    columns, details = table.columns, table.details
    arrays: dict[str, NDArray[Any]] = {
        "label": columns.label,
        "method": columns.method.codes,
        "video": columns.video.codes,
        "split": columns.split.codes,
        "identities": columns.identities.codes,
        "identity_offsets": columns.identities.offsets,
        "identity_members": columns.identities.members,
        "frame": details.frame,
        "width": details.width,
        "height": details.height,
        "size_bytes": details.size_bytes,
    }
    texts = (
        table.names,
        columns.method.values,
        columns.video.values,
        columns.split.values,
        columns.identities.people,
    )
    for name, column in zip(_TEXTS, texts, strict=True):
        arrays[name], arrays[f"{name}_offsets"] = column.packed()
    return arrays


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    values = read_sealed(path, REMAKE)
    if values.get("format") != FORMAT:
        raise LpxError(
            f"{path} has the format {values.get('format')!r}",
            f"this version of lpx reads {FORMAT}",
            f"make it again with `{REMAKE}`",
            code="unsupported",
        )
    return values


def _parsed(folder: Path, values: dict[str, Any]) -> FaceManifest:
    try:
        known = {name: value for name, value in values.items() if name not in _OF_THE_TABLE}
        # Fields have defaults for callers, but a file without one is damaged.
        lacking = [field.name for field in fields(FaceManifest) if field.name not in known]
        if lacking:
            raise SchemaError(f"missing fields: {', '.join(lacking)}")
        manifest = read_record(FaceManifest, known)
        in_range(manifest.frames_per_video, 1, MAX_INTEGER, "frames_per_video")
        for count in manifest.counts:
            in_range(count.label, 0, 1, "the label of a count")
            for number in (count.faces, count.videos):
                in_range(number, 0, MAX_INTEGER, "a count")
        for skipped in manifest.skipped:
            in_range(skipped.frame, 0, MAX_INTEGER, "a frame")
        read_record(_About, manifest.about, "about", others=True)
    except SchemaError as error:
        raise _damaged(folder / FILE, f"it does not hold what it should: {error}") from error
    return manifest


@dataclass(frozen=True)
class _About:
    """The part of `FaceManifest.about` that is read back."""

    damaged: dict[str, str] = field(default_factory=dict)


def _read_table(folder: Path, values: dict[str, Any]) -> FaceTable:
    name, count = values.get("table"), values.get("faces")
    # The name must not lead to a file outside the folder.
    if not isinstance(name, str) or Path(name).name != name or not isinstance(count, int):
        raise _damaged(folder / FILE, f"it names the table {name!r}")
    path = folder / name
    try:
        if sha256(path) != values.get("table_sha256"):
            raise ValueError(f"it is not the table that {FILE} describes (its SHA-256 differs)")
        table = _table(folder, read_arrays(path), count)
    except FileNotFoundError:
        raise _damaged(path, "it does not exist") from None
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        BadZipFile,
    ) as error:
        raise _damaged(path, str(error)) from error
    check_inside(table.names, str(path))
    return table


def _table(folder: Path, arrays: dict[str, NDArray[Any]], count: int) -> FaceTable:
    """Convert arrays to a table.

    Everything is checked here: a wrong offset or code would show other faces' labels, or read
    outside an array.

    Raises:
        ValueError: The arrays contradict each other.
        KeyError: An array is missing.
    """
    texts = {name: _texts(name, arrays) for name in _TEXTS}

    def column(name: str, dtype: type[np.generic], length: int = count) -> NDArray[Any]:
        array = arrays[name]
        if array.dtype != dtype or array.shape != (length,):
            raise ValueError(
                f"column {name} is {array.dtype} {list(array.shape)}, "
                f"expected {np.dtype(dtype)} [{length}]"
            )
        return array

    def coded(name: str, size: int, length: int = count) -> NDArray[np.int32]:
        codes = column(name, np.int32, length)
        if len(codes) and not (codes.min() >= 0 and codes.max() < size):
            raise ValueError(f"column {name} has codes outside 0 to {size - 1}")
        return codes

    if len(texts["names"]) != count:
        raise ValueError(f"it names {len(texts['names'])} files, expected {count}")
    label = column("label", np.int8)
    if len(label) and not (label.min() >= -1 and label.max() <= 1):
        raise ValueError("column label has values outside -1 to 1")
    offsets = arrays["identity_offsets"]
    members = coded("identity_members", len(texts["people"]), len(arrays["identity_members"]))
    _check_offsets("identity_offsets", offsets, len(members))
    columns = Columns(
        label,
        Coded(coded("method", len(texts["methods"])), texts["methods"]),
        Coded(coded("video", len(texts["videos"])), texts["videos"]),
        Coded(coded("split", len(texts["splits"])), texts["splits"]),
        Identities(coded("identities", len(offsets) - 1), offsets, members, texts["people"]),
    )
    details = Details(
        column("frame", np.int32),
        column("width", np.int32),
        column("height", np.int32),
        column("size_bytes", np.int64),
    )
    return FaceTable(folder, texts["names"], columns, details)


def _texts(name: str, arrays: dict[str, NDArray[Any]]) -> Strings:
    blob, offsets = arrays[name], arrays[f"{name}_offsets"]
    if blob.dtype != np.uint8 or blob.ndim != 1:
        raise ValueError(f"column {name} is not a block of bytes")
    _check_offsets(f"{name}_offsets", offsets, len(blob))
    return Strings(blob, offsets[:-1], offsets[1:])


def _check_offsets(name: str, offsets: NDArray[Any], end: int) -> None:
    if offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets):
        raise ValueError(f"column {name} is not a list of offsets")
    if offsets[0] != 0 or offsets[-1] != end or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"column {name} has wrong offsets")


def _damaged(path: Path, why: str) -> LpxError:
    return LpxError(
        f"{path} is damaged",
        why,
        f"make it again with `{REMAKE}`; existing crops are kept",
        code="damaged",
    )
