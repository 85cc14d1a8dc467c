"""Text of others that a terminal, a table or a page shows as it is, and never obeys.

A file may be called anything: escape sequences that clear a screen or rename a window, line breaks
that forge a line of output, and controls that turn the direction of writing, so that "gpj.exe"
reads "exe.jpg". What cannot be seen is spelt out.
"""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"
"""Needed to write Persian and many emoji, and harmless."""
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def plain(text: str, keep: str = "") -> str:
    r"""A text without control characters: "\x1b" stands for an escape, "\u202e" for a turn.

    Bytes that are not UTF-8, as `os.fsdecode` leaves them, are spelt out as "\xfc".

    Args:
        text: Of any characters, halves of surrogate pairs too.
        keep: Control characters that the caller wants, such as line breaks.
    """
    if text.isprintable():
        return text
    return "".join(_spelt(sign, keep) for sign in text)


def _spelt(sign: str, keep: str) -> str:
    if sign in keep or sign in _JOINERS or unicodedata.category(sign) not in _HIDDEN:
        return sign
    number = ord(sign)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
