"""Data sets by name."""

from __future__ import annotations

import shlex
from pathlib import Path

from lpx.data.datasets import KNOWN as VIDEO_SETS
from lpx.data.datasets import WITH_FILE, open_videos
from lpx.data.datasets.deepfakebench import frame_number
from lpx.data.face_sets.demo import demo_set
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.face_sets.folder import folder_set
from lpx.data.face_sets.manifest import missing_note, read_face_manifest
from lpx.data.face_sets.table import FaceRow, make_table
from lpx.data.prepare.recipe import RECIPE
from lpx.data.prepare.record import effective_split
from lpx.data.prepare.store import (
    check_finished,
    find_prepared,
    is_prepared,
    listed,
    open_prepared,
    prepared_sets,
)
from lpx.data.roots import DataPlaces, expanded, face_store
from lpx.errors import LpxError

KNOWN = (
    "demo, folder:DIR (face crops in DIR/real and DIR/fake, or a DIR/faces.csv, or what "
    "`lpx data prepare` left in DIR), or just DIR; and, where you have their videos, "
    + ", ".join(f"{name}:FILE.json" if name == WITH_FILE else name for name in VIDEO_SETS)
)


def open_set(
    name: str,
    split: str,
    skip: tuple[Path, ...] = (),
    *,
    places: DataPlaces = DataPlaces(),  # noqa: B008 (frozen)
    crop: str | None = None,
) -> FaceSet:
    """Open a data set.

    Args:
        name: "demo", "folder:DIR", an existing folder, or a public data set that was prepared with
            `lpx data prepare`. DeepfakeBench's crops ("deepfakebench:FILE.json") are crops already:
            they are opened where they lie, as copying a few hundred thousand files would gain
            nothing.
        split: "train", "val" or "test", or "all"; a folder is taken whole, unless its faces.csv or
            its manifest names splits.
        skip: Folders not to look into, where they lie below the one that is opened.
        places: Where videos and prepared faces of public data sets lie.
        crop: The recipe that a public data set must have been cut by; None takes any.

    Raises:
        LpxError: Unknown name (the known ones are listed), or a public data set that was not
            prepared, or not so.
    """
    if name == "demo":
        return demo_set(split)
    if is_video_set(name):
        return _named(name, split, places, crop)
    folder = expanded(name.removeprefix("folder:"))
    if is_prepared(folder):
        return _of_split(read_face_manifest(folder, split), split)
    check_finished(folder)
    if name.startswith("folder:") or folder.is_dir():
        return _of_split(folder_set(folder, skip), split)
    raise LpxError(
        f"unknown data set {name!r}",
        f"it is not a folder either; known data sets: {KNOWN}",
        "name one of these; for another set, crop its faces into DIR/real and DIR/fake",
    )


def is_video_set(name: str) -> bool:
    """Whether a name is that of a public data set; a folder of the same name is `./name`."""
    return name.partition(":")[0] in VIDEO_SETS


def is_crops(name: str) -> bool:
    """Whether a public data set comes as face crops, and needs no preparing."""
    return name.partition(":")[0] == WITH_FILE


def prepare_command(name: str, split: str, places: DataPlaces, crop: str | None) -> str:
    """The command that prepares a split of a data set."""
    words = ["lpx", "data", "prepare", name]
    for option, value in (
        ("--data-root", places.data_root),
        ("--store", places.store),
        ("--split", None if split == "all" else split),
        ("--crop", crop),
    ):
        words += [option, str(value)] if value is not None else []
    return shlex.join(words)


def _of_split(faces: FaceSet, split: str) -> FaceSet:
    if split == "all" or faces.splits() == ("",):
        return faces
    return faces.select(split=split)


def _named(name: str, split: str, places: DataPlaces, crop: str | None) -> FaceSet:
    if is_crops(name):
        return _crops_in_place(name, split, places)
    store = face_store(places.store)
    if found := find_prepared(store, name, split, crop):
        return open_prepared(found, split)
    if others := [one for one in prepared_sets(store, name) if one.parts(split)]:
        raise LpxError(
            f"{name} was not prepared with the crop {crop}, which the model was trained on",
            "a detector judges crops that are cut otherwise wrongly; there are:" + listed(others),
            prepare_command(name, split, places, crop or RECIPE),
        )
    part = "" if split == "all" else f" (split {split})"
    try:
        videos = open_videos(name, root=places.data_root, split=None if split == "all" else split)
        where = f"its videos are in {videos.root}"
    except LpxError as error:
        where = f"nor can its videos be read: {error.what}\n  {error.why}\n  {error.fix}"
    raise LpxError(
        f"the faces of {name}{part} were not prepared",
        f"the store {store} does not hold them; {where}",
        prepare_command(name, split, places, crop or RECIPE),
    )


def _crops_in_place(name: str, split: str, places: DataPlaces) -> FaceSet:
    found = open_videos(name, root=places.data_root, split=None if split == "all" else split)
    rows = (
        FaceRow(
            frame.relative_to(found.root).as_posix(),
            video.label,
            video.method,
            video.name,
            video.identities,
            effective_split(video),
            frame_number(frame.stem),
        )
        for video in found.videos
        for frame in video.frames
    )
    note = " ".join(filter(None, (found.note, missing_note(found.missing))))
    return FaceSet(name, split, found.crop, make_table(found.root, rows), note)
