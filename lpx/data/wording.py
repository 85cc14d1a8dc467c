"""Counts and lists in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from lpx.plain import plain


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun: "1 video", "2 videos"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names of many: "a, b, c and 4 more"; names of files may be in any encoding."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(printable(name) for name in names[:most])}{more}"


def printable(name: str) -> str:
    """A file's name as text that can be printed, and that stays apart from other names."""
    return plain(name)
