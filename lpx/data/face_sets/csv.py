r"""`faces.csv`: the labels of a folder's face crops, as people write them down.

The first line names the columns: `file`; and `label` (1 or fake, 0 or real, nothing where not
known) or `method` ("real", or the manipulation) or both; optionally `video`, `identity` (several
with ";" between, the one whose head it is first) and `split`. Without `label` and `method` a face
below `real/` or `fake/` has the label of that folder. Other columns are ignored, with a note.
Paths are relative to the folder, with "/" or with Windows' "\" between their parts. Commas,
semicolons, tabs or bars separate the cells, see `lpx.data.text_table`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from lpx.data.face_sets.table import FaceRow, FaceTable, make_table
from lpx.data.images.decode import SUFFIXES
from lpx.data.text_table import TextTable, read_table
from lpx.data.videos import REAL
from lpx.data.walk import ABSENT, refuse_unreadable, walk
from lpx.data.wording import counted, some
from lpx.errors import LpxError

FILE = "faces.csv"
LABELS = {"real": 0, "fake": 1}
"""What a folder's name says of the faces in it."""
COLUMNS: dict[str, tuple[str, ...]] = {
    "file": ("filename", "file_name", "file_path", "path", "image", "image_path", "img", "crop"),
    "label": ("labels", "class", "is_fake", "ground_truth", "gt"),
    "method": ("methods", "manipulation", "manipulation_type", "generator", "attack"),
    "video": ("videos", "video_id", "video_name", "vid", "clip", "clip_id"),
    "identity": ("identities", "identity_id", "person", "person_id", "people", "subject"),
    "split": ("splits", "subset", "set", "partition"),
}
"""The columns, and what people call them; a column of such a name is refused, not passed over."""
ADVICE = "save it as CSV in UTF-8"
_CELLS = {**LABELS, "0": 0, "1": 1, "0.0": 0, "1.0": 1}
_SPLITS = {
    **{name: name for name in ("train", "val", "test")},
    **{"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"},
}

REAL_WORDS = frozenset(
    {"real", "reals", "original", "originals", "pristine", "authentic", "genuine", "bonafide"}
)
"""What people call faces that nobody manipulated; in lower case."""
_NEUTRAL = REAL_WORDS | {
    *("sequence", "sequences", "video", "videos", "frame", "frames", "image", "images"),
    *("face", "faces", "crop", "crops", "youtube", "actors", "celeb", "c", "raw", "data"),
}
_SOURCES = frozenset({"youtube", "actors"})
"""FaceForensics++ names its originals by where they come from; elsewhere fakes may come from it."""


@lru_cache
def means_real(method: str) -> bool | None:
    """Whether a method's name says that nobody manipulated the face.

    It does where its last word does, as in `YouTube-real`, or its first and the others only say
    where from, as in `original_sequences`.

    Returns:
        None where it could mean either, as of `Real-ESRGAN` and `not_original`.
    """
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
    """The folder's `faces.csv`, in whatever case its name is written; None where there is none.

    Raises:
        LpxError: There are several, or it is not a file.
    """
    found = sorted(name for name in os.listdir(folder) if name.lower() == FILE)
    if not found:
        return None
    if len(found) > 1:
        raise LpxError(
            f"{folder} holds {' and '.join(found)}",
            "it would not be clear which one counts",
            "remove one of them",
        )
    path = folder / found[0]
    if not path.is_file():
        raise LpxError(
            f"{path} cannot be read",
            "it is a folder, or a link to nothing",
            "put a file in its place, or remove it",
        )
    return path


def read_face_csv(path: Path, skip: Iterable[Path] = ()) -> tuple[FaceTable, str]:
    """Read a `faces.csv`.

    Args:
        path: Its folder is the one that files are relative to.
        skip: Folders whose images nobody misses in it.

    Returns:
        The faces whose files exist, in its order, and a note that counts and names what is left
        out or ignored; "" where nothing is.

    Raises:
        LpxError: A file leaves the folder, stands there twice or has contradictory or unknown
            labels (the line is named); no listed file exists; or it cannot be read as a table.
    """
    folder = path.parent
    table = read_table(path, COLUMNS, ("file",), advice=ADVICE)
    reading = _Reading(path, folder, table)
    for row in table.rows:
        reading.take(row.line, row.cells)
    if not reading.rows:
        missing = reading.missing
        raise LpxError(
            f"{path} lists no file that exists" if missing else f"{path} lists no faces",
            f"the first of {len(missing)} is {folder / missing[0]}" if missing else "",
            f"name files relative to the folder that {path.name} is in",
        )
    return make_table(folder, reading.rows), " ".join(reading.notes(skip))


@dataclass
class _Reading:
    """A `faces.csv` as far as it was read."""

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
                f"it stands on line {self.seen[file]} already, and would count twice",
                "remove one of the lines",
            )
        self.seen[file] = line
        label, method = self.label(where, file, cells)
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
                "the file is not in UTF-8; it was read as Windows-1252, which is probably wrong",
                ADVICE,
            )
        self.missing.append(file)

    def label(self, where: str, file: str, cells: Mapping[str, str]) -> tuple[int | None, str]:
        """The label and the method of a row."""
        of_folder = LABELS.get(file.partition("/")[0].lower()) if "/" in file else None
        if not {"label", "method"}.intersection(cells):
            return of_folder, _method_of(of_folder)
        said, method = cells.get("label", ""), cells.get("method", "")
        if said and said.lower() not in _CELLS:
            raise LpxError(
                f"{where} has the label {said!r}",
                "a label is 1 or fake, 0 or real, or empty where it is not known",
                "correct the line",
            )
        label = _CELLS[said.lower()] if said else None
        if method:
            label = self.implied(where, said, label, method)
        if None not in (label, of_folder) and label != of_folder:
            self.against_folder.append(file)
        if label == 0 or not method:
            return label, _method_of(label)
        return label, method

    def implied(self, where: str, said: str, label: int | None, method: str) -> int:
        """The label of a row that names a method."""
        real = means_real(method)
        if label is not None and method.lower() in _SOURCES:
            return label
        if real is None:
            if label is None:
                raise LpxError(
                    f"{where} has the method {method!r}",
                    "its name does not tell whether it means real faces",
                    "add a column label: 1 or fake, 0 or real",
                )
            return label
        if label not in (None, int(not real)):
            raise LpxError(
                f"{where} has the label {said!r} and the method {method!r}",
                "the method of a real face is real, and that of a fake is not",
                "correct the line",
            )
        if real and method.lower() != REAL:
            self.taken_for_real[method] = None
        return int(not real)

    def notes(self, skip: Iterable[Path]) -> list[str]:
        notes, name = [], self.path.name
        if self.table.unknown:
            notes.append(f"{name}: columns ignored: {', '.join(self.table.unknown)}.")
        if not self.table.certain:
            notes.append(f"{name} is not in UTF-8; it was read as Windows-1252.")
        if self.taken_for_real:
            notes.append(f"{name}: methods that count as real: {', '.join(self.taken_for_real)}.")
        if self.missing:
            notes.append(
                f"{len(self.missing)} of {len(self.seen)} files that {name} lists do not exist and "
                f"are left out: {some(self.missing)}."
            )
        if self.against_folder:
            notes.append(
                f"{len(self.against_folder)} of {len(self.seen)} files are labelled otherwise than "
                f"the folder real/ or fake/ that they are in: {some(self.against_folder)}."
            )
        nowhere = [row.file for row in self.rows if not row.split]
        if nowhere and len(nowhere) < len(self.rows):
            notes.append(
                f"{len(nowhere)} of {len(self.rows)} faces name no split and are in none of the "
                f"splits: {some(nowhere)}."
            )
        on_disk = walk(self.folder, SUFFIXES, skip).files
        if unlisted := [file for file in on_disk if file not in self.seen]:
            are = "is" if len(unlisted) == 1 else "are"
            notes.append(
                f"{counted(len(unlisted), 'image')} that {name} does not list {are} left out: "
                f"{some(unlisted)}."
            )
        return notes


def _size_of(path: Path) -> int | None:
    """Size of a file in bytes; None where there is none.

    Raises:
        LpxError: Nobody can tell, as it is below a folder that cannot be read.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        if error.errno in ABSENT:
            return None
        refuse_unreadable(error)


def split_of(cells: Mapping[str, str]) -> str:
    """The split of a row: "train", "val" or "test" by whatever usual name, or as it is written."""
    split = cells.get("split", "")
    return _SPLITS.get(split.lower(), split)


def _method_of(label: int | None) -> str:
    return {0: REAL, 1: "fake", None: "unknown"}[label]


def inside_folder(where: str, name: str) -> str:
    r"""A listed path with "/" between its parts.

    Args:
        where: The file and line that lists it, for errors.
        name: The path, with "/" or "\" between its parts.

    Raises:
        LpxError: It is empty or leaves the folder.
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
