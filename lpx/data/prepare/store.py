"""Prepared sets in the store: names of their folders, and how to find and open them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lpx.data.datasets import KNOWN
from lpx.data.detect.blazeface import BlazeFace
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.face_sets.manifest import FILE as MANIFEST
from lpx.data.face_sets.manifest import (
    FaceManifest,
    damage_note,
    left_out_note,
    missing_note,
    read_face_manifest,
    read_manifest_head,
)
from lpx.data.prepare.journal import FILE as JOURNAL
from lpx.errors import LpxError

FORMAT_MARK = b'"format": "lpx-faces/'
# Files that a run of `lpx data prepare` leaves before its manifest.
_UNFINISHED_MARKS = ("faces-*.npz", JOURNAL, "shards/prepare")
# The mark is within the first fields of a manifest.
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class PreparedSet:
    """A prepared set on disk.

    Attributes:
        folder: Its folder in the store.
        manifest: Its manifest, without the table of faces.
    """

    folder: Path
    manifest: FaceManifest

    def parts(self, split: str) -> tuple[dict[str, Any], ...]:
        """Return the runs of `lpx data prepare` that gave faces of a split, or of any ("all")."""
        runs = self.manifest.about.get("prepared", ())
        if split == "all":
            return tuple(runs)
        return tuple(run for run in runs if run["split"] in (None, split))


def folder_name(name: str, recipe: str, frames: int, detector: str) -> str:
    """Return the folder of a prepared set below the store; it names all that crops depend on."""
    slug = re.sub(r"[^\w.@+-]+", "-", name).strip("-")
    suffix = "" if detector == BlazeFace.name else f"-{detector}"
    return f"{slug}-{recipe}-{frames}{suffix}"


def is_prepared(folder: Path) -> bool:
    """Return whether a folder is a prepared set, possibly damaged or of another version."""
    try:
        with (folder / MANIFEST).open("rb") as stream:
            if FORMAT_MARK in stream.read(_HEAD_BYTES):
                return True
        # A damaged manifest beside a table of faces still marks a prepared set.
        return any(folder.glob("faces-*.npz"))
    except OSError:
        return False


def check_finished(folder: Path) -> None:
    """Reject a folder of `lpx data prepare` whose manifest is missing or cannot be read.

    Otherwise its crops would be taken for faces without labels, splits, videos and identities.

    Raises:
        LpxError: It is such a folder.
    """
    if is_prepared(folder):
        return
    for mark in _UNFINISHED_MARKS:
        if next(folder.glob(mark), None) is not None:
            raise LpxError(
                f"{folder} holds faces of `lpx data prepare`, but no readable {MANIFEST}",
                "the run was stopped before its end, or the file was removed; it describes the "
                "faces",
                "run `lpx data prepare` again: finished videos are not cut again; or `lpx merge`, "
                "if its shards have finished",
                code="damaged",
            )


def prepared_sets(store: Path, name: str) -> tuple[PreparedSet, ...]:
    """Return the prepared sets of a data set in the store, sorted by folder.

    Raises:
        LpxError: A manifest is damaged.
    """
    if not store.is_dir():
        return ()
    # Recipe and detector follow the name of the data set, so all its folders begin the same.
    start = folder_name(name, "", 0, BlazeFace.name).removesuffix("-0")
    prepared = []
    for folder in sorted(store.iterdir()):
        if folder.name.startswith(start) and is_prepared(folder):
            candidate = PreparedSet(folder, read_manifest_head(folder))
            # "dfdc" is also the beginning of "dfdcp".
            if candidate.manifest.name == name:
                prepared.append(candidate)
    return tuple(prepared)


def find_prepared(store: Path, name: str, split: str, crop: str | None) -> PreparedSet | None:
    """Find the prepared set of a data set that holds a split.

    Args:
        store: Folder of prepared sets.
        name: Name of the data set.
        split: "train", "val", "test" or "all".
        crop: Crop recipe that it must have been cut with; None for any.

    Returns:
        None if there is none.

    Raises:
        LpxError: There are several; they are listed.
    """
    matching = [
        candidate
        for candidate in prepared_sets(store, name)
        if candidate.parts(split) and crop in (None, candidate.manifest.crop)
    ]
    if len(matching) > 1:
        raise LpxError(
            f"{name} was prepared in {len(matching)} ways",
            "their results differ:" + listed(matching),
            f"name the folder of one: {matching[0].folder}",
        )
    return matching[0] if matching else None


def listed(prepared: Iterable[PreparedSet]) -> str:
    """Format prepared sets for a message, one a line."""
    lines = []
    for one in prepared:
        splits = sorted({part["split"] or "all splits" for part in one.parts("all")})
        lines.append(
            f"\n    {one.folder}: crop {one.manifest.crop}, {one.manifest.frames_per_video} frames "
            f"per video, {', '.join(splits) or 'nothing'}"
        )
    return "".join(lines)


def open_prepared(prepared: PreparedSet, split: str) -> FaceSet:
    """Open the faces of a split, of the methods that a data set usually stands for.

    Faces of other methods, such as FaceShifter in FaceForensics++, are opened by naming the folder.

    Raises:
        LpxError: The set is damaged, or has no face in this split.
    """
    faces = read_face_manifest(prepared.folder)
    usual = KNOWN[prepared.manifest.name.partition(":")[0]].usual
    methods = [method for method in faces.methods() if method in usual]
    faces = faces.select(None if split == "all" else split, methods or None)
    return replace(faces, note=note_of(prepared, split, usual, faces))


def note_of(prepared: PreparedSet, split: str, usual: tuple[str, ...], faces: FaceSet) -> str:
    """Describe what limits results on `faces`, those of a split; "" if nothing does."""
    # A dict keeps the order of the runs, and each note once.
    notes: dict[str, None] = {}
    missing: dict[str, None] = {}
    for part in prepared.parts(split):
        notes |= dict.fromkeys(part["notes"])
        missing |= dict.fromkeys(part["missing"])
    made = set()
    for count in prepared.manifest.counts:
        if split in ("all", count.split):
            made.add(count.method)
    absent = [method for method in usual if method not in made]
    sentences = [*notes]
    if absent:
        sentences.append(f"No faces of {', '.join(absent)} were prepared.")
    sentences.append(missing_note(tuple(missing)))
    sentences.append(left_out_note(prepared.manifest, split, faces.methods()))
    sentences.append(damage_note(prepared.manifest, faces))
    return " ".join(filter(None, sentences))
