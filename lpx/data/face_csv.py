r"""`faces.csv`: the labels of a folder's face crops, as people write them down.

The first line names the columns: `file`, and `label` (1 or fake, 0 or real, nothing where not
known) or `method` ("real", or the manipulation) or both; optionally `video`, `identity` (several
with ";" between, the one whose head it is first) and `split`. Other columns are ignored. Paths are
relative to the folder, with "/" or with Windows' "\" between their parts.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from lpx.data.face_set import ImageFile
from lpx.data.face_table import FaceRow, FaceTable, make_table
from lpx.errors import LpxError

FILE = "faces.csv"
LABELS = {"0": 0, "real": 0, "1": 1, "fake": 1, "": None}
Line = tuple[int, dict[str, str]]
"""A row: the line of the file it ends on, and its cells by column."""


def has_labels(path: Path) -> bool:
    """Whether the file exists and has a column `label` or `method`.

    Raises:
        LpxError: It cannot be read.
    """
    return path.is_file() and not {"label", "method"}.isdisjoint(_columns(path))


def read_face_csv(folder: Path) -> tuple[FaceTable, str]:
    """Read the `faces.csv` of a folder.

    Returns:
        The faces whose files exist, in its order, and a note that counts and names those whose
        files do not; "" where all do.

    Raises:
        LpxError: A file leaves the folder, stands there twice or has contradictory or unknown
            labels (the line is named); no listed file exists; or it is no CSV.
    """
    path = folder / FILE
    if "file" not in _columns(path):
        raise LpxError(
            f"{path} has no column file",
            "the first line names the columns: file, label or method, optionally video, identity "
            "and split",
            "add the column",
        )
    rows: list[FaceRow] = []
    missing: list[str] = []
    seen: dict[str, int] = {}
    for number, cells in _lines(path):
        row = _row(f"{path} line {number}", folder, cells)
        if row.file in seen:
            raise LpxError(
                f"{path} line {number} names {row.file} again",
                f"it stands on line {seen[row.file]} already, and would count twice",
                "remove one of the lines",
            )
        seen[row.file] = number
        if row.size_bytes < 0:
            missing.append(row.file)
        else:
            rows.append(row)
    if not rows:
        raise LpxError(
            f"{path} lists no file that exists" if missing else f"{path} lists no faces",
            f"the first of {len(missing)} is {folder / missing[0]}" if missing else "",
            "name files relative to the folder that faces.csv lies in",
        )
    return make_table(folder, rows), _note(missing, len(seen))


def _columns(path: Path) -> list[str]:
    return list(next((cells for _, cells in _cells(path)), ()))


def _lines(path: Path) -> Iterator[Line]:
    lines = _cells(path)
    columns = next(lines)[1]
    for number, cells in lines:
        if cells:
            yield number, dict(zip(columns, cells, strict=False))


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Cells per line, stripped; the first line's in lower case."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            for first, cells in enumerate(reader):
                stripped = [cell.strip() for cell in cells]
                yield reader.line_num, [c.lower() for c in stripped] if not first else stripped
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise LpxError(f"{path} cannot be read", str(error), "save it as CSV in UTF-8") from error


def _row(where: str, folder: Path, cells: dict[str, str]) -> FaceRow:
    file = _inside(where, cells.get("file", ""))
    label, method = _label(where, cells)
    return FaceRow(
        file=file,
        label=label,
        method=method,
        video=cells.get("video") or file,
        identities=tuple(filter(None, map(str.strip, cells.get("identity", "").split(";")))),
        split=cells.get("split", ""),
        size_bytes=ImageFile(folder / file).size_bytes(),
    )


def _inside(where: str, name: str) -> str:
    parts = [part for part in re.split(r"[/\\]", name) if part != "."]
    leaves = name[:1] in ("/", "\\") or re.match("[A-Za-z]:", name) or ".." in parts
    if leaves or not any(parts):
        raise LpxError(
            f"{where} names the file {name!r}",
            "files lie below the folder of faces.csv: no absolute path, no .., and no empty name",
            "put the file below the folder, and name it relative to that",
        )
    return "/".join(filter(None, parts))


def _label(where: str, cells: dict[str, str]) -> tuple[int | None, str]:
    said, method = cells.get("label", ""), cells.get("method", "")
    if said.lower() not in LABELS:
        raise LpxError(
            f"{where} has the label {said!r}",
            "a label is 1 or fake, 0 or real, or empty where it is not known",
            "mend the line",
        )
    label = LABELS[said.lower()]
    if not method:
        return label, {0: "real", 1: "fake", None: "unknown"}[label]
    implied = 0 if method.lower() == "real" else 1
    if label not in (None, implied):
        raise LpxError(
            f"{where} has the label {said!r} and the method {method!r}",
            "the method of a real face is real, and that of a fake is not",
            "mend the line",
        )
    return implied, "real" if implied == 0 else method


def _note(missing: list[str], count: int) -> str:
    if not missing:
        return ""
    more = f" and {len(missing) - 3} more" * (len(missing) > 3)
    return (
        f"{len(missing)} of {count} files that {FILE} lists do not exist and are left out: "
        f"{', '.join(missing[:3])}{more}."
    )
