"""Names of members that every file system takes, and that cannot leave the folder."""

from __future__ import annotations

import unicodedata

from lpx.bundle.archive import MAX_NAME_BYTES

# Windows refuses these characters; ":" also begins drives and streams there.
_FORBIDDEN = frozenset('\\:*?"<>|')
# Devices on Windows, with any suffix.
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{port}{number}" for port in ("com", "lpt") for number in "0123456789\u00b9\u00b2\u00b3"}
)
# File systems take 255 bytes; temporary names beside a file are a little longer than its own.
_MAX_PART_BYTES = 240
_MAX_PARTS = 32


def name_problem(name: str) -> str:
    """Return what makes a name unfit for a member; "" if it is fit.

    It must be relative, stay below the folder, and mean the same file on Linux, macOS and Windows.
    """
    if len(name.encode(errors="surrogatepass")) > MAX_NAME_BYTES:
        return f"its name has more than {MAX_NAME_BYTES} bytes"
    if not name.isprintable():
        return "its name has characters that cannot be printed"
    # macOS may store names decomposed: two spellings of a name would be one file there.
    if unicodedata.normalize("NFC", name) != name:
        return "its name is not in Unicode's composed form (NFC)"
    parts = name.split("/")
    if len(parts) > _MAX_PARTS:
        return f"it is below more than {_MAX_PARTS} folders"
    for part in parts:
        if problem := _part_problem(part):
            return problem
    return ""


def _part_problem(part: str) -> str:
    """Return what makes a part of a name unfit; "" if it is fit."""
    if part in ("", ".", ".."):
        return "its name leaves the folder, or has an empty part"
    # Hidden files mean something to lpx (locks, temporary files) and to other programs.
    if part.startswith("."):
        return "a part of its name begins with a dot"
    if _FORBIDDEN & set(part):
        return "its name has a character that Windows does not allow"
    # Windows drops these without a word, so that two names become one.
    if part != part.strip() or part.endswith("."):
        return "a part of its name begins or ends with a blank, or ends with a dot"
    if len(part.encode(errors="surrogatepass")) > _MAX_PART_BYTES:
        return f"a part of its name has more than {_MAX_PART_BYTES} bytes"
    if part.partition(".")[0].strip().lower() in _DEVICES:
        return "its name is that of a device on Windows"
    return ""


class MemberNames:
    """Names that do not collide, also where upper and lower case are the same."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def add(self, name: str) -> str:
        """Take a name; return why it cannot be taken, or "" if it was."""
        if problem := name_problem(name):
            return problem
        # Case folding may undo the composed form.
        key = unicodedata.normalize("NFC", name.casefold())
        parts = key.split("/")
        folders = ["/".join(parts[:length]) for length in range(1, len(parts))]
        if key in self._files:
            return "another member has the same name, or differs from it in case only"
        if key in self._folders or not self._files.isdisjoint(folders):
            return "it is a file and a folder at once"
        self._files.add(key)
        self._folders.update(folders)
        return ""
