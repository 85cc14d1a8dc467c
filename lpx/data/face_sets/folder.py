"""A folder of face crops: `real/` and `fake/` below it, a `faces.csv`, or images without labels."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from lpx.data.face_sets.csv import FILE, LABELS, REAL_WORDS, find_face_csv, read_face_csv
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.face_sets.table import FaceRow, FaceTable, make_table
from lpx.data.images.decode import SUFFIXES
from lpx.data.walk import is_folder, is_hidden, note_of, refuse_unreadable, walk
from lpx.data.wording import printable, some
from lpx.errors import LpxError

_FRAME = re.compile(r"(?:frame|img|image|face|crop)?[-_ ]?\d+", re.IGNORECASE)
_TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".parquet")


def folder_set(folder: Path, skip: tuple[Path, ...] = ()) -> FaceSet:
    """The faces that `faces.csv` lists, in its order; else all images below, in order of paths.

    Without a `faces.csv` (see `lpx.data.face_sets.csv`): where there is a `real/` or a `fake/`, in
    any case, only images below these count: they are labelled so, and a folder below `fake/` names
    the method. Numbered images in a deeper folder are frames of one video. Without these two,
    images have no label. What may have been meant and is left out is
    counted and named in the set's note.

    Args:
        folder: Where to look.
        skip: Folders not to look into, where they are below.

    Raises:
        LpxError: The folder does not exist or holds no images, it or a folder below it cannot be
            read, its `faces.csv` is wrong, or a folder below `real/` or `fake/` has the name of the
            other class.
    """
    if not folder.is_dir():
        found = "is a file, not a folder" if folder.exists() else "does not exist"
        raise LpxError(f"{folder} {found}", "", "name a folder of face crops")
    try:
        listed = sorted(os.listdir(folder))
    except OSError as error:
        raise LpxError(
            f"{folder} cannot be read", error.strerror or str(error), "check the file permissions"
        ) from error
    name = printable(f"folder:{folder}")
    if (path := find_face_csv(folder)) is not None:
        table, note = read_face_csv(path, skip)
        return FaceSet(name, "all", "unknown", table, note)
    try:
        labelled = [one for one in listed if one.lower() in LABELS and is_folder(folder / one)]
    except OSError as error:
        refuse_unreadable(error)
    walked = walk(folder, SUFFIXES, skip, only=labelled or None, refuse=refuse_unreadable)
    table = make_table(folder, (_row(folder, file, bool(labelled)) for file in walked.files))
    notes = [note_of(walked.left_out)]
    if labelled:
        notes.append(_beside(folder, [one for one in listed if one not in labelled], skip))
    notes += [_frames_note(table), _tables(listed)]
    note = " ".join(filter(None, notes))
    if not len(table):
        endings = f"images are files that end in {', '.join(sorted(SUFFIXES))}"
        raise LpxError(
            f"{folder} holds no images",
            f"{endings}. {note}" if note else endings,
            "put face crops there, in real/ and fake/ where their labels are known; "
            "`lpx demo --unpack DIR` writes an example",
        )
    return FaceSet(name, "all", "unknown", table, note)


def _row(folder: Path, file: str, labelled: bool) -> FaceRow:
    parts = file.split("/")
    if not labelled:
        return FaceRow(file, None, "unknown", file)
    label = LABELS[parts[0].lower()]
    method = parts[1] if label and len(parts) > 2 else ("real", "fake")[label]
    inner = parts[1].lower() if len(parts) > 2 else ""
    if inner in (REAL_WORDS if label else ("fake", "fakes")):
        raise LpxError(
            f"{folder / parts[0] / parts[1]} contradicts itself",
            f"what is below {parts[0]}/ is {parts[0].lower()}, and {parts[1]} says otherwise",
            f"move it out of {parts[0]}/, or rename it",
        )
    return FaceRow(file, label, method, _video(parts, label))


def _video(parts: list[str], label: int) -> str:
    """The folder of numbered frames that a file lies in; else the file, a picture by itself.

    `real/953/0007.png` is a frame of video 953 and depends on the other frames of it. The folder
    below `fake/` is that of a method, which holds many videos.
    """
    frames_below = 3 if label == 0 else 4
    if len(parts) >= frames_below and _FRAME.fullmatch(Path(parts[-1]).stem):
        return "/".join(parts[:-1])
    return "/".join(parts)


def _frames_note(table: FaceTable) -> str:
    """A note of folders that were taken for videos."""
    videos = len(table.columns.video.present())
    if videos == len(table):
        return ""
    return (
        f"Numbered images in a folder of their own are taken for frames of one video: {videos} "
        f"videos and single images in all. Where that is wrong, name the videos in {FILE}."
    )


def _beside(folder: Path, names: list[str], skip: Iterable[Path]) -> str:
    """A note of pictures beside real/ and fake/, of which a workspace's heat maps are none."""
    skipped = {path.resolve() for path in skip}
    folders, images = [], []
    for name in names:
        path = folder / name
        if os.path.isdir(path):
            if not is_hidden(name) and path.resolve() not in skipped:
                folders.append(f"{name}/")
        elif path.suffix.lower() in SUFFIXES and not is_hidden(name):
            images.append(name)
    found = [*folders, *images]
    if not found:
        return ""
    return f"Only real/ and fake/ were searched, not what is beside them: {some(found)}."


def _tables(names: list[str]) -> str:
    """A note of tables that may say what a faces.csv would."""
    found = [name for name in names if name.lower().endswith(_TABLES) and name[0] not in ".~"]
    if not found:
        return ""
    return f"Not read, as labels are read from {FILE} alone: {some(found)}."
