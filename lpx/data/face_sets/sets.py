"""Open data sets by name."""

from __future__ import annotations

import shlex
from pathlib import Path

from lpx.data.datasets import KNOWN as VIDEO_SETS
from lpx.data.datasets import WITH_FILE, open_videos, usage
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

# Names of data sets, for messages and help.
KNOWN = (
    "demo, folder:DIR (face crops in DIR/real and DIR/fake, a DIR/faces.csv, or a DIR made by "
    "`lpx data prepare`), or just DIR; and, if you have their videos, "
    + ", ".join(usage(name) for name in VIDEO_SETS)
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
            `lpx data prepare`. DeepfakeBench's crops ("deepfakebench:FILE.json") need no
            preparation, and are opened in place.
        split: "train", "val", "test" or "all"; a folder is opened as a whole, unless its faces.csv
            or manifest names splits.
        skip: Folders to leave out, if they are below the one that is opened.
        places: Folders of the videos and prepared faces of public data sets.
        crop: Crop recipe that a public data set must have been prepared with; None for any.

    Raises:
        LpxError: The name is unknown (the known ones are listed), or a public data set was not
            prepared, or with another recipe.
    """
    if name == "demo":
        return demo_set(split)
    if is_video_set(name):
        return _named(name, split, places, crop)
    folder = expanded(name.removeprefix("folder:"))
    # Before the plain folder, for which crops of a prepared set would have no labels.
    if is_prepared(folder):
        return _of_split(read_face_manifest(folder, split), split)
    check_finished(folder)
    if name.startswith("folder:") or folder.is_dir():
        return _of_split(folder_set(folder, skip), split)
    raise LpxError(
        f"unknown data set {name!r}",
        f"it is not a folder either; known data sets: {KNOWN}",
        "name one of these; for another set, put face crops into DIR/real and DIR/fake",
        code="not-found",
    )


def is_video_set(name: str) -> bool:
    """Return whether a name is that of a public data set."""
    # A folder of the same name is opened as ./name.
    return name.partition(":")[0] in VIDEO_SETS


def is_crops(name: str) -> bool:
    """Return whether a public data set comes as face crops, and needs no preparation."""
    return name.partition(":")[0] == WITH_FILE


def prepare_command(name: str, split: str, places: DataPlaces, crop: str | None) -> str:
    """Return the command that prepares a split of a data set."""
    words = ["lpx", "data", "prepare", name]
    options = {
        "--data-root": places.data_root,
        "--store": places.store,
        "--split": None if split == "all" else split,
        "--crop": crop,
    }
    for option, value in options.items():
        if value is not None:
            words += [option, str(value)]
    return shlex.join(words)


def _of_split(faces: FaceSet, split: str) -> FaceSet:
    if split == "all" or faces.splits() == ("",):
        return faces
    return faces.select(split=split)


def _named(name: str, split: str, places: DataPlaces, crop: str | None) -> FaceSet:
    if is_crops(name):
        return _crops_in_place(name, split, places)
    store = face_store(places.store)
    prepared = find_prepared(store, name, split, crop)
    if prepared is not None:
        return open_prepared(prepared, split)
    others = [one for one in prepared_sets(store, name) if one.parts(split)]
    if others:
        raise LpxError(
            f"{name} was not prepared with the crop {crop}, which the model was trained on",
            "a detector misjudges crops that are cut in another way; there are:" + listed(others),
            prepare_command(name, split, places, crop or RECIPE),
            code="not-found",
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
        code="not-found",
    )


def _crops_in_place(name: str, split: str, places: DataPlaces) -> FaceSet:
    """Open crops where they are: copying a few hundred thousand files would gain nothing."""
    videos = open_videos(name, root=places.data_root, split=None if split == "all" else split)
    rows = []
    for video in videos.videos:
        for frame in video.frames:
            row = FaceRow(
                frame.relative_to(videos.root).as_posix(),
                video.label,
                video.method,
                video.name,
                video.identities,
                effective_split(video),
                frame_number(frame.stem),
            )
            rows.append(row)
    note = " ".join(filter(None, (videos.note, missing_note(videos.missing))))
    return FaceSet(name, split, videos.crop, make_table(videos.root, rows), note)
