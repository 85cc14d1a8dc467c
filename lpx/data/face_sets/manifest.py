"""Prepared faces on disk: crops below a folder, and a manifest that says what they are.

The folder holds `manifest.json`, for people and for what stands once per set, and the table it
names, `faces-<12 digits>.npz`, with a column per property. The digits begin the table's SHA-256: a
new table never replaces the old one under its name, so that the manifest, renamed last, is at every
moment that of a whole table.
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
from lpx.data.wording import counted, some
from lpx.errors import LpxError
from lpx.schema import MAX_INTEGER, SchemaError, in_range, read_record
from lpx.workspace import read_sealed, sha256, write_bytes, write_sealed

FORMAT = "lpx-faces/1"
FILE = "manifest.json"
REMAKE = "lpx data prepare"
_TEXTS = ("names", "methods", "videos", "splits", "people")


@dataclass(frozen=True)
class SkippedFrame:
    """A frame, or a whole video, that gave no face.

    Attributes:
        video: Its video.
        frame: Number of the frame; None for the whole video.
        reason: Why.
        split: The video's; "" in manifests of earlier versions, and where the set has none.
        method: The video's; "" in manifests of earlier versions.
    """

    video: str
    frame: int | None
    reason: str
    split: str = ""
    method: str = ""


@dataclass(frozen=True)
class Count:
    """How many faces and videos share a split, a method and a label.

    Attributes:
        split: "" where the set has none.
        method: "real", or the manipulation.
        label: 1 = fake; None where not known.
        faces: Number of faces.
        videos: Number of videos they come from.
    """

    split: str
    method: str
    label: int | None
    faces: int
    videos: int


@dataclass(frozen=True)
class FaceManifest:
    """What stands once per set.

    Attributes:
        name: Of the data set, as the user typed it.
        crop: The recipe by which faces were cropped.
        frames_per_video: How many were asked for; None where all.
        detector: What found the faces; "" where they came cropped.
        several_faces: The rule by which one was taken where a frame shows several.
        skipped: What gave no face.
        missing: Videos that the set's lists name and that were not on disk.
        note: What a reader of results must know; "" where nothing.
        versions: Of the programs that took part.
        about: Anything else, as JSON can hold it.
        counts: Per split, method and label; filled in by `write_manifest`.
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
    """Write a manifest and its table; until the last moment the old ones, if any, hold.

    Args:
        folder: Where the crops lie; `table` names them relative to it.
        manifest: What stands once per set; its counts are taken from the table.
        table: The faces, in the order they shall keep.

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
    for old in folder.glob("faces-*.npz"):
        if old != path:
            old.unlink(missing_ok=True)


def read_face_manifest(folder: Path, split: str = "all") -> FaceSet:
    """Open a folder of prepared faces.

    Args:
        folder: Holds the manifest.
        split: Of whose videos the note tells what gave no face; the faces are those of all splits.

    Raises:
        LpxError: There is no manifest, it is damaged, of another version or contradicts its table,
            or a face's path leaves the folder.
    """
    values = _read(folder)
    manifest = _parsed(folder, values)
    table = _read_table(folder, values)
    if sum(count.faces for count in manifest.counts) != len(table):
        raise _damaged(folder / FILE, "its counts do not add up to its number of faces")
    faces = FaceSet(manifest.name, "all", manifest.crop, table)
    chosen = faces if split == "all" or split not in faces.splits() else faces.select(split)
    parts = (
        manifest.note,
        missing_note(manifest.missing),
        left_out_note(manifest, split),
        damage_note(manifest, chosen),
    )
    return replace(faces, note=" ".join(filter(None, parts)))


def read_manifest_head(folder: Path) -> FaceManifest:
    """What stands once per set, without the table of faces.

    Raises:
        LpxError: There is no manifest, or it is damaged or of another version.
    """
    return _parsed(folder, _read(folder))


def count_faces(columns: Columns) -> tuple[Count, ...]:
    """Faces and videos per split, method and label, in the order in which they first occur."""
    if not len(columns):
        return ()
    split = columns.split.codes.astype(np.int64)
    kind = paired(paired(split, columns.method.codes), columns.label + 1)
    _, rows = np.unique(kind, return_index=True)
    faces = np.bincount(kind)
    # A row of each pair of a kind and a video.
    _, firsts = np.unique(paired(kind, columns.video.codes), return_index=True)
    videos = np.bincount(kind[firsts])
    return tuple(
        Count(
            columns.split[row],
            columns.method[row],
            None if columns.label[row] < 0 else int(columns.label[row]),
            int(faces[number]),
            int(videos[number]),
        )
        for row, number in sorted(zip(rows.tolist(), range(len(rows)), strict=True))
    )


def missing_note(missing: tuple[str, ...]) -> str:
    """What to say of videos that were not on disk; "" where none is missing."""
    if not missing:
        return ""
    were, are = ("was", "is") if len(missing) == 1 else ("were", "are")
    return (
        f"{counted(len(missing), 'video')} that the set's lists name {were} not on disk and {are} "
        f"left out: {some(missing)}."
    )


def left_out_note(
    manifest: FaceManifest, split: str = "all", methods: Collection[str] | None = None
) -> str:
    """What to say of videos and frames that gave no face; "" where all did.

    Args:
        manifest: Names them.
        split: Whose videos count; "all" for all.
        methods: Whose videos count, beside real ones; None for all.
    """
    skipped = [
        one
        for one in manifest.skipped
        if (split == "all" or one.split in ("", split))
        and (methods is None or one.method in ("", "real", *methods))
    ]
    videos = {one.video: one.reason for one in skipped if one.frame is None}
    frames = [one for one in skipped if one.frame is not None]
    parts = []
    if videos:
        are = "is" if len(videos) == 1 else "are"
        named = [f"{video} ({reason})" for video, reason in videos.items()]
        parts.append(
            f"{counted(len(videos), 'video')} could not be read and {are} left out: {some(named)}."
        )
    if frames:
        each = Counter(one.video for one in frames)
        reasons = Counter(one.reason for one in frames)
        why = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
        named = [f"{video} ({count})" for video, count in each.most_common()]
        are = "is" if len(frames) == 1 else "are"
        parts.append(
            f"{counted(len(frames), 'frame')} of {counted(len(each), 'video')} gave no face and "
            f"{are} left out ({why}): {some(named)}."
        )
    return " ".join(parts)


def damage_note(manifest: FaceManifest, faces: FaceSet) -> str:
    """What to say of videos that faces come from and that seem incomplete; "" where none does."""
    damaged = manifest.about.get("damaged", {})
    there = set(faces.videos()) if damaged else set()
    named = [f"{video} ({damage})" for video, damage in damaged.items() if video in there]
    if not named:
        return ""
    seem = "seems" if len(named) == 1 else "seem"
    return (
        f"{counted(len(named), 'video')} {seem} incomplete; faces come from what can be read: "
        f"{some(named)}."
    )


def _arrays(table: FaceTable) -> dict[str, NDArray[Any]]:
    c, d = table.columns, table.details
    texts = dict(
        zip(
            _TEXTS,
            (table.names, c.method.values, c.video.values, c.split.values, c.identities.people),
            strict=True,
        )
    )
    arrays: dict[str, NDArray[Any]] = {
        "label": c.label,
        "method": c.method.codes,
        "video": c.video.codes,
        "split": c.split.codes,
        "identities": c.identities.codes,
        "identity_offsets": c.identities.offsets,
        "identity_members": c.identities.members,
        **{f.name: getattr(d, f.name) for f in fields(d)},
    }
    for name, column in texts.items():
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
        )
    return values


def _parsed(folder: Path, values: dict[str, Any]) -> FaceManifest:
    try:
        known = {name: value for name, value in values.items() if name not in _OF_THE_TABLE}
        if lacking := [f.name for f in fields(FaceManifest) if f.name not in known]:
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
    """What is read of `FaceManifest.about`."""

    damaged: dict[str, str] = field(default_factory=dict)


_OF_THE_TABLE = frozenset({"format", "faces", "table", "table_sha256"})
"""Fields of the file that are not of a `FaceManifest`."""


def _read_table(folder: Path, values: dict[str, Any]) -> FaceTable:
    name, count = values.get("table"), values.get("faces")
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
    """The table that the arrays hold.

    Raises:
        ValueError: They contradict each other.
        KeyError: One is missing.
    """
    texts = {name: _texts(name, arrays) for name in _TEXTS}

    def column(name: str, dtype: type[np.generic], length: int = count) -> NDArray[Any]:
        found = arrays[name]
        if found.dtype != dtype or found.shape != (length,):
            raise ValueError(
                f"column {name} is {found.dtype} {list(found.shape)}, "
                f"expected {np.dtype(dtype)} [{length}]"
            )
        return found

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
    frame, width, height = (column(name, np.int32) for name in ("frame", "width", "height"))
    details = Details(frame, width, height, column("size_bytes", np.int64))
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
        raise ValueError(f"column {name} does not divide what it should")


def _damaged(path: Path, why: str) -> LpxError:
    return LpxError(
        f"{path} is damaged", why, f"make it again with `{REMAKE}`; crops that are there are kept"
    )
