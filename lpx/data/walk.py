"""The one walk below a folder: what it finds, and what it leaves out."""

from __future__ import annotations

import errno
import heapq
import os
import stat
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from lpx.data.wording import printable
from lpx.errors import LpxError

_NAMED = 3
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors that say that there is nothing at a path."""
_ENDINGS = 6
"""How many endings of names are counted one by one."""


class _Kind(NamedTuple):
    """What is left out: the words for one of it, and for several."""

    one: str
    many: str


_HIDDEN_FOLDER = _Kind("hidden folder", "hidden folders")
_HIDDEN_FILE = _Kind("hidden file", "hidden files")
_SYSTEM_FOLDER = _Kind("folder of a system's own files", "folders of a system's own files")
_UNREADABLE = _Kind("folder that cannot be read", "folders that cannot be read")
_UPWARDS = _Kind("link to a folder that it lies in", "links to folders that they lie in")
_AGAIN = _Kind(
    "folder that is searched under another name", "folders that are searched under other names"
)
_BROKEN = _Kind("link to nothing", "links to nothing")

_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "@__thumb", "#recycle", "@recycle", "$recycle.bin"}
    | {"system volume information", "lost+found", "__pycache__"}
)
"""What file systems, file servers and archive programs put beside people's files."""
_NEVER_PICTURES = frozenset(
    {".txt", ".md", ".rst", ".pdf", ".html", ".log", ".py", ".sh"}
    | {".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini"}
)
"""Nobody takes these for pictures or videos: not worth a word."""
_NEVER_PICTURES_NAMES = frozenset({"thumbs.db", "desktop.ini", "landmarks.npz", "license"})


@dataclass(frozen=True)
class LeftOut:
    """What a walk left out for one reason.

    Attributes:
        what: What these are.
        count: How many.
        names: The first few, relative to the folder that was searched.
    """

    what: str
    count: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {self.count - len(self.names)} more" * (self.count > len(self.names))
        return f"{self.count:,} {self.what} ({', '.join(self.names)}{more})"


@dataclass(frozen=True)
class Walked:
    """What is below a folder.

    Attributes:
        files: Paths relative to it, "/" between, a folder's own files before those of its folders.
        left_out: What may have been meant, but is not among the files.
    """

    files: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def walk(
    folder: Path,
    suffixes: Set[str],
    skip: Iterable[Path] = (),
    *,
    only: Iterable[str] | None = None,
    refuse: Callable[[OSError], object] | None = None,
) -> Walked:
    """Find files below a folder by what their names end in.

    Links to folders are followed, each folder once, and never to a folder that the link lies in.
    Hidden files and folders are left out, and those that systems put beside people's files.

    Args:
        folder: Where to look.
        suffixes: Of the files wanted, in lower case with the dot.
        skip: Folders not to look into, which are not mentioned either.
        only: Names of the folders right below `folder` to look into; None for all, and for the
            files beside them.
        refuse: Raises for a folder that cannot be read; None leaves it out.
    """
    search = _Search(os.fspath(folder), suffixes, skip, refuse)
    search.run(only)
    return Walked(tuple(sorted(search.files, key=_place)), search.left_out())


def refuse_unreadable(error: OSError) -> NoReturn:
    """Raise for a folder or file that cannot be looked at: faces in it would be missed in silence.

    Raises:
        LpxError: Always.
    """
    raise LpxError(
        f"{printable(os.fsdecode(error.filename or 'a folder'))} cannot be read",
        error.strerror or str(error),
        "check the file permissions, or move it out of the folder",
    ) from error


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is a folder, maybe behind a link.

    Raises:
        OSError: Nobody can tell, as it is below a folder that cannot be read.
    """
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in ABSENT:
            return False
        raise


def note_of(left_out: Iterable[LeftOut]) -> str:
    """A sentence that counts and names what was left out; "" where nothing was."""
    parts = [str(one) for one in left_out]
    return f"Left out: {'; '.join(parts)}." if parts else ""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none that a person put there to be seen."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


class _Search:
    """A walk under way: first all folders that are really there, then those behind links."""

    def __init__(
        self,
        root: str,
        suffixes: Set[str],
        skip: Iterable[Path],
        refuse: Callable[[OSError], object] | None,
    ) -> None:
        self.root = root
        self.suffixes = suffixes
        self.skip = {identity for path in skip if (identity := _identity(path))}
        self.refuse = refuse
        self.files: list[str] = []
        # The least deep first: `real`, a link itself, comes before a link below `fake`.
        self.links: list[tuple[int, str]] = []
        self.seen: set[tuple[int, int]] = set()
        self._left_out: dict[_Kind, tuple[int, list[str]]] = {}

    def run(self, only: Iterable[str] | None) -> None:
        for name in [""] if only is None else sorted(only):
            if name and os.path.islink(self.path(name)):
                self.remember(name)
            else:
                self.below(name)
        while self.links:
            _, link = heapq.heappop(self.links)
            if self.leads_up(link):
                self.leave_out(_UPWARDS, link)
            else:
                self.below(link)

    def path(self, inside: str) -> str:
        return os.path.join(self.root, inside) if inside else self.root

    def below(self, top: str) -> None:
        """Search a folder and all that really are below it; remember the links."""
        waiting = [top]
        while waiting:
            inside = waiting.pop()
            try:
                status = os.stat(self.path(inside))
                identity = (status.st_dev, status.st_ino)
                if inside and identity in self.skip:
                    continue
                if identity in self.seen:
                    self.leave_out(_AGAIN, inside)
                    continue
                self.seen.add(identity)
                with os.scandir(self.path(inside)) as entries:
                    listed = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                if self.refuse is not None:
                    self.refuse(error)
                self.leave_out(_UNREADABLE, inside or ".")
                continue
            folders = [name for entry in listed if (name := self.take(inside, entry))]
            waiting += reversed(folders)

    def take(self, inside: str, entry: os.DirEntry[str]) -> str | None:
        """Keep a file, remember a link, leave it out; or return a folder to search."""
        name = f"{inside}/{entry.name}" if inside else entry.name
        if not self.is_folder(name, entry):
            self.take_file(name, entry)
        elif entry.name.startswith("."):
            self.leave_out(_HIDDEN_FOLDER, name)
        elif is_hidden(entry.name):
            self.leave_out(_SYSTEM_FOLDER, name)
        elif entry.is_symlink():
            self.remember(name)
        else:
            return name
        return None

    def is_folder(self, name: str, entry: os.DirEntry[str]) -> bool:
        if not entry.is_symlink():
            return entry.is_dir()
        try:
            return is_folder(entry.path)
        except OSError as error:
            if self.refuse is not None:
                self.refuse(error)
            return False

    def take_file(self, name: str, entry: os.DirEntry[str]) -> None:
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix in self.suffixes:
            if entry.name.startswith("."):
                self.leave_out(_HIDDEN_FILE, name)
            else:
                self.files.append(name)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            self.leave_out(_BROKEN, name)
        elif not (
            entry.name.startswith(".")
            or suffix in _NEVER_PICTURES
            or entry.name.lower() in _NEVER_PICTURES_NAMES
        ):
            self.leave_out(_ending_in(suffix), name)

    def remember(self, link: str) -> None:
        heapq.heappush(self.links, (link.count("/"), link))

    def leads_up(self, link: str) -> bool:
        """Whether a link leads to a folder that it, or the whole search, lies in."""
        target = os.path.realpath(self.path(link))
        lies_in = os.path.realpath(os.path.dirname(self.path(link)))
        above = os.path.join(target, "")
        return any(
            os.path.join(place, "").startswith(above)
            for place in (lies_in, os.path.realpath(self.root))
        )

    def leave_out(self, kind: _Kind, name: str) -> None:
        count, names = self._left_out.get(kind, (0, []))
        if len(names) < _NAMED:
            names.append(printable(name))
        self._left_out[kind] = (count + 1, names)

    def left_out(self) -> tuple[LeftOut, ...]:
        kept, rest = dict(self._left_out), _Kind("file ending otherwise", "files ending otherwise")
        endings = [kind for kind in kept if kind.one.startswith("file ")]
        for kind in sorted(endings, key=lambda kind: -kept[kind][0])[_ENDINGS:]:
            count, names = kept.pop(kind)
            before, named = kept.get(rest, (0, []))
            kept[rest] = (before + count, [*named, *names][:_NAMED])
        return tuple(
            LeftOut(kind.one if count == 1 else kind.many, count, tuple(names))
            for kind, (count, names) in kept.items()
        )


def _ending_in(suffix: str) -> _Kind:
    ending = f"ending in {suffix}" if suffix else "without a suffix"
    return _Kind(f"file {ending}", f"files {ending}")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _place(file: str) -> tuple[tuple[bool, str], ...]:
    """Sorts a folder's own files before those of the folders below it."""
    *folders, name = file.split("/")
    return (*((True, folder) for folder in folders), (False, name))
