"""Face crops prepared with DeepfakeBench or for DF40, listed by one of their JSON files.

    {set: {label: {split: {[level:] {video: {"label": label, "frames": [...], "masks": [...]}}}}}}

Only FaceForensics++, FaceShifter and DeepFakeDetection have a level (raw, c23, c40). Known problems
of the published files, and how they are handled here:

* Labels differ between sets, and new sets bring new ones: `X_Real` and `X_Fake` are read by rule.
  In files of DF40 the label may name another method (`roop_Fake` in the set `simswap_ff`): there,
  the name of the set counts.
* Paths begin with a prefix of another machine's disk: `_Frames` finds the files.
* A video may be in several splits (Celeb-DF's test videos in train, a "val" that is "test", all of
  DeepFakeDetection in all three): it counts for the last of train, val, test only.
* DFDC's "val" holds a label and frames in place of videos: it is skipped, with a note.
* Frames are in the order in which a file system returned them: they are sorted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from lpx.data.datasets import celeb_df, deeperforensics, ffpp
from lpx.data.datasets.adapter import (
    SPLITS,
    DatasetInfo,
    Listing,
    MissingFile,
    VideoQuery,
    choose_methods,
    list_folder,
    not_found,
)
from lpx.data.datasets.lists import read_json_table, relative_path
from lpx.data.roots import expanded
from lpx.data.videos import REAL, Video
from lpx.data.wording import printable
from lpx.errors import LpxError

CROP = "aligned-1.3-256"
LEVELS = ("raw", "c0", "c23", "c40")
USUAL_LEVEL = "c23"
# Methods of the labels that follow no rule.
LABELS = {
    "FF-real": REAL,
    "FF-DF": "Deepfakes",
    "FF-F2F": "Face2Face",
    "FF-FS": "FaceSwap",
    "FF-NT": "NeuralTextures",
    "FF-FH": "FaceShifter",
    "FF-SH": "FaceShifter",
    "DFD_real": REAL,
    "DFD_fake": "DeepFakeDetection",
    "CelebDFv1_real": REAL,
    "CelebDFv1_fake": "Celeb-synthesis",
    "CelebDFv2_real": REAL,
    "CelebDFv2_fake": "Celeb-synthesis",
    "DFDCP_Real": REAL,
    "DFDCP_FakeA": "method_A",
    "DFDCP_FakeB": "method_B",
    "DFDC_Real": REAL,
    "DFDC_Fake": "fake",
    "DF_real": REAL,
    "DF_fake": "end_to_end",
    "UADFV_Real": REAL,
    "UADFV_Fake": "fake",
}
_BY_RULE = re.compile(r"(?:.*[^a-z])?(real|fake)", re.IGNORECASE)
# Sets of DF40: a method, and the set whose videos it was applied to.
_DOMAIN = re.compile(r"(.+)_(ff|cdf)")
# Functions that read people from the names of videos, by the beginning of the label.
_IDENTITIES = {
    "FF": ffpp.identities,
    "DFD": ffpp.identities,
    "CelebDFv1": celeb_df.identities,
    "CelebDFv2": celeb_df.identities,
    "DF": deeperforensics.identities,
}
_IDENTITIES_OF_DOMAIN = {"ff": ffpp.identities, "cdf": celeb_df.identities}
# Folders that may hold the frames; DeepfakeBench itself reads them from datasets/rgb.
_BELOW = ("", "rgb", "datasets", "datasets/rgb")
# Characters of a value that an error repeats.
_SHOWN = 80
# Digits of a frame number that int32 can hold in any case.
_MAX_DIGITS = 9


@dataclass(frozen=True)
class _Folder:
    """Listed files of one folder, in order.

    A JSON file may list hundreds of thousands of frames, so paths share the folder's.
    """

    path: PurePosixPath
    names: tuple[str, ...]


class _Source(NamedTuple):
    """The JSON file, and the level asked for; "" if none was."""

    path: Path
    level: str


class _Place(NamedTuple):
    """The keys above an entry of the JSON file; the level is "" in sets without levels."""

    dataset: str
    label: str
    split: str
    level: str
    video: str


@dataclass(frozen=True)
class _Entry:
    """A video as the file lists it."""

    name: str
    method: str
    identities: tuple[str, ...]
    level: str
    split: str
    frames: tuple[_Folder, ...]
    masks: tuple[_Folder, ...]


class _Entries(NamedTuple):
    """Videos of a JSON file.

    Attributes:
        entries: The videos.
        stray: Number of other values in place of a video.
    """

    entries: list[_Entry]
    stray: int


def list_videos(query: VideoQuery) -> Listing:
    """List the crops of the chosen methods, at one level.

    `query.argument` is the file; "FILE.json@c40" chooses among several levels.

    Raises:
        LpxError: The file or the frames are missing, or the file has another structure.
    """
    path, asked = _find_file(query)
    bases = _bases(query.roots, path)
    entries, stray = _read(path, bases)
    level = _choose_level(path, asked, entries)
    notes = []
    levels = _levels(entries)
    if not asked and len(levels) > 1:
        notes.append(
            f"{path.name} lists levels {', '.join(levels)}; these are the crops of {level}."
        )
    entries = [entry for entry in entries if entry.level in ("", level)]
    if not any(entry.frames for entry in entries):
        raise _damaged(f"{path} lists no frames")
    frames = _Frames(bases, entries)
    known = dict.fromkeys(entry.method for entry in entries)
    # Not a choice: real videos are always listed.
    known.pop(REAL, None)
    methods = (REAL, *choose_methods(query.methods, tuple(known)))
    present, absent, lost = [], [], []
    for entry in _one_split_each(entries, notes):
        if entry.method not in methods:
            continue
        video = _video(entry, frames)
        if not video.frames:
            absent.append(video)
            continue
        present.append(video)
        for name in frames.missing(entry):
            missing = MissingFile(entry.split, f"{entry.name}/{name}")
            lost.append(missing)
    if stray:
        notes.append(f"{stray} entries of {path.name} name no video and were skipped.")
    return Listing(frames.base, tuple(present), tuple(absent), tuple(lost), tuple(notes), CROP)


def _find_file(query: VideoQuery) -> _Source:
    text, _, level = query.argument.rpartition("@")
    if level not in LEVELS or not text:
        text, level = query.argument, ""
    named = expanded(text)
    # Joining an absolute path to a root leaves it as it is, hence no repeats.
    searched = dict.fromkeys((named, *(root / named for root in query.roots)))
    for path in searched:
        if path.is_file():
            return _Source(path, level)
    raise LpxError(
        f"{named} does not exist",
        "looked for:" + "".join(f"\n    {path}" for path in searched),
        f"name a JSON file of DeepfakeBench; to obtain one: {INFO.obtained}",
        code="not-found",
    )


def _bases(roots: tuple[Path, ...], path: Path) -> tuple[Path, ...]:
    """List the folders that the paths in a file may be relative to."""
    bases: dict[Path, None] = {}
    for folder in (*roots, *path.absolute().parents[:3]):
        bases |= dict.fromkeys(folder / below for below in _BELOW)
    return tuple(bases)


def _read(path: Path, bases: tuple[Path, ...]) -> _Entries:
    entries, stray = [], 0
    for place, value in _walk(path):
        if not isinstance(value, dict) or not isinstance(value.get("frames"), list):
            stray += 1
            continue
        here = f"{path}: {place.video!r}"
        method = _method(place.dataset, place.label)
        # A video repeats its label, as a name or as a number.
        own = value.get("label", place.label)
        if not isinstance(own, (str, int)):
            raise _damaged(f"{here} has a label that is neither a text nor a number")
        own_method = _method(place.dataset, str(own))
        if method is None or (own_method is not None and (own_method == REAL) != (method == REAL)):
            raise _damaged(f"{here} below {place.label} has the label {str(own)!r}")
        name = "/".join(filter(None, (place.dataset, place.label, place.level, place.video)))
        entries.append(
            _Entry(
                printable(name),
                method,
                _people(place),
                place.level,
                place.split,
                _paths(value["frames"], here, bases),
                _paths(value.get("masks") or [], here, bases),
            )
        )
    return _Entries(entries, stray)


def _walk(path: Path) -> Iterator[tuple[_Place, Any]]:
    """Yield everything in place of a video, with the keys above it."""
    for dataset, labels in read_json_table(path).items():
        for label, splits in labels.items():
            if _method(dataset, label) is None:
                raise _damaged(
                    f"{path}: unknown label {label!r}",
                    f"known labels: X_Real and X_Fake of any X, and {', '.join(LABELS)}",
                )
            if not isinstance(splits, dict) or set(splits) - set(SPLITS):
                raise _damaged(f"{path}: {label} holds other things than {', '.join(SPLITS)}")
            for split, videos in splits.items():
                if not isinstance(videos, dict):
                    continue
                for key, value in videos.items():
                    # A video may be called "raw", too.
                    if key in LEVELS and isinstance(value, dict) and "frames" not in value:
                        for video, entry in value.items():
                            yield _Place(dataset, label, split, key, video), entry
                    else:
                        yield _Place(dataset, label, split, "", key), value


def _method(dataset: str, label: str) -> str | None:
    """Return the method that a label of a set stands for; None if it stands for none."""
    if label in LABELS:
        return LABELS[label]
    if label in ("0", "1"):
        label = ("real", "fake")[int(label)]
    by_rule = _BY_RULE.fullmatch(label)
    if by_rule is None:
        return None
    if by_rule[1].lower() == "real":
        return REAL
    of_domain = _DOMAIN.fullmatch(dataset)
    if of_domain is None:
        return dataset
    return of_domain[1]


def _people(place: _Place) -> tuple[str, ...]:
    """Return the people in a video, if its set names videos after people."""
    of_domain = _DOMAIN.fullmatch(place.dataset)
    if of_domain is not None:
        return _IDENTITIES_OF_DOMAIN[of_domain[2]](place.video)
    read_names = _IDENTITIES.get(place.label.replace("-", "_").partition("_")[0])
    if read_names is None:
        return ()
    return read_names(place.video)


def _paths(listed: Any, listed_in: str, bases: tuple[Path, ...]) -> tuple[_Folder, ...]:
    """Group listed files by folder, sorted by number; a file that is listed twice counts once."""
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        raise _damaged(f"{listed_in}: {str(listed)[:_SHOWN]} is not a list of paths")
    names: dict[str, set[str]] = {}
    # One path of each folder, to be checked for all: checking each would take minutes.
    examples: dict[str, str] = {}
    for text in listed:
        folder, _, name = text.replace("\\", "/").rpartition("/")
        if not name.strip(". ") or "\0" in name:
            raise _damaged(f"{listed_in}: {text!r} names no file")
        examples.setdefault(folder, text)
        names.setdefault(folder, set()).add(name)
    folders = []
    for folder in sorted(names):
        path = _below(examples[folder], listed_in, bases).parent
        folders.append(_Folder(path, tuple(sorted(names[folder], key=_frame_order))))
    return tuple(folders)


def _below(text: str, listed_in: str, bases: tuple[Path, ...]) -> PurePosixPath:
    """Convert a listed path to one relative to a base."""
    if text.startswith("/"):
        for base in bases:
            if text.startswith(f"{base}/"):
                return relative_path(text.removeprefix(f"{base}/"), listed_in)
    return relative_path(text, listed_in)


def frame_number(stem: str) -> int:
    """Return the number in the name of a frame's file; -1 if there is none, or beyond int32."""
    if stem.isdecimal() and len(stem) <= _MAX_DIGITS:
        return int(stem)
    return -1


def _frame_order(name: str) -> tuple[int, str]:
    """Return a key that sorts frame 10 after frame 9."""
    stem = name.partition(".")[0]
    return (frame_number(stem), name)


def _levels(entries: list[_Entry]) -> list[str]:
    return sorted({entry.level for entry in entries} - {""})


def _choose_level(path: Path, asked: str, entries: list[_Entry]) -> str:
    """Choose a compression level; "" if the set has none.

    Raises:
        LpxError: The file does not list the level asked for.
    """
    levels = _levels(entries)
    if asked:
        if asked in levels:
            return asked
        raise LpxError(
            f"{path} lists nothing of level {asked}",
            f"levels in it: {', '.join(levels) or 'none, the set has no levels'}",
            "name one of these after the @, or leave out the @",
        )
    if USUAL_LEVEL in levels or not levels:
        return USUAL_LEVEL if levels else ""
    return levels[0]


def _one_split_each(entries: list[_Entry], notes: list[str]) -> list[_Entry]:
    """Return each video once, in the last split that lists it.

    So training never sees a test video.

    Args:
        entries: Videos, possibly in several splits.
        notes: Receives a note for each pair of splits that share videos.
    """
    last: dict[str, _Entry] = {}
    moved: dict[tuple[str, str], int] = {}
    for entry in sorted(entries, key=lambda entry: SPLITS.index(entry.split)):
        before = last.pop(entry.name, None)
        if before is not None:
            pair = (before.split, entry.split)
            moved[pair] = moved.get(pair, 0) + 1
        last[entry.name] = entry
    for (earlier, later), count in moved.items():
        notes.append(
            f"{count} videos are listed in {earlier} and in {later}; they count for {later} only."
        )
    return list(last.values())


class _Location(NamedTuple):
    """Location of the frames on this disk.

    Attributes:
        base: Folder that paths are relative to.
        skip: Number of leading folders of listed paths to drop.
    """

    base: Path
    skip: int


class _Frames:
    """The listed frames on this disk.

    Listed paths begin with a prefix of somebody else's disk. Only folders that all paths of the
    file have in common can be such a prefix: nothing that distinguishes two videos or methods is
    dropped.

    Attributes:
        base: Folder that paths are relative to.
    """

    def __init__(self, bases: tuple[Path, ...], entries: list[_Entry]) -> None:
        folders: set[PurePosixPath] = set()
        for entry in entries:
            folders.update(folder.path for folder in entry.frames)
        self.base, self._skip = _locate(bases, sorted(folders), _common_depth(folders))
        self._names: dict[PurePosixPath, frozenset[str]] = {}

    def place(self, listed: PurePosixPath) -> Path:
        """Return the path of a listed folder on this disk."""
        return self.base.joinpath(*listed.parts[self._skip :])

    def held(self, folder: _Folder) -> frozenset[str]:
        """Return the names in a folder on disk."""
        # Read once: a system call for each of hundreds of thousands of frames takes minutes.
        if folder.path not in self._names:
            place = self.place(folder.path)
            names = list_folder(place) if place.is_dir() else []
            self._names[folder.path] = frozenset(names)
        return self._names[folder.path]

    def files(self, folder: _Folder) -> list[Path]:
        """Return the listed files that are on disk, in order."""
        held, place = self.held(folder), self.place(folder.path)
        return [place / name for name in folder.names if name in held]

    def missing(self, entry: _Entry) -> Iterator[str]:
        """Yield the names of a video's listed frames that are not on disk."""
        for folder in entry.frames:
            held = self.held(folder)
            for name in folder.names:
                if name not in held:
                    yield name


def _common_depth(folders: set[PurePosixPath]) -> int:
    """Return the number of leading folders that all paths share."""
    depth = 0
    # The last folder is that of a video's frames, and no prefix even if there is only one video.
    for step in zip(*(folder.parts[:-1] for folder in folders), strict=False):
        if len(set(step)) > 1:
            break
        depth += 1
    return depth


def _locate(bases: tuple[Path, ...], folders: list[PurePosixPath], depth: int) -> _Location:
    """Find the base and the length of the prefix.

    Raises:
        LpxError: No listed folder is on disk.
    """
    for base in bases:
        for skip in range(depth + 1):
            # Any folder will do: one missing video must not hide the others.
            if any(base.joinpath(*folder.parts[skip:]).is_dir() for folder in folders):
                return _Location(base, skip)
    raise not_found(INFO, f"{folders[0]}, or the end of it,", bases)


def _video(entry: _Entry, frames: _Frames) -> Video:
    held: list[Path] = []
    for folder in entry.frames:
        held += frames.files(folder)
    masks: list[Path] = []
    for folder in entry.masks:
        masks += frames.files(folder)[:1]
    return Video(
        name=entry.name,
        path=held[0].parent if held else frames.base / entry.name,
        label=int(entry.method != REAL),
        method=entry.method,
        identities=entry.identities,
        split=entry.split,
        mask=masks[0].parent if masks else None,
        frames=tuple(held),
    )


def _damaged(what: str, why: str = "") -> LpxError:
    return LpxError(
        what,
        why or "DeepfakeBench lists {set: {label: {split: {[level:] {video: {label, frames}}}}}}",
        "name a JSON file written by its rearrange.py",
        code="damaged",
    )


INFO = DatasetInfo(
    title="DeepfakeBench's face crops",
    obtained="github.com/SCLBD/DeepfakeBench links to its preprocessed crops and JSON files, and "
    "github.com/YZY-stack/DF40 to those of DF40",
    adapter=list_videos,
)
