"""Prepared sets in the store: how their folders are called, and how they are found again."""

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

_LEFT_BEHIND = ("faces-*.npz", JOURNAL)
FORMAT_MARK = b'"format": "lpx-faces/'


@dataclass(frozen=True)
class PreparedSet:
    """A prepared set on disk."""

    folder: Path
    manifest: FaceManifest

    def parts(self, split: str) -> tuple[dict[str, Any], ...]:
        """What was asked of `lpx data prepare` and gave faces of this split; "all" takes any."""
        asked = self.manifest.about.get("prepared", ())
        return tuple(p for p in asked if split == "all" or p["split"] in (None, split))


def folder_name(name: str, recipe: str, frames: int, detector: str) -> str:
    """The folder of a prepared set below the store: all that crops differ by."""
    slug = re.sub(r"[^\w.@+-]+", "-", name).strip("-")
    other = "" if detector == BlazeFace.name else f"-{detector}"
    return f"{slug}-{recipe}-{frames}{other}"


def is_prepared(folder: Path) -> bool:
    """Whether a folder is that of a prepared set; it may be damaged or of another version."""
    try:
        with (folder / MANIFEST).open("rb") as stream:
            return FORMAT_MARK in stream.read(4096) or any(folder.glob("faces-*.npz"))
    except OSError:
        return False


def check_finished(folder: Path) -> None:
    """Refuse a folder of `lpx data prepare` whose manifest is absent or cannot be read.

    Its crops would pass for faces without labels, splits, videos and identities.

    Raises:
        LpxError: It is such a folder.
    """
    if not is_prepared(folder) and any(next(folder.glob(mark), None) for mark in _LEFT_BEHIND):
        raise LpxError(
            f"{folder} holds faces of `lpx data prepare`, but no {MANIFEST} that can be read",
            "it was stopped before its end, or the file was removed; that file says what they are",
            "give the command `lpx data prepare` again: what is done is not done again",
        )


def prepared_sets(store: Path, name: str) -> tuple[PreparedSet, ...]:
    """The prepared sets of this name in the store, in order of their folders.

    Raises:
        LpxError: A manifest is damaged.
    """
    if not store.is_dir():
        return ()
    # Another detector or recipe ends the folder's name, so it begins with the set's.
    start = folder_name(name, "", 0, BlazeFace.name).removesuffix("-0")
    folders = sorted(f for f in store.iterdir() if f.name.startswith(start) and is_prepared(f))
    found = (PreparedSet(folder, read_manifest_head(folder)) for folder in folders)
    return tuple(one for one in found if one.manifest.name == name)


def find_prepared(store: Path, name: str, split: str, crop: str | None) -> PreparedSet | None:
    """The prepared set of this name that holds a split, cut by a recipe where one is wanted.

    Args:
        store: Folder of prepared sets.
        name: Of the data set.
        split: "train", "val", "test" or "all".
        crop: The recipe; None takes any.

    Returns:
        None where there is none.

    Raises:
        LpxError: There are several; they are listed.
    """
    found = [
        one
        for one in prepared_sets(store, name)
        if one.parts(split) and crop in (None, one.manifest.crop)
    ]
    if len(found) > 1:
        raise LpxError(
            f"{name} was prepared in {len(found)} ways",
            "each gives other figures:" + listed(found),
            f"name the folder of one, as in --dataset {found[0].folder}",
        )
    return found[0] if found else None


def listed(found: Iterable[PreparedSet]) -> str:
    """Prepared sets for a message, a line each."""
    return "".join(
        f"\n    {one.folder}: crop {one.manifest.crop}, {one.manifest.frames_per_video} frames a "
        f"video, {', '.join(_splits(one)) or 'nothing'}"
        for one in found
    )


def _splits(one: PreparedSet) -> list[str]:
    return sorted({part["split"] or "all splits" for part in one.parts("all")})


def open_prepared(one: PreparedSet, split: str) -> FaceSet:
    """The faces of a split, of the methods that count where a set is named alone.

    What was prepared beyond these, as FaceShifter in FaceForensics++, is opened by its folder.

    Raises:
        LpxError: The set is damaged, or has no face in this split.
    """
    faces = read_face_manifest(one.folder)
    usual = KNOWN[one.manifest.name.partition(":")[0]].usual
    methods = [m for m in faces.methods() if m in usual] or None
    faces = faces.select(None if split == "all" else split, methods)
    return replace(faces, note=note_of(one, split, usual, faces))


def note_of(one: PreparedSet, split: str, usual: tuple[str, ...], faces: FaceSet) -> str:
    """What a reader of results on `faces`, those of a split, must know."""
    parts = one.parts(split)
    notes = dict.fromkeys(note for part in parts for note in part["notes"])
    missing = dict.fromkeys(name for part in parts for name in part["missing"])
    made = {count.method for count in one.manifest.counts if split in ("all", count.split)}
    absent = [method for method in usual if method not in made]
    only = f"Without {', '.join(absent)}, of which no face was prepared." if absent else ""
    more = (
        only,
        missing_note(tuple(missing)),
        left_out_note(one.manifest, split, faces.methods()),
        damage_note(one.manifest, faces),
    )
    return " ".join(filter(None, (*notes, *more)))
