"""Tables in text files, whatever program wrote them: nothing in them is ignored silently.

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

from lpx.errors import LpxError
from lpx.workspace import read_regular

_DELIMITERS = (",", ";", "\t", "|")
MAX_TABLE_BYTES = 256 << 20
"""Size of a table, bytes: a million rows take some 60 MiB."""
MAX_LINE_CHARACTERS = 1 << 20
"""Length of a line of a table."""
_NOTHING = frozenset({"nan", "NaN", "None", "NULL", "null", "<NA>", "N/A", "n/a"})
"""What programs write into an empty cell."""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        line: The line of the file that it ends on, from 1.
        cells: Its cells by column, without outer blanks; "" where the cell holds nothing.
    """

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class TextTable:
    """A table.

    Attributes:
        columns: Their names in lower case, without outer blanks.
        rows: In the order of the file.
        unknown: Columns that the reader did not ask for.
        certain: Whether its encoding is known; otherwise it was read as Windows-1252.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    unknown: tuple[str, ...] = ()
    certain: bool = True


def decode(data: bytes) -> str:
    """Text in UTF-8, or in UTF-16 or UTF-32 with a mark or mostly in Latin letters; without a mark.

    Raises:
        UnicodeDecodeError: It is in another encoding.
    """
    # PowerShell's `>` writes UTF-16, and the mark of UTF-32 begins with that of UTF-16.
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return data.decode("utf-32")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    start = data[:4096]
    even, odd = start[::2].count(0), start[1::2].count(0)
    if len(start) > 3 and not len(data) % 2 and max(even, odd) > len(start) // 4:
        return data.decode("utf-16-be" if even > odd else "utf-16-le")
    return data.decode("utf-8-sig")


def read_table(
    path: Path, known: Mapping[str, Sequence[str]], needed: Sequence[str] = (), *, advice: str
) -> TextTable:
    """Read a table.

    Args:
        path: The file.
        known: The columns that the caller reads, in lower case, each with other names that people
            give it.
        needed: Those that must be there.
        advice: What to do about a damaged file, for errors.

    Raises:
        LpxError: It cannot be read; a needed column is absent, or a known one stands under another
            name or twice; or a row has more or fewer cells than there are columns. The line is
            named.
    """
    text, certain = _text(path, advice)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if (longest := max(map(len, lines))) > MAX_LINE_CHARACTERS:
        raise LpxError(
            f"{path} line {list(map(len, lines)).index(longest) + 1} has {longest} characters",
            f"the limit is {MAX_LINE_CHARACTERS}",
            advice,
        )
    first, delimiter, columns = _head(path, lines, known)
    _check_columns(path, first, columns, known, needed)
    rows = []
    for number, cells in _cells(path, lines, first, delimiter, advice):
        # A row may end in empty cells that no column names, and so may the columns.
        while len(cells) > len(columns) and not cells[-1]:
            cells.pop()
        if not set(columns[len(cells) :]).intersection(known):
            cells += [""] * (len(columns) - len(cells))
        if len(cells) != len(columns):
            raise LpxError(
                f"{path} line {number} has {len(cells)} cell{'s' * (len(cells) != 1)} for "
                f"{len(columns)} columns: {_shown(delimiter.join(cells))}",
                f"the columns are {', '.join(columns)}; a cell with a {_NAMES[delimiter]} in it "
                'stands in "quotes"',
                advice,
            )
        rows.append(Row(number, dict(zip(columns, cells, strict=True))))
    unknown = tuple(name for name in columns if name and name not in known)
    return TextTable(tuple(columns), tuple(rows), unknown, certain)


_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


def _text(path: Path, advice: str) -> tuple[str, bool]:
    """The text of a file, and whether its encoding is certain."""
    try:
        data = read_regular(path, limit=MAX_TABLE_BYTES)
    except OSError as error:
        raise LpxError(f"{path} cannot be read", error.strerror or str(error), advice) from error
    certain = True
    try:
        text = decode(data)
    except UnicodeDecodeError as error:
        certain = False
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            line = data[: error.start].count(b"\n") + 1
            raise LpxError(
                f"{path} line {line} cannot be read", f"it is not UTF-8: {error}", advice
            ) from error
    if (place := text.find("\0")) >= 0:
        raise LpxError(
            f"{path} line {text.count(chr(10), 0, place) + 1} cannot be read",
            "it holds a NUL byte, which no text does",
            advice,
        )
    return text, certain


def _head(
    path: Path, lines: list[str], known: Mapping[str, Sequence[str]]
) -> tuple[int, str, list[str]]:
    """The number of the line that names the columns, what separates them, and their names."""
    delimiters: tuple[str, ...] = _DELIMITERS
    number = 1
    for number, line in enumerate(lines, start=1):
        if line.lower().startswith("sep=") and len(line.rstrip()) <= 5:
            delimiters = (line[4:5] or "\t",)
            continue
        if not line.strip():
            continue
        # Some programs write the names of columns as a comment.
        names = line.lstrip().removeprefix("#")
        best = max(
            ((mark, _names(names, mark)) for mark in delimiters),
            key=lambda found: (sum(name in known for name in found[1]), len(found[1])),
        )
        if names == line.lstrip() or sum(name in known for name in best[1]) > 1:
            return number, *best
    return number, delimiters[0], []


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
    path: Path,
    line: int,
    columns: list[str],
    known: Mapping[str, Sequence[str]],
    needed: Sequence[str],
) -> None:
    where = f"{path} line {line}"
    if twice := [name for name in columns if name and columns.count(name) > 1]:
        raise LpxError(
            f"{where} names the column {twice[0]!r} more than once",
            "it would not be clear which one counts",
            "rename or remove one of them",
        )
    absent = [name for name in needed if name not in columns]
    meant = {name: _meant(name, known) for name in columns if name and name not in known}
    if absent:
        instead = [name for name, column in meant.items() if column in absent]
        raise LpxError(
            f"{where} has no column {', '.join(absent)}",
            f"the first line names the columns, among them {', '.join(known)}; found: "
            + (_shown(", ".join(columns)) or "nothing"),
            f"rename {instead[0]} to {meant[instead[0]]}"
            if instead
            else "put the names of the columns into the first line",
        )
    for name, column in meant.items():
        if column and column not in columns:
            raise LpxError(
                f"{where} names the column {name!r}, which lpx does not know",
                f"it looks like the column {column}, and would be ignored",
                f"rename it to {column}; if it means something else, give it another name",
            )


def _meant(name: str, known: Mapping[str, Sequence[str]]) -> str | None:
    """The known column that is probably meant by a name; None where it is none of these."""
    plain = name.replace("-", "_").replace(" ", "_")
    for column, others in known.items():
        if plain == column or plain in others:
            return column
    near = difflib.get_close_matches(plain, known, 1, 0.8)
    return near[0] if near else None


def _cells(
    path: Path, lines: list[str], first: int, delimiter: str, advice: str
) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row below the line that names the columns."""
    below = (f"{line}\n" for line in lines[first:])
    # A quote that never ends would swallow all lines behind it: `strict` refuses it. A blank may
    # stand before a quote, as before any cell.
    reader = csv.reader(below, delimiter=delimiter, skipinitialspace=True, strict=True)
    started = first + 1
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            values = ["" if cell in _NOTHING else cell for cell in stripped]
            comment = lines[started - 1].lstrip().startswith("#")
            started = first + reader.line_num + 1
            if any(stripped) and not comment:
                yield started - 1, values
    except csv.Error as error:
        raise LpxError(f"{path} line {started} cannot be read", str(error), advice) from error


def _shown(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."
