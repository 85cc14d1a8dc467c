"""The interface of data set adapters, and how they find files."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from lpx.data.videos import VIDEO_SUFFIXES, Video
from lpx.data.walk import is_hidden, refuse_unreadable, walk
from lpx.data.wording import printable
from lpx.errors import LpxError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class VideoQuery:
    """A query for the videos of a data set.

    Attributes:
        roots: Folders to search for data sets.
        argument: Text after the colon of "deepfakebench:FILE.json"; "" for other sets.
        split: Split wanted, so that lists of other splits need not exist; None for all.
        methods: Manipulation methods; () for the set's usual ones.
    """

    roots: tuple[Path, ...]
    argument: str = ""
    split: str | None = None
    methods: tuple[str, ...] = ()


class MissingFile(NamedTuple):
    """A file, other than a video, that is not on disk: a list, or a frame.

    Attributes:
        split: Split that it belongs to.
        name: Name, for the user.
    """

    split: str
    name: str


@dataclass(frozen=True)
class Listing:
    """The result of an adapter, possibly with more splits than were asked for.

    Attributes:
        root: Folder of the set.
        present: Videos on disk, in a fixed order.
        absent: Other videos in the official lists, with the path that they should have.
        lost: Other missing files.
        notes: Sentences for readers of results.
        crop: See `VideoSet.crop`.
        hint: How to use absent videos that are on disk in another form; "" if they are not.
    """

    root: Path
    present: tuple[Video, ...]
    absent: tuple[Video, ...] = ()
    lost: tuple[MissingFile, ...] = ()
    notes: tuple[str, ...] = ()
    crop: str = ""
    hint: str = ""


@dataclass(frozen=True)
class DatasetInfo:
    """A public data set.

    Attributes:
        title: Name in papers.
        obtained: How to obtain it: the official page or form.
        adapter: Lists its videos.
        folders: Usual names of its folder below a data root.
        marks: Patterns, one of which matches something in the set's folder.
        methods: Manipulation methods.
        usual: Methods used if the user names none; () for all.
    """

    title: str
    obtained: str
    adapter: Callable[[VideoQuery], Listing]
    folders: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    usual: tuple[str, ...] = ()


def possible_roots(info: DatasetInfo, roots: tuple[Path, ...]) -> tuple[Path, ...]:
    """List the folders that may be the set's, in order of priority."""
    folders = []
    for root in roots:
        folders.append(root)
        folders += [root / name for name in info.folders]
    return tuple(folders)


def find_root(info: DatasetInfo, roots: tuple[Path, ...]) -> Path:
    """Find the set's folder: the first one that has one of its marks.

    Raises:
        LpxError: There is none; all searched folders are listed.
    """
    searched = possible_roots(info, roots)
    for folder in searched:
        for mark in info.marks:
            if next(folder.glob(mark), None) is not None:
                return folder
    raise not_found(info, f"a folder that holds {' or '.join(info.marks)}", searched)


def not_found(info: DatasetInfo, sought: str, searched: Iterable[Path]) -> LpxError:
    """Return the error for a set that is not on disk.

    Args:
        info: The set.
        sought: Description of what was searched for.
        searched: Folders that were searched.
    """
    lines = ""
    for folder in searched:
        lines += f"\n    {folder}"
        if not folder.is_dir():
            lines += " (no folder)"
    return LpxError(
        f"{info.title} was not found",
        f"looked for {sought} in:{lines}" if lines else "no data root is set",
        "name the folder with `data_root`, LPX_DATA or [data] root in lpx.toml; "
        f"to obtain the set: {info.obtained}",
        code="not-found",
    )


def choose_methods(
    asked: tuple[str, ...], known: tuple[str, ...], usual: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return the chosen methods, in the spelling and order of the set.

    Args:
        asked: Methods named by the user, in upper or lower case; () for the usual ones.
        known: Methods of the set.
        usual: Methods used if the user names none; () for all.

    Raises:
        LpxError: A method is unknown; the known ones are listed.
    """
    # People write "deepfakes" and "FACESWAP".
    spelled = {name.casefold(): name for name in known}
    for name in asked:
        if name.casefold() not in spelled:
            near = difflib.get_close_matches(name.casefold(), spelled, 1)
            meant = f"did you mean {spelled[near[0]]}? " if near else ""
            raise LpxError(
                f"unknown method {name!r}",
                f"{meant}this set has: {', '.join(known) or 'none'}",
                "name methods of this set; real videos are always included",
                code="invalid-argument",
            )
    chosen = {spelled[name.casefold()] for name in asked} or set(usual or known)
    return tuple(name for name in known if name in chosen)


def key(name: str) -> str:
    """Return a key to compare names by."""
    # macOS stores an accent as a letter of its own (NFD).
    return unicodedata.normalize("NFC", name)


def name_of(path: Path, root: Path) -> str:
    """Return the name of a video: its path below `root`, without the suffix of a file."""
    inside = path.relative_to(root)
    if inside.suffix.lower() in VIDEO_SUFFIXES:
        inside = inside.with_suffix("")
    return printable(inside.as_posix())


def index_videos(folder: Path) -> dict[str, Path]:
    """Index the video files below a folder by `key` of their name without suffix.

    If several have the same name, the first one in the order of folders counts. If the folder does
    not exist, the index is empty.

    Raises:
        LpxError: A folder cannot be read, so that its videos would count as missing.
    """
    videos: dict[str, Path] = {}
    if not folder.is_dir():
        return videos
    # The walk is in a fixed order, so that which of two equal names counts does not vary.
    for name in walk(folder, VIDEO_SUFFIXES, refuse=refuse_unreadable).files:
        videos.setdefault(key(PurePosixPath(name).stem), folder / name)
    return videos


def index_folders(folder: Path) -> dict[str, Path]:
    """Index the subfolders of a folder by `key` of their name.

    If the folder does not exist, the index is empty.

    Raises:
        LpxError: The folder cannot be read.
    """
    folders: dict[str, Path] = {}
    if not folder.is_dir():
        return folders
    for name in list_folder(folder):
        path = folder / name
        if not is_hidden(name) and path.is_dir():
            folders[key(name)] = path
    return folders


class Partition(NamedTuple):
    """Listed videos, divided into those on disk and others."""

    present: tuple[Video, ...]
    absent: tuple[Video, ...]


def partition(
    videos: Iterable[Video], is_present: Callable[[Path], bool] = Path.is_file
) -> Partition:
    """Divide listed videos into those on disk and others, each in order.

    Args:
        videos: Listed videos.
        is_present: Checks the path of a video.
    """
    present: list[Video] = []
    absent: list[Video] = []
    for video in videos:
        if is_present(video.path):
            present.append(video)
        else:
            absent.append(video)
    return Partition(tuple(present), tuple(absent))


def list_folder(folder: Path) -> list[str]:
    """Return the names in a folder, sorted.

    Raises:
        LpxError: It cannot be read.
    """
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        refuse_unreadable(error)
