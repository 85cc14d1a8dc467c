"""Counts and lists in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from lpx.plain import plain


def counted(number: int, noun: str, plural: str = "") -> str:
    """Format a number with its noun: "1 video", "2 videos"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {plural or noun + 's'}"


def are(number: int) -> str:
    """Return the verb for a number of things: "is" or "are"."""
    return "is" if number == 1 else "are"


def some(names: Sequence[str], limit: int = 3) -> str:
    """List the first of many names: "a, b, c and 4 more"."""
    text = ", ".join(map(printable, names[:limit]))
    if len(names) > limit:
        text += f" and {len(names) - limit} more"
    return text


def printable(name: str) -> str:
    """Return a file name, in any encoding, as text that can be printed; names stay distinct."""
    return plain(name)
