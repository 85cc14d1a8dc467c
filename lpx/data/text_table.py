"""Read tables from text files of any program, without ignoring anything silently.

The first line names the columns. Cells are separated by commas, semicolons, tabs or bars. Blank
lines, lines that begin with "#", and Excel's "sep=;" are not rows.
"""

from __future__ import annotations

import codecs
import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lpx.data.wording import counted
from lpx.errors import LpxError
from lpx.workspace import read_regular

# Maximum size of a table, bytes; a million rows take about 60 MiB.
MAX_TABLE_BYTES = 256 << 20
# Maximum length of a line of a table.
MAX_LINE_CHARACTERS = 1 << 20
# Delimiters, and their names in messages.
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
# Written into empty cells by pandas, databases and others.
NOTHING = frozenset({"nan", "NaN", "None", "NULL", "null", "<NA>", "N/A", "n/a"})
# Characters of a line that an error repeats.
_SHOWN = 80
# Similarity, in [0, 1], from which on an unknown column is taken for a misspelt one.
_SIMILAR = 0.8


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        line: Line of the file that the row ends on, from 1.
        cells: Cells by column, without outer blanks; "" for an empty cell.
    """

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class TextTable:
    """A table.

    Attributes:
        columns: Column names in lower case, without outer blanks.
        rows: Rows in the order of the file.
        unknown: Columns that the caller does not read.
        certain: Whether the encoding is known; otherwise the file was read as Windows-1252.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    unknown: tuple[str, ...] = ()
    certain: bool = True


class _Text(NamedTuple):
    """Text of a file; `certain` if its encoding is known."""

    text: str
    certain: bool


class _Head(NamedTuple):
    """The line that names the columns: its number, the delimiter, and the names."""

    line: int
    delimiter: str
    columns: list[str]


def decode(data: bytes) -> str:
    """Decode UTF-8, or UTF-16 or UTF-32 that has a byte-order mark or is mostly in Latin letters.

    Returns:
        The text without a byte-order mark.

    Raises:
        UnicodeDecodeError: The data is in another encoding.
    """
    # Windows PowerShell's `>` writes UTF-16. UTF-32 comes first, as its mark begins with UTF-16's.
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return data.decode("utf-32")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    # UTF-16 without a mark: every second byte of Latin letters is 0.
    start = data[:4096]
    even, odd = start[::2].count(0), start[1::2].count(0)
    if len(start) > 3 and not len(data) % 2 and max(even, odd) > len(start) // 4:
        return data.decode("utf-16-be" if even > odd else "utf-16-le")
    return data.decode("utf-8-sig")


def read_table(
    path: Path,
    known: Mapping[str, Sequence[str]],
    needed: Sequence[str] = (),
    *,
    advice: str,
    max_bytes: int = MAX_TABLE_BYTES,
) -> TextTable:
    """Read a table.

    Args:
        path: The file.
        known: Columns that the caller reads, in lower case, each with other names that people
            give it.
        needed: Columns that must be there.
        advice: What to do about a damaged file, for errors.
        max_bytes: Maximum size of the file.

    Raises:
        LpxError: The file cannot be read; a needed column is missing, or a known one has another
            name or occurs twice; or a row has more or fewer cells than there are columns. The line
            is named.
    """
    text, certain = _read_text(path, advice, max_bytes)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE_CHARACTERS:
            raise LpxError(
                f"{path} line {number} has {len(line)} characters",
                f"the limit is {MAX_LINE_CHARACTERS}",
                advice,
            )
    head = _read_head(lines, known)
    columns = head.columns
    _check_columns(path, head, known, needed)
    rows = []
    for number, cells in _cells(path, lines, head, advice):
        # Spreadsheets pad rows, and the line of names, with empty cells.
        while len(cells) > len(columns) and not cells[-1]:
            cells.pop()
        # Columns that nobody reads may be missing at the end.
        if not set(columns[len(cells) :]).intersection(known):
            cells += [""] * (len(columns) - len(cells))
        if len(cells) != len(columns):
            raise LpxError(
                f"{path} line {number} has {counted(len(cells), 'cell')} for "
                f"{len(columns)} columns: {_shown(head.delimiter.join(cells))}",
                f"the columns are {', '.join(columns)}; a cell that contains a "
                f'{_DELIMITERS.get(head.delimiter, "delimiter")} has to be in "quotes"',
                advice,
            )
        rows.append(Row(number, dict(zip(columns, cells, strict=True))))
    unknown = tuple(name for name in columns if name and name not in known)
    return TextTable(tuple(columns), tuple(rows), unknown, certain)


def _read_text(path: Path, advice: str, max_bytes: int) -> _Text:
    try:
        data = read_regular(path, limit=max_bytes)
    except OSError as error:
        raise LpxError(f"{path} cannot be read", error.strerror or str(error), advice) from error
    certain = True
    try:
        text = decode(data)
    except UnicodeDecodeError as error:
        # Excel on Windows saves CSV in the system's code page, often Windows-1252, where nearly all
        # bytes have a meaning: the text may be wrong, and the caller has to say so.
        certain = False
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            line = data[: error.start].count(b"\n") + 1
            raise LpxError(
                f"{path} line {line} cannot be read", f"it is not UTF-8: {error}", advice
            ) from error
    place = text.find("\0")
    if place >= 0:
        line = text.count("\n", 0, place) + 1
        raise LpxError(f"{path} line {line} cannot be read", "it contains a NUL character", advice)
    return _Text(text, certain)


def _read_head(lines: list[str], known: Mapping[str, Sequence[str]]) -> _Head:
    """Find the line that names the columns, and its delimiter."""
    delimiters = tuple(_DELIMITERS)
    number = 1
    for number, line in enumerate(lines, start=1):
        if line.lower().startswith("sep=") and len(line.rstrip()) <= 5:
            delimiters = (line[4:5] or "\t",)
            continue
        if not line.strip():
            continue
        # Some programs write the names of columns as a comment.
        names = line.lstrip().removeprefix("#")
        best, most = _Head(number, delimiters[0], []), (-1, -1)
        for delimiter in delimiters:
            columns = _names(names, delimiter)
            recognised = sum(name in known for name in columns)
            if (recognised, len(columns)) > most:
                best, most = _Head(number, delimiter, columns), (recognised, len(columns))
        if names == line.lstrip() or most[0] > 1:
            return best
    return _Head(number, delimiters[0], [])


def _names(line: str, delimiter: str) -> list[str]:
    try:
        cells = next(
            csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True), []
        )
    except csv.Error:
        return []
    names = [cell.strip().lower() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def _check_columns(
    path: Path, head: _Head, known: Mapping[str, Sequence[str]], needed: Sequence[str]
) -> None:
    where = f"{path} line {head.line}"
    columns = head.columns
    # Unknown columns, with the known ones that they seem to be.
    meant: dict[str, str | None] = {}
    for name in columns:
        if name and columns.count(name) > 1:
            raise LpxError(
                f"{where} names the column {name!r} more than once",
                "it would not be clear which one counts",
                "rename or remove one of them",
            )
        if name and name not in known:
            meant[name] = _meant(name, known)
    absent = [name for name in needed if name not in columns]
    if absent:
        fix = "put the names of the columns into the first line"
        for name, column in meant.items():
            if column in absent:
                fix = f"rename {name} to {column}"
                break
        raise LpxError(
            f"{where} has no column {', '.join(absent)}",
            f"the first line names the columns, among them {', '.join(known)}; found: "
            + (_shown(", ".join(columns)) or "nothing"),
            fix,
        )
    for name, column in meant.items():
        if column and column not in columns:
            raise LpxError(
                f"{where} names the column {name!r}, which lpx does not know",
                f"it looks like the column {column}, and would be ignored",
                f"rename it to {column}; if it means something else, give it another name",
            )


def _meant(name: str, known: Mapping[str, Sequence[str]]) -> str | None:
    """Return the known column that a name probably means; None if there is none."""
    plain = name.replace("-", "_").replace(" ", "_")
    for column, others in known.items():
        if plain == column or plain in others:
            return column
    near = difflib.get_close_matches(plain, known, 1, _SIMILAR)
    return near[0] if near else None


def _cells(
    path: Path, lines: list[str], head: _Head, advice: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the last line and the cells of each row."""
    below = (f"{line}\n" for line in lines[head.line :])
    # `strict` refuses a quote that never ends, which would swallow all lines after it.
    # `skipinitialspace` allows a blank before a quote, as before any other cell.
    reader = csv.reader(below, delimiter=head.delimiter, skipinitialspace=True, strict=True)
    started = head.line + 1
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            # A "#" in a later line of a cell in quotes does not make the row a comment.
            comment = lines[started - 1].lstrip().startswith("#")
            started = head.line + reader.line_num + 1
            if any(stripped) and not comment:
                yield started - 1, ["" if cell in NOTHING else cell for cell in stripped]
    except csv.Error as error:
        raise LpxError(f"{path} line {started} cannot be read", str(error), advice) from error


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
