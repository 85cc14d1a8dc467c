"""What all adapters share: what is asked of them, what they answer, how they look around."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lpx.data.videos import VIDEO_SUFFIXES, Video
from lpx.data.walk import is_hidden, refuse_unreadable, walk
from lpx.data.wording import printable
from lpx.errors import LpxError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class VideoQuery:
    """What the user asked for.

    Attributes:
        roots: Folders to look for data sets in.
        argument: What stands behind the colon of "deepfakebench:FILE.json"; "" elsewhere.
        split: The split that is wanted, so that lists of others need not be there; None for all.
        methods: Names of manipulations; () for the set's usual ones.
    """

    roots: tuple[Path, ...]
    argument: str = ""
    split: str | None = None
    methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """What an adapter found; it may hold more splits than were asked for.

    Attributes:
        root: Where the set lies.
        present: Videos on disk, in a fixed order.
        absent: Videos that the official lists name, each with the path that it should have.
        lost: Names of other things that are missing, a list or a frame: (split, name).
        notes: Sentences for the reader of results.
        crop: As `VideoSet.crop`.
        hint: What to do about what is absent, where it is on disk in another form; else "".
    """

    root: Path
    present: tuple[Video, ...]
    absent: tuple[Video, ...] = ()
    lost: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    crop: str = ""
    hint: str = ""


@dataclass(frozen=True)
class DatasetInfo:
    """A data set that lpx knows.

    Attributes:
        title: Its name in papers.
        obtained: How one gets it: the official page or form.
        adapter: Lists its videos.
        folders: Usual names of its root below a data root.
        marks: Its root holds one of these; patterns.
        methods: Its manipulations.
        usual: Those that count where the user names none; () for all.
    """

    title: str
    obtained: str
    adapter: Callable[[VideoQuery], Listing]
    folders: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    usual: tuple[str, ...] = ()


def possible_roots(info: DatasetInfo, roots: tuple[Path, ...]) -> tuple[Path, ...]:
    """Every folder that may be the set's root, in the order in which they are tried."""
    return tuple(place for root in roots for place in (root, *(root / f for f in info.folders)))


def find_root(info: DatasetInfo, roots: tuple[Path, ...]) -> Path:
    """The set's root: the first place that holds one of its marks.

    Raises:
        LpxError: There is none; every place is listed.
    """
    looked = possible_roots(info, roots)
    for place in looked:
        if any(next(place.glob(mark), None) for mark in info.marks):
            return place
    marks = " or ".join(info.marks)
    raise not_found(info, f"a folder that holds {marks}", looked)


def not_found(info: DatasetInfo, sought: str, looked: Iterable[Path]) -> LpxError:
    """The error for a set that is not on disk."""
    lines = "".join(f"\n    {place}{'' if place.is_dir() else ' (no folder)'}" for place in looked)
    return LpxError(
        f"{info.title} was not found",
        f"looked for {sought} in:{lines}" if lines else "no data root is set",
        "name the folder with --data-root DIR, LPX_DATA or [data] root in lpx.toml; "
        f"to obtain the set: {info.obtained}",
    )


def choose_methods(
    asked: tuple[str, ...], known: tuple[str, ...], usual: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """The methods that are meant, spelled as the set spells them and in its order.

    Args:
        asked: By the user, in any case; () for the usual ones.
        known: The set's.
        usual: Where the user asks for none; () for all.

    Raises:
        LpxError: Unknown; the known ones are listed.
    """
    spelled = {name.casefold(): name for name in known}
    for name in asked:
        if name.casefold() not in spelled:
            near = difflib.get_close_matches(name.casefold(), spelled, 1)
            meant = f"did you mean {spelled[near[0]]}? " if near else ""
            raise LpxError(
                f"unknown method {name!r}",
                f"{meant}this set has: {', '.join(known) or 'none'}",
                "name methods of this set; real videos always come with them",
            )
    chosen = {spelled[name.casefold()] for name in asked} or set(usual or known)
    return tuple(name for name in known if name in chosen)


def key(name: str) -> str:
    """How names are compared: macOS writes an accent as a letter of its own."""
    return unicodedata.normalize("NFC", name)


def name_of(path: Path, root: Path) -> str:
    """A video's name: its path below `root` without the suffix of a file."""
    inside = path.relative_to(root)
    if inside.suffix.lower() in VIDEO_SUFFIXES:
        inside = inside.with_suffix("")
    return printable(inside.as_posix())


def index_videos(folder: Path) -> dict[str, Path]:
    """Video files below a folder, by `key` of their name without suffix; {} where there is none.

    Of equal names the first in the order of the folders counts.

    Raises:
        LpxError: A folder cannot be read: its videos would otherwise count as missing.
    """
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for name in walk(folder, VIDEO_SUFFIXES, refuse=refuse_unreadable).files:
        found.setdefault(key(PurePosixPath(name).stem), folder / name)
    return found


def index_folders(folder: Path) -> dict[str, Path]:
    """Folders right below a folder, by `key` of their name; none where it does not exist.

    Raises:
        LpxError: As `index_videos`.
    """
    if not folder.is_dir():
        return {}
    named = ((name, folder / name) for name in list_folder(folder) if not is_hidden(name))
    return {key(name): path for name, path in named if path.is_dir()}


def list_folder(folder: Path) -> list[str]:
    """The names in a folder, sorted.

    Raises:
        LpxError: It cannot be read.
    """
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        refuse_unreadable(error)
