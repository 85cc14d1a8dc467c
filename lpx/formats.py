"""Formats that files name, such as "lpx-probe/3"; a file of another version is not damaged."""

from __future__ import annotations

import re
from pathlib import Path

from lpx.errors import LpxError
from lpx.schema import SchemaError


def check_format(path: Path, found: object, known: str, remake: str) -> None:
    """Check the format that a file names.

    Args:
        path: The file.
        found: The format that it names.
        known: The format that this version of lpx reads, such as "lpx-probe/2".
        remake: How to make the file again with this version, in the imperative.

    Raises:
        LpxError: An earlier or a newer lpx wrote it (code "unsupported").
        SchemaError: It does not name a format of this kind.
    """
    if found == known:
        return
    if _format_number(found, known) is None:
        raise SchemaError(f"expected format {known}, found {found!a:.60}")
    who, fix = "an earlier", remake
    if is_newer(found, known):
        who, fix = "a newer", f"update lpx, or {remake}"
    raise LpxError(
        f"{path} was written by {who} version of lpx",
        f"its format is {found}, and this version reads {known}",
        fix,
        code="unsupported",
    )


def is_newer(found: object, known: str) -> bool:
    """Return whether a format, such as "lpx-probe/3", comes after the one that lpx reads."""
    number, ours = _format_number(found, known), _format_number(known, known)
    return number is not None and ours is not None and number > ours


def _format_number(found: object, known: str) -> int | None:
    """Return the number of a format; None if it is not of the kind of `known`."""
    kind = known.rpartition("/")[0]
    # Few digits: int() of a text without end would take long.
    match = re.fullmatch(rf"{re.escape(kind)}/([0-9]{{1,9}})", str(found))
    return int(match[1]) if match else None
