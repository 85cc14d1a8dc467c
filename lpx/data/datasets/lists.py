"""Read the lists that come with data sets, whatever editor they went through."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from lpx.data.text_table import decode, read_table
from lpx.errors import LpxError
from lpx.schema import MAX_BYTES, SchemaError, parse_json
from lpx.workspace import read_regular

_AGAIN = "copy it again from the source of the data set"
# Characters of a key or value that an error repeats.
_SHOWN = 80


class Line(NamedTuple):
    """A line of a list.

    Attributes:
        number: Line number, from 1.
        text: Text without outer blanks.
    """

    number: int
    text: str


class Fields(NamedTuple):
    """A row of a table.

    Attributes:
        number: Line number, from 1.
        values: Values of the columns asked for.
    """

    number: int
    values: tuple[str, ...]


def read_text(path: Path) -> str:
    r"""Read a text in UTF-8, or in UTF-16 with a byte-order mark, and normalise line ends to "\n".

    Raises:
        LpxError: The file cannot be read, is larger than `MAX_BYTES`, or in another encoding.
    """
    try:
        data = read_regular(path, limit=MAX_BYTES)
    except OSError as error:
        raise LpxError(f"{path} cannot be read", error.strerror or str(error), _AGAIN) from error
    try:
        text = decode(data)
    except UnicodeDecodeError as error:
        raise LpxError(
            f"{path} is not text in UTF-8", str(error), "save it as UTF-8, or " + _AGAIN
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[Line]:
    """Read the lines of a list, without blank ones.

    Raises:
        LpxError: See `read_text`.
    """
    lines = []
    for number, text in enumerate(read_text(path).split("\n"), start=1):
        stripped = text.strip()
        if stripped:
            lines.append(Line(number, stripped))
    return lines


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        LpxError: See `read_text`; or it is not JSON within the limits of `lpx.schema`.
    """
    text = read_text(path)
    try:
        return parse_json(text)
    except SchemaError as error:
        raise LpxError(
            f"{path} is not JSON that can be read", str(error), _AGAIN, code="damaged"
        ) from error


def read_json_table(path: Path) -> dict[str, dict[str, Any]]:
    """Read a JSON object whose values are objects.

    Raises:
        LpxError: See `read_json`; or it has another structure, and the first wrong entry is named.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise LpxError(
            f"{path} is not a JSON object",
            "it should map each video to its properties",
            _AGAIN,
            code="damaged",
        )
    for key, entry in value.items():
        if not isinstance(entry, dict):
            raise LpxError(
                f"{path}: {key[:_SHOWN]!r} holds {str(entry)[:_SHOWN]!r}",
                "an object was expected",
                _AGAIN,
                code="damaged",
            )
    return value


def read_csv(path: Path, columns: tuple[str, ...]) -> list[Fields]:
    """Read some columns of a CSV file with a header.

    Raises:
        LpxError: See `lpx.data.text_table.read_table`; or a field is empty.
    """
    table = read_table(path, dict.fromkeys(columns, ()), columns, advice=_AGAIN)
    rows = []
    for row in table.rows:
        fields = tuple(row.cells[name] for name in columns)
        if not all(fields):
            raise LpxError(
                f"{path} line {row.line}: a field is missing",
                f"each line must have {', '.join(columns)}",
                _AGAIN,
                code="damaged",
            )
        rows.append(Fields(row.line, fields))
    return rows


def relative_path(text: str, listed_in: str) -> PurePosixPath:
    r"""Convert a listed path to one relative to the set's folder; "\" counts as "/".

    Args:
        text: The path.
        listed_in: The list and the place in it, for messages.

    Raises:
        LpxError: The path leaves the folder, or is empty.
    """
    # A drive letter, a server's share or the root of an absolute path is a prefix of the disk of
    # whoever wrote the list, and means nothing here.
    plain = text.strip().replace("\\", "/")
    # A share is "//server/share/", and Windows may write a drive as "//?/C:/".
    drive = PureWindowsPath(plain).drive.replace("\\", "/")
    path = PurePosixPath(plain.removeprefix(drive).lstrip("/"))
    if ".." in path.parts or "\0" in plain:
        raise LpxError(
            f"{listed_in}: the path {text!r} leaves the data set's folder",
            "a list names files below the folder, by relative paths without ..",
            "fix the list, or " + _AGAIN,
        )
    if not path.parts:
        raise LpxError(f"{listed_in}: an empty path", "", "fix the list, or " + _AGAIN)
    return path
