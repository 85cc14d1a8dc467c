"""Open a folder of face crops: `real/` and `fake/`, a `faces.csv`, or images without labels."""

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

# Names of numbered images: "0007", "frame_12", "img-3".
_FRAME = re.compile(r"(?:frame|img|image|face|crop)?[-_ ]?\d+", re.IGNORECASE)
_TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".parquet")


def folder_set(folder: Path, skip: tuple[Path, ...] = ()) -> FaceSet:
    """Open a folder of face crops.

    With a `faces.csv` (see `lpx.data.face_sets.csv`), the faces that it lists, in its order.
    Otherwise all images, in the order of their paths. If there is a `real/` or a `fake/`, in upper
    or lower case, only images below these count: they have that label, and a folder below `fake/`
    is the name of the method. Numbered images in a deeper folder are frames of one video. Without
    `real/` and `fake/`, images have no label. Files that may have been meant, but are left out, are
    counted and named in the set's note.

    Args:
        folder: Folder to open.
        skip: Folders to leave out.

    Raises:
        LpxError: The folder does not exist or holds no images, it or a subfolder cannot be read,
            its `faces.csv` is wrong, or a folder below `real/` or `fake/` has the name of the other
            class.
    """
    if not folder.is_dir():
        state = "is a file, not a folder" if folder.exists() else "does not exist"
        raise LpxError(f"{folder} {state}", "", "name a folder of face crops", code="not-found")
    try:
        listed = sorted(os.listdir(folder))
    except OSError as error:
        raise LpxError(
            f"{folder} cannot be read", error.strerror or str(error), "check the file permissions"
        ) from error
    name = printable(f"folder:{folder}")
    path = find_face_csv(folder)
    if path is not None:
        faces = read_face_csv(path, skip)
        return FaceSet(name, "all", "unknown", faces.table, faces.note)
    try:
        labelled = [one for one in listed if one.lower() in LABELS and is_folder(folder / one)]
    except OSError as error:
        refuse_unreadable(error)
    walked = walk(folder, SUFFIXES, skip, only=labelled or None, refuse=refuse_unreadable)
    if labelled:
        table = make_table(folder, (_labelled_row(folder, file) for file in walked.files))
    else:
        table = make_table(folder, (FaceRow(file, None, "unknown", file) for file in walked.files))
    notes = [note_of(walked.left_out)]
    if labelled:
        notes.append(_beside(folder, [one for one in listed if one not in labelled], skip))
    notes += [_frames_note(table), _tables(listed)]
    note = " ".join(filter(None, notes))
    if not len(table):
        raise LpxError(
            f"{folder} holds no images",
            f"images are files that end in {', '.join(sorted(SUFFIXES))}. {note}".strip(),
            "put face crops there, in real/ and fake/ if their labels are known; "
            "`lpx demo --unpack DIR` writes an example",
            code="not-found",
        )
    return FaceSet(name, "all", "unknown", table, note)


def _labelled_row(folder: Path, file: str) -> FaceRow:
    """Make the row of a file below real/ or fake/."""
    parts = file.split("/")
    label = LABELS[parts[0].lower()]
    method, opposite = "real", frozenset({"fake", "fakes"})
    if label:
        method, opposite = "fake", REAL_WORDS
    if len(parts) > 2:
        inner = parts[1]
        # In real/fakes/ and fake/real/ one of the two names is wrong, and either may be meant.
        if inner.lower() in opposite:
            raise LpxError(
                f"{folder / parts[0] / inner} contradicts itself",
                f"files below {parts[0]}/ are {parts[0].lower()}, but its name is {inner}",
                f"move it out of {parts[0]}/, or rename it",
            )
        if label:
            method = inner
    return FaceRow(file, label, method, _video(parts, label))


def _video(parts: list[str], label: int) -> str:
    """Return the folder of a numbered frame, or the file itself if it is a single picture."""
    # `real/953/0007.png` is a frame of video 953, and not independent of its other frames. Below
    # fake/, the first folder is that of a method, which holds many videos.
    depth = 3 if label == 0 else 4
    if len(parts) >= depth and _FRAME.fullmatch(Path(parts[-1]).stem):
        return "/".join(parts[:-1])
    return "/".join(parts)


def _frames_note(table: FaceTable) -> str:
    """Describe folders that were taken for videos."""
    videos = len(table.columns.video.present())
    if videos == len(table):
        return ""
    return (
        f"Numbered images in a folder of their own are taken for frames of one video: {videos} "
        f"videos and single images in all. If that is wrong, name the videos in {FILE}."
    )


def _beside(folder: Path, names: list[str], skip: Iterable[Path]) -> str:
    """Describe pictures and folders beside real/ and fake/."""
    # Such as a workspace's heat maps.
    skipped = {path.resolve() for path in skip}
    folders, images = [], []
    for name in names:
        path = folder / name
        if os.path.isdir(path):
            if not is_hidden(name) and path.resolve() not in skipped:
                folders.append(f"{name}/")
        elif path.suffix.lower() in SUFFIXES and not is_hidden(name):
            images.append(name)
    beside = [*folders, *images]
    if not beside:
        return ""
    return f"Only real/ and fake/ were searched, but not: {some(beside)}."


def _tables(names: list[str]) -> str:
    """Describe tables that may have been meant as a faces.csv."""
    # Names of hidden files and of spreadsheets' locks begin with "." and "~".
    tables = [name for name in names if name.lower().endswith(_TABLES) and name[0] not in ".~"]
    if not tables:
        return ""
    return f"Not read, as labels are only read from {FILE}: {some(tables)}."
