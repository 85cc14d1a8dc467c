"""Reading the lists that data sets come with, whoever's editor they went through."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from lpx.data.text_table import decode, read_table
from lpx.errors import LpxError
from lpx.schema import MAX_BYTES, SchemaError, parse_json
from lpx.workspace import read_regular

_AGAIN = "copy it again from where the data set came from"


def read_text(path: Path) -> str:
    r"""The text of a list: UTF-8, or UTF-16 with its mark; no byte-order mark, "\n" as line end.

    Raises:
        LpxError: Unreadable, larger than `MAX_BYTES`, or in another encoding.
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


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a list that are not blank, each with its number from 1 and without outer blanks.

    Raises:
        LpxError: As `read_text`.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        LpxError: As `read_text`, or it is not JSON within the limits of `lpx.schema`.
    """
    text = read_text(path)
    try:
        return parse_json(text)
    except SchemaError as error:
        raise LpxError(f"{path} is not JSON that can be read", str(error), _AGAIN) from error


def read_json_table(path: Path) -> dict[str, dict[str, Any]]:
    """A JSON object whose values are objects.

    Raises:
        LpxError: As `read_json`, or it is shaped otherwise; the first such entry is named.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise LpxError(
            f"{path} holds no JSON object", "it maps a video to what is known of it", _AGAIN
        )
    for key, entry in value.items():
        if not isinstance(entry, dict):
            raise LpxError(
                f"{path}: {key[:80]!r} holds {str(entry)[:80]!r}", "an object was expected", _AGAIN
            )
    return value


def read_csv(path: Path, columns: tuple[str, ...]) -> list[tuple[int, tuple[str, ...]]]:
    """Some columns of a CSV file with a header, each row with its line number.

    Raises:
        LpxError: As `lpx.data.text_table.read_table`, or a field is empty.
    """
    table = read_table(path, dict.fromkeys(columns, ()), columns, advice=_AGAIN)
    rows = []
    for row in table.rows:
        fields = tuple(row.cells[name] for name in columns)
        if not all(fields):
            raise LpxError(
                f"{path} line {row.line}: a field is missing",
                f"every line gives {', '.join(columns)}",
                _AGAIN,
            )
        rows.append((row.line, fields))
    return rows


def relative_path(text: str, listed_in: str) -> PurePosixPath:
    r"""A path as a list gives it, relative to the set's root; "\" counts as "/".

    A drive letter, a server's share or the root of an absolute path is dropped: on this machine it
    is only a prefix that somebody else's disk had.

    Args:
        text: The path.
        listed_in: The list and place in it, for the message.

    Raises:
        LpxError: It would leave the root, or names nothing.
    """
    plain = text.strip().replace("\\", "/")
    # A share is "//server/share/", and Windows may write a drive as "//?/C:/".
    drive = PureWindowsPath(plain).drive.replace("\\", "/")
    path = PurePosixPath(plain.removeprefix(drive).lstrip("/"))
    if ".." in path.parts or "\0" in plain:
        raise LpxError(
            f"{listed_in}: the path {text!r} leaves the data set's root",
            "a list names files below the root, by relative paths without ..",
            "fix the list, or " + _AGAIN,
        )
    if not path.parts:
        raise LpxError(f"{listed_in}: an empty path", "", "fix the list, or " + _AGAIN)
    return path
