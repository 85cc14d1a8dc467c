"""Make text from others safe to show: a terminal, a table or a page must not obey it.

A file may have any name: with escape sequences that clear a screen or rename a window, with line
breaks that forge a line of output, or with controls that reverse the direction of writing, so that
"gpj.exe" reads "exe.jpg". Such characters are shown as escapes.
"""

from __future__ import annotations

import unicodedata

# Persian and many emoji need these, and they are harmless.
_JOINERS = "\u200c\u200d"
# Unicode categories: controls, formats, halves of surrogate pairs, separators of lines and
# paragraphs.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def plain(text: str, keep: str = "") -> str:
    r"""Replace control characters by escapes such as "\x1b" and "\u202e".

    Args:
        text: Any text, also with halves of surrogate pairs.
        keep: Control characters to keep, such as line breaks.
    """
    # Nearly every text is: this is much faster.
    if text.isprintable():
        return text
    return "".join(_visible(character, keep) for character in text)


def _visible(character: str, keep: str) -> str:
    if character in keep or character in _JOINERS:
        return character
    if unicodedata.category(character) not in _HIDDEN:
        return character
    number = ord(character)
    # `os.fsdecode` puts bytes that are not UTF-8 here (PEP 383).
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x100:
        return f"\\x{number:02x}"
    if number < 0x10000:
        return f"\\u{number:04x}"
    return f"\\U{number:08x}"
