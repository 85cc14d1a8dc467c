r"""Read `faces.csv`, the labels of a folder's face crops.

The first line names the columns: `file`; `label` (1 or fake, 0 or real, empty if unknown), `method`
("real", or the manipulation), or both; optionally `video`, `identity` (several separated by ";",
the target of a face swap first) and `split`. Without `label` and `method`, a face below `real/` or
`fake/` has the label of that folder. Other columns are ignored, with a note. Paths are relative to
the folder, with "/" or with Windows' "\". Cells are separated by commas, semicolons, tabs or bars,
see `lpx.data.text_table`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from lpx.data.face_sets.table import FaceRow, FaceTable, make_table
from lpx.data.images.decode import SUFFIXES
from lpx.data.text_table import TextTable, read_table
from lpx.data.videos import REAL
from lpx.data.walk import ABSENT, refuse_unreadable, walk
from lpx.data.wording import are, counted, some
from lpx.errors import LpxError

FILE = "faces.csv"
# Label of the faces in a folder of this name.
LABELS = {"real": 0, "fake": 1}
# The columns, with other names that people give them, which are refused instead of ignored.
COLUMNS: dict[str, tuple[str, ...]] = {
    "file": ("filename", "file_name", "file_path", "path", "image", "image_path", "img", "crop"),
    "label": ("labels", "class", "is_fake", "ground_truth", "gt"),
    "method": ("methods", "manipulation", "manipulation_type", "generator", "attack"),
    "video": ("videos", "video_id", "video_name", "vid", "clip", "clip_id"),
    "identity": ("identities", "identity_id", "person", "person_id", "people", "subject"),
    "split": ("splits", "subset", "set", "partition"),
}
ADVICE = "save it as CSV in UTF-8"
_CELLS = {**LABELS, "0": 0, "1": 1, "0.0": 0, "1.0": 1}
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}

# Names for faces that were not manipulated; in lower case.
REAL_WORDS = frozenset(
    {"real", "reals", "original", "originals", "pristine", "authentic", "genuine", "bonafide"}
)
# Words that say nothing about manipulation.
_NEUTRAL = REAL_WORDS | {
    *("sequence", "sequences", "video", "videos", "frame", "frames", "image", "images"),
    *("face", "faces", "crop", "crops", "youtube", "actors", "celeb", "c", "raw", "data"),
}
# FaceForensics++ names its originals by their source; in other sets, fakes may come from there.
_SOURCES = frozenset({"youtube", "actors"})


@lru_cache
def means_real(method: str) -> bool | None:
    """Return whether the name of a method stands for faces that were not manipulated.

    That is so if its last word says it, as in `YouTube-real`, or if its first does and the others
    say nothing about manipulation, as in `original_sequences`.

    Returns:
        None if the name is ambiguous, such as `Real-ESRGAN` or `not_original`.
    """
    # Separate words written together: "CelebReal".
    apart = re.sub(r"(?<=[a-z])(?=(Real|Original)s?$)", " ", method)
    words = re.findall(r"[^\W\d_]+", apart.lower())
    if " ".join(words) in {"bona fide", *_SOURCES}:
        return True
    if not REAL_WORDS.intersection(words):
        return False
    if not {"fake", "fakes", "not", "non", "un", "to"}.isdisjoint(words):
        return None
    first = words[0] in REAL_WORDS and _NEUTRAL.issuperset(words[1:])
    return True if first or words[-1] in REAL_WORDS else None


def find_face_csv(folder: Path) -> Path | None:
    """Find the `faces.csv` of a folder, in upper or lower case; None if there is none.

    Raises:
        LpxError: There are several, or it is not a file.
    """
    # File systems of Windows and macOS ignore case by default, and people copy from there.
    names = sorted(name for name in os.listdir(folder) if name.lower() == FILE)
    if not names:
        return None
    if len(names) > 1:
        raise LpxError(
            f"{folder} holds {' and '.join(names)}",
            "it would not be clear which one counts",
            "remove one of them",
        )
    path = folder / names[0]
    if not path.is_file():
        raise LpxError(
            f"{path} cannot be read",
            "it is a folder, or a broken link",
            "replace it by a file, or remove it",
        )
    return path


class ListedFaces(NamedTuple):
    """The faces of a `faces.csv`.

    Attributes:
        table: Faces whose files exist, in the order of the file.
        note: Note that counts and names what is left out or ignored; "" if nothing is.
    """

    table: FaceTable
    note: str


def read_face_csv(path: Path, skip: Iterable[Path] = ()) -> ListedFaces:
    """Read a `faces.csv`.

    Args:
        path: The file; paths in it are relative to its folder.
        skip: Folders whose images need not be listed.

    Raises:
        LpxError: A file leaves the folder, is listed twice or has contradictory or unknown labels
            (the line is named); no listed file exists; or the table cannot be read.
    """
    folder = path.parent
    table = read_table(path, COLUMNS, ("file",), advice=ADVICE)
    reading = _Reading(path, folder, table)
    for row in table.rows:
        reading.take(row.line, row.cells)
    if not reading.rows:
        what, why = f"{path} lists no faces", ""
        if reading.missing:
            what = f"{path} lists no file that exists"
            why = f"the first of {len(reading.missing)} is {folder / reading.missing[0]}"
        raise LpxError(what, why, f"name files relative to the folder that {path.name} is in")
    return ListedFaces(make_table(folder, reading.rows), " ".join(reading.notes(skip)))


class _Label(NamedTuple):
    """Label and method of a row."""

    label: int | None
    method: str


@dataclass
class _Reading:
    """A `faces.csv` while it is read."""

    path: Path
    folder: Path
    table: TextTable
    rows: list[FaceRow] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)
    taken_for_real: dict[str, None] = field(default_factory=dict)
    against_folder: list[str] = field(default_factory=list)

    def take(self, line: int, cells: Mapping[str, str]) -> None:
        where = f"{self.path} line {line}"
        file = inside_folder(where, cells["file"])
        if file in self.seen:
            raise LpxError(
                f"{where} names {file} again",
                f"it is on line {self.seen[file]}, too, and would count twice",
                "remove one of the lines",
            )
        self.seen[file] = line
        label, method = self.label(where, file, cells)
        # Also tells whether the file exists, in one system call for each of a million rows.
        size_bytes = _size_of(self.folder / file)
        if size_bytes is not None:
            video, split = cells.get("video") or file, split_of(cells)
            people = tuple(filter(None, map(str.strip, cells.get("identity", "").split(";"))))
            self.rows.append(
                FaceRow(file, label, method, video, people, split, -1, 0, 0, size_bytes)
            )
            return
        if not (self.table.certain or file.isascii()):
            raise LpxError(
                f"{where} names {file}, which does not exist",
                f"{self.path.name} is not in UTF-8, and was read as Windows-1252, which is "
                "probably wrong",
                ADVICE,
            )
        self.missing.append(file)

    def label(self, where: str, file: str, cells: Mapping[str, str]) -> _Label:
        """Return label and method of a row."""
        top, slash, _ = file.partition("/")
        of_folder = LABELS.get(top.lower()) if slash else None
        if not {"label", "method"}.intersection(cells):
            return _Label(of_folder, _method_of(of_folder))
        cell, method = cells.get("label", ""), cells.get("method", "")
        label: int | None = None
        if cell:
            if cell.lower() not in _CELLS:
                raise LpxError(
                    f"{where} has the label {cell!r}",
                    "a label is 1 or fake, 0 or real, or empty if unknown",
                    "correct the line",
                )
            label = _CELLS[cell.lower()]
        if method:
            label = self.implied(where, cell, label, method)
        # The table wins over the folder, but the contradiction is worth a note.
        if None not in (label, of_folder) and label != of_folder:
            self.against_folder.append(file)
        if label == 0 or not method:
            return _Label(label, _method_of(label))
        return _Label(label, method)

    def implied(self, where: str, cell: str, label: int | None, method: str) -> int:
        """Return the label of a row with a method, and check that the two agree."""
        real = means_real(method)
        # "youtube" is sure to mean real in FaceForensics++ only, so a label takes precedence.
        if label is not None and method.lower() in _SOURCES:
            return label
        if real is None:
            if label is None:
                raise LpxError(
                    f"{where} has the method {method!r}",
                    "the name may stand for real or for fake faces",
                    "add a column label: 1 or fake, 0 or real",
                )
            return label
        if label not in (None, int(not real)):
            raise LpxError(
                f"{where} has the label {cell!r} and the method {method!r}",
                "the method of a real face is real, and that of a fake is not",
                "correct the line",
            )
        if real and method.lower() != REAL:
            self.taken_for_real[method] = None
        return int(not real)

    def notes(self, skip: Iterable[Path]) -> list[str]:
        """Describe what is left out, ignored or surprising, a sentence each."""
        notes, name = [], self.path.name
        if self.table.unknown:
            notes.append(f"{name}: columns ignored: {', '.join(self.table.unknown)}.")
        if not self.table.certain:
            notes.append(f"{name} is not in UTF-8; it was read as Windows-1252.")
        if self.taken_for_real:
            notes.append(f"{name}: methods taken for real: {', '.join(self.taken_for_real)}.")
        if self.missing:
            notes.append(
                f"{len(self.missing)} of {len(self.seen)} files that {name} lists do not exist and "
                f"are left out: {some(self.missing)}."
            )
        if self.against_folder:
            notes.append(
                f"{len(self.against_folder)} of {len(self.seen)} files have another label than "
                f"the folder real/ or fake/ that they are in: {some(self.against_folder)}."
            )
        nowhere = [row.file for row in self.rows if not row.split]
        if nowhere and len(nowhere) < len(self.rows):
            notes.append(
                f"{len(nowhere)} of {len(self.rows)} faces name no split and are in none of the "
                f"splits: {some(nowhere)}."
            )
        on_disk = walk(self.folder, SUFFIXES, skip).files
        unlisted = [file for file in on_disk if file not in self.seen]
        if unlisted:
            notes.append(
                f"{counted(len(unlisted), 'image')} that {name} does not list "
                f"{are(len(unlisted))} left out: "
                f"{some(unlisted)}."
            )
        return notes


def _size_of(path: Path) -> int | None:
    """Return the size of a file in bytes; None if the file does not exist.

    Raises:
        LpxError: It is below a folder that cannot be read.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        if error.errno in ABSENT:
            return None
        refuse_unreadable(error)


def split_of(cells: Mapping[str, str]) -> str:
    """Return the split of a row: "train", "val" or "test" for their usual names, else the cell."""
    split = cells.get("split", "")
    return _SPLITS.get(split.lower(), split)


def _method_of(label: int | None) -> str:
    return {0: REAL, 1: "fake", None: "unknown"}[label]


def inside_folder(where: str, name: str) -> str:
    r"""Normalise a listed path to "/".

    Args:
        where: File and line that list it, for errors.
        name: The path, with "/" or "\".

    Raises:
        LpxError: The path is empty, or leaves the folder.
    """
    parts = [part for part in re.split(r"[/\\]", name) if part != "."]
    leaves = name[:1] in ("/", "\\") or re.match("[A-Za-z]:", name) or ".." in parts
    if leaves or not any(parts):
        raise LpxError(
            f"{where} names the file {name!r}",
            "files are below the folder of faces.csv: no absolute path, no .., and no empty name",
            "put the file below the folder, and name it relative to that",
        )
    return "/".join(filter(None, parts))
