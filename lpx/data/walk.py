"""Search a folder for files, and count what is left out."""

from __future__ import annotations

import errno
import heapq
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from lpx.data.wording import printable
from lpx.errors import LpxError

# Error numbers that say that there is nothing at a path.
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
# Names given as examples, per kind.
_NAMED = 3
# Suffixes that are counted one by one; rarer ones are counted together.
_SUFFIXES = 6


class _Kind(NamedTuple):
    """A kind of file or folder that is left out: its description in singular and plural."""

    one: str
    many: str


# Lists a folder, like `os.scandir`.
ScanFolder = Callable[[str], AbstractContextManager[Iterator[os.DirEntry[str]]]]

_HIDDEN_FOLDER = _Kind("hidden folder", "hidden folders")
_HIDDEN_FILE = _Kind("hidden file", "hidden files")
_SYSTEM_FOLDER = _Kind("system folder", "system folders")
_UNREADABLE = _Kind("folder that cannot be read", "folders that cannot be read")
_UPWARDS = _Kind("link to a folder above it", "links to folders above them")
_AGAIN = _Kind(
    "folder that was searched under another name", "folders that were searched under other names"
)
_BROKEN = _Kind("broken link", "broken links")
_OTHER_FILE = _Kind("file with another suffix", "files with other suffixes")

# Created beside people's files by file systems, file servers and archive programs.
_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "@__thumb", "#recycle", "@recycle", "$recycle.bin"}
    | {"system volume information", "lost+found", "__pycache__"}
)
# Nobody takes these for pictures or videos: they are left out without mention.
_NEVER_PICTURES = frozenset(
    {".txt", ".md", ".rst", ".pdf", ".html", ".log", ".py", ".sh"}
    | {".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini"}
)
_NEVER_PICTURES_NAMES = frozenset({"thumbs.db", "desktop.ini", "landmarks.npz", "license"})


@dataclass(frozen=True)
class LeftOut:
    """Files or folders that a search left out for one reason.

    Attributes:
        what: Their kind.
        count: Their number.
        names: The first few, relative to the searched folder.
    """

    what: str
    count: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(self.names)
        if self.count > len(self.names):
            names += f" and {self.count - len(self.names)} more"
        return f"{self.count:,} {self.what} ({names})"


@dataclass(frozen=True)
class WalkResult:
    """Files below a folder.

    Attributes:
        files: Paths relative to the folder, with "/"; a folder's own files come before those of
            its subfolders.
        left_out: Files and folders that the user may have meant to include.
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
    scan: ScanFolder | None = None,
) -> WalkResult:
    """Find files below a folder by their suffixes.

    Links to folders are followed, but each folder is searched once, and never one above the link.
    Hidden files and folders, and those that systems create, are left out.

    Args:
        folder: Folder to search.
        suffixes: Suffixes of the wanted files, in lower case with the dot.
        skip: Folders to leave out without mention.
        only: Names of the subfolders to search; None searches all, and includes the folder's own
            files.
        refuse: Raises for a folder that cannot be read; None leaves it out.
        scan: Lists a folder; None for `os.scandir`.
    """
    search = _Search(os.fspath(folder), suffixes, skip, refuse, scan or os.scandir)
    search.run(only)
    # Sorted, as the order of a folder differs between file systems, and limits take the first ones.
    return WalkResult(tuple(sorted(search.files, key=_sort_key)), search.left_out())


def refuse_unreadable(error: OSError) -> NoReturn:
    """Raise for a folder or file that cannot be read, whose faces would be missed silently.

    Raises:
        LpxError: Always.
    """
    raise LpxError(
        f"{printable(os.fsdecode(error.filename or 'a folder'))} cannot be read",
        error.strerror or str(error),
        "check the file permissions, or move it out of the folder",
    ) from error


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a folder, or a link to one.

    Raises:
        OSError: It is below a folder that cannot be read.
    """
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        # Errors such as a missing permission do not say that there is no folder.
        if error.errno in ABSENT:
            return False
        raise


def note_of(left_out: Iterable[LeftOut]) -> str:
    """Return a sentence that counts and names what was left out; "" if nothing was."""
    parts = [str(one) for one in left_out]
    return f"Left out: {'; '.join(parts)}." if parts else ""


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or created by a system."""
    # Systems differ in the case of these names: $Recycle.Bin, $RECYCLE.BIN.
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


class _Search:
    """A search: first all real folders, then those behind links.

    So a folder that is reached in both ways is named by its real path.
    """

    def __init__(
        self,
        root: str,
        suffixes: Set[str],
        skip: Iterable[Path],
        refuse: Callable[[OSError], object] | None,
        scan: ScanFolder,
    ) -> None:
        self.root = root
        self.suffixes = suffixes
        self.skip = {_identity(path) for path in skip}
        self.refuse = refuse
        self.scan = scan
        self.files: list[str] = []
        # A heap of (depth, path), so that `real`, a link itself, comes before a link below `fake`.
        self.links: list[tuple[int, str]] = []
        # Folders by device and inode: names differ where there are links.
        self.seen: set[_FileId] = set()
        self._left_out: dict[_Kind, tuple[int, list[str]]] = {}

    def run(self, only: Iterable[str] | None) -> None:
        for name in [""] if only is None else sorted(only):
            if name and os.path.islink(self.path(name)):
                self.remember(name)
            else:
                self.below(name)
        # A heap, as following a link may find further links that have to be sorted in.
        while self.links:
            _, link = heapq.heappop(self.links)
            # A link upwards would bring the whole search in again under another name.
            if self.leads_up(link):
                self.leave_out(_UPWARDS, link)
            else:
                self.below(link)

    def path(self, inside: str) -> str:
        return os.path.join(self.root, inside) if inside else self.root

    def below(self, top: str) -> None:
        """Search a folder and its real subfolders, and collect the links."""
        waiting = [top]
        while waiting:
            inside = waiting.pop()
            try:
                # Looked up for every folder: links and bind mounts give one folder several names.
                status = os.stat(self.path(inside))
                identity = _FileId(status.st_dev, status.st_ino)
                if inside and identity in self.skip:
                    continue
                if identity in self.seen:
                    self.leave_out(_AGAIN, inside)
                    continue
                self.seen.add(identity)
                with self.scan(self.path(inside)) as entries:
                    # Sorted, so that two machines find the same files in the same order.
                    listed = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                if self.refuse is not None:
                    self.refuse(error)
                self.leave_out(_UNREADABLE, inside or ".")
                continue
            folders = []
            for entry in listed:
                name = self.take(inside, entry)
                if name is not None:
                    folders.append(name)
            # Reversed, as the last folder of the list is searched next.
            waiting += reversed(folders)

    def take(self, inside: str, entry: os.DirEntry[str]) -> str | None:
        """Keep an entry, or leave it out; return its path if it is a folder to search."""
        name = f"{inside}/{entry.name}" if inside else entry.name
        if not self.is_folder(name, entry):
            self.take_file(name, entry)
        # Before links, so that a hidden link is not followed.
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
        # The entry usually knows its type from listing the folder, without a further call.
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
        # A broken link with a picture's suffix has been kept: reading it reports what is wrong.
        elif entry.is_symlink() and not os.path.exists(entry.path):
            self.leave_out(_BROKEN, name)
        elif not (
            entry.name.startswith(".")
            or suffix in _NEVER_PICTURES
            or entry.name.lower() in _NEVER_PICTURES_NAMES
        ):
            self.leave_out(_with_suffix(suffix), name)

    def remember(self, link: str) -> None:
        heapq.heappush(self.links, (link.count("/"), link))

    def leads_up(self, link: str) -> bool:
        """Return whether a link leads to a folder above it, or above the whole search."""
        # Joining "" adds a slash, so that /a/bc is not below /a/b.
        target = os.path.join(os.path.realpath(self.path(link)), "")
        parent = os.path.join(os.path.realpath(os.path.dirname(self.path(link))), "")
        root = os.path.join(os.path.realpath(self.root), "")
        return parent.startswith(target) or root.startswith(target)

    def leave_out(self, kind: _Kind, name: str) -> None:
        count, names = self._left_out.get(kind, (0, []))
        # Three names as examples suffice; a folder may have millions of such files.
        if len(names) < _NAMED:
            names.append(printable(name))
        self._left_out[kind] = (count + 1, names)

    def left_out(self) -> tuple[LeftOut, ...]:
        """Count what was left out; files with rare suffixes are counted together."""
        kept = dict(self._left_out)
        with_suffix = [kind for kind in kept if kind.one.startswith("file ")]
        by_count = sorted(with_suffix, key=lambda kind: -kept[kind][0])
        for kind in by_count[_SUFFIXES:]:
            count, names = kept.pop(kind)
            before, named = kept.get(_OTHER_FILE, (0, []))
            kept[_OTHER_FILE] = (before + count, [*named, *names][:_NAMED])
        summary = []
        for kind, (count, names) in kept.items():
            what = kind.one if count == 1 else kind.many
            summary.append(LeftOut(what, count, tuple(names)))
        return tuple(summary)


def _with_suffix(suffix: str) -> _Kind:
    ending = f"ending in {suffix}" if suffix else "without a suffix"
    return _Kind(f"file {ending}", f"files {ending}")


class _FileId(NamedTuple):
    """Device and inode, which identify a folder under all its names."""

    device: int
    inode: int


def _identity(path: Path) -> _FileId | None:
    try:
        status = path.stat()
    # A folder to skip need not exist yet, as results are often written later.
    except OSError:
        return None
    return _FileId(status.st_dev, status.st_ino)


def _sort_key(file: str) -> tuple[tuple[bool, str], ...]:
    """Return a key that sorts a folder's own files before those of its subfolders."""
    *folders, name = file.split("/")
    return (*((True, folder) for folder in folders), (False, name))
