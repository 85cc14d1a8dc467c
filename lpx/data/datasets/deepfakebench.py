"""Face crops that were prepared with DeepfakeBench or for DF40, as one of their JSON files lists.

    {set: {label: {split: {[level:] {video: {"label": label, "frames": [...], "masks": [...]}}}}}}

The level (raw, c23, c40) stands only in FaceForensics++, FaceShifter and DeepFakeDetection. What
the published files are known for, and what is done about it here:

* Labels are those of a set, and new sets bring new ones: `X_Real` and `X_Fake` are read by rule.
  In files of DF40 the label may name another method (`roop_Fake` in the set `simswap_ff`): there
  the set names it.
* Paths are those of another machine, with a prefix of its disk: `_Frames` tries where they are.
* A video may stand in several splits (Celeb-DF's test videos in train, a "val" that is "test", all
  of DeepFakeDetection in all three): it counts for the last of train, val, test alone.
* DFDC's "val" holds a bare label and frames where videos were meant: passed over, and said.
* Frames stand in the order in which a file system returned them: they are sorted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from lpx.data.datasets import celeb_df, deeperforensics, ffpp
from lpx.data.datasets.adapter import (
    SPLITS,
    DatasetInfo,
    Listing,
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
"""Label in the file -> method, of the labels that no rule tells."""
_BY_RULE = re.compile(r"(?:.*[^a-z])?(real|fake)", re.IGNORECASE)
_DOMAIN = re.compile(r"(.+)_(ff|cdf)")
"""A set of DF40: a method, and whose videos it was applied to."""
_IDENTITIES = {
    "FF": ffpp.identities,
    "DFD": ffpp.identities,
    "CelebDFv1": celeb_df.identities,
    "CelebDFv2": celeb_df.identities,
    "DF": deeperforensics.identities,
}
_IDENTITIES_OF_DOMAIN = {"ff": ffpp.identities, "cdf": celeb_df.identities}
_BELOW = ("", "rgb", "datasets", "datasets/rgb")
"""Where frames lie below a folder; DeepfakeBench itself reads them from datasets/rgb."""


@dataclass(frozen=True)
class _Folder:
    """Listed files that lie in one folder, in order; a file lists hundreds of thousands."""

    path: PurePosixPath
    names: tuple[str, ...]


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


def list_videos(query: VideoQuery) -> Listing:
    """The listed crops of the chosen methods, at one level.

    `query.argument` is the file; "FILE.json@c40" chooses among several levels.

    Raises:
        LpxError: The file or the frames are not there, or it is no such file.
    """
    path, level = _open(query)
    bases = _bases(query.roots, path)
    entries, stray = _read(path, bases)
    level, level_notes = _choose_level(path, level, entries)
    entries = [entry for entry in entries if entry.level in ("", level)]
    if not any(entry.frames for entry in entries):
        raise _damaged(f"{path} lists no frames")
    frames = _Frames(bases, entries)
    known = tuple(dict.fromkeys(e.method for e in entries if e.method != REAL))
    methods = (REAL, *choose_methods(query.methods, known))
    unique, notes = _one_split_each(entries)
    listed = [(e, _video(e, frames)) for e in unique if e.method in methods]
    lost = tuple(
        (entry.split, f"{entry.name}/{name}")
        for entry, video in listed
        if video.frames
        for folder in entry.frames
        for name in folder.names
        if name not in frames.held(folder)
    )
    if stray:
        notes.append(f"{stray} entries of {path.name} name no video and were passed over.")
    return Listing(
        frames.base,
        tuple(video for _, video in listed if video.frames),
        tuple(video for _, video in listed if not video.frames),
        lost,
        (*level_notes, *notes),
        CROP,
    )


def _open(query: VideoQuery) -> tuple[Path, str]:
    """The JSON file, and the level that is asked for."""
    text, _, level = query.argument.rpartition("@")
    if level not in LEVELS or not text:
        text, level = query.argument, ""
    named = expanded(text)
    # Joining an absolute path to a root leaves it as it is.
    looked = tuple(dict.fromkeys((named, *(root / named for root in query.roots))))
    if (path := next((p for p in looked if p.is_file()), None)) is None:
        raise LpxError(
            f"{named} does not exist",
            "looked for:" + "".join(f"\n    {p}" for p in looked),
            f"name a JSON file of DeepfakeBench; to obtain one: {INFO.obtained}",
        )
    return path, level


def _bases(roots: tuple[Path, ...], path: Path) -> tuple[Path, ...]:
    """Folders that the paths in a file may be relative to."""
    folders = (*roots, *path.absolute().parents[:3])
    return tuple(dict.fromkeys(folder / below for folder in folders for below in _BELOW))


def _read(path: Path, bases: tuple[Path, ...]) -> tuple[list[_Entry], int]:
    """All entries, and how many things stand where an entry was meant."""
    entries, stray = [], 0
    for (dataset, label, split, level, video), value in _walk(path):
        if not isinstance(value, dict) or not isinstance(value.get("frames"), list):
            stray += 1
            continue
        method = _method(dataset, label)
        own = value.get("label", label)
        if not isinstance(own, (str, int)):
            raise _damaged(f"{path}: {video!r} has a label that is neither a text nor a number")
        own = str(own)
        its = _method(dataset, own)
        if method is None or (its is not None and (its == REAL) != (method == REAL)):
            raise _damaged(f"{path}: {video!r} below {label} has the label {own!r}")
        name = "/".join(part for part in (dataset, label, level, video) if part)
        frames = _paths(value["frames"], f"{path}: {video!r}", bases)
        masks = _paths(value.get("masks") or [], f"{path}: {video!r}", bases)
        people = _people(dataset, label, video)
        entries.append(_Entry(printable(name), method, people, level, split, frames, masks))
    return entries, stray


def _walk(path: Path) -> Iterator[tuple[tuple[str, str, str, str, str], Any]]:
    """((set, label, split, level or "", video), entry) of everything in a file."""
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
                for key, value in videos.items() if isinstance(videos, dict) else ():
                    if key in LEVELS and isinstance(value, dict) and "frames" not in value:
                        for video, entry in value.items():
                            yield (dataset, label, split, key, video), entry
                    else:
                        yield (dataset, label, split, "", key), value


def _method(dataset: str, label: str) -> str | None:
    """The method that a label of a set stands for; None where it tells nothing."""
    if label in LABELS:
        return LABELS[label]
    if label in ("0", "1"):
        label = ("real", "fake")[int(label)]
    if (told := _BY_RULE.fullmatch(label)) is None:
        return None
    if told[1].lower() == "real":
        return REAL
    of_domain = _DOMAIN.fullmatch(dataset)
    return of_domain[1] if of_domain else dataset


def _people(dataset: str, label: str, video: str) -> tuple[str, ...]:
    """Whose faces a video shows, where its set names videos after people."""
    of_domain = _DOMAIN.fullmatch(dataset)
    names = (
        _IDENTITIES_OF_DOMAIN[of_domain[2]]
        if of_domain
        else _IDENTITIES.get(label.replace("-", "_").partition("_")[0])
    )
    return names(video) if names else ()


def _paths(listed: Any, listed_in: str, bases: tuple[Path, ...]) -> tuple[_Folder, ...]:
    """The folders that listed files lie in, and each folder's files in the order of their numbers.

    A file that is listed twice counts once.
    """
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        raise _damaged(f"{listed_in}: {str(listed)[:80]} is not a list of paths")
    named: dict[str, tuple[str, set[str]]] = {}
    for text in listed:
        folder, _, name = text.replace("\\", "/").rpartition("/")
        if not name.strip(". ") or "\0" in name:
            raise _damaged(f"{listed_in}: {text!r} names no file")
        named.setdefault(folder, (text, set()))[1].add(name)
    return tuple(
        _Folder(_below(text, listed_in, bases).parent, tuple(sorted(names, key=_frame_order)))
        for _, (text, names) in sorted(named.items())
    )


def _below(text: str, listed_in: str, bases: tuple[Path, ...]) -> PurePosixPath:
    """A listed path, relative to a base; one that is absolute must lie below a base."""
    for base in bases if text.startswith("/") else ():
        if text.startswith(f"{base}/"):
            return relative_path(text.removeprefix(f"{base}/"), listed_in)
    return relative_path(text, listed_in)


def frame_number(stem: str) -> int:
    """The number that the name of a frame's file is; -1 where it is none, or one beyond int32."""
    return int(stem) if stem.isdecimal() and len(stem) <= _MOST_DIGITS else -1


_MOST_DIGITS = 9


def _frame_order(name: str) -> tuple[int, str]:
    stem = name.partition(".")[0]
    return (frame_number(stem), name)


def _choose_level(path: Path, asked: str, entries: list[_Entry]) -> tuple[str, list[str]]:
    levels = sorted({entry.level for entry in entries} - {""})
    if asked and asked not in levels:
        raise LpxError(
            f"{path} lists nothing of level {asked}",
            f"levels in it: {', '.join(levels) or 'none, the set has no levels'}",
            "name one of these behind the @, or leave the @ out",
        )
    if asked or len(levels) < 2:
        return asked or "".join(levels), []
    level = USUAL_LEVEL if USUAL_LEVEL in levels else levels[0]
    return level, [f"{path.name} lists levels {', '.join(levels)}; these are the crops of {level}."]


def _one_split_each(entries: list[_Entry]) -> tuple[list[_Entry], list[str]]:
    """Every video once, in the last split that lists it: training is never to see a test video."""
    last: dict[str, _Entry] = {}
    moved: dict[tuple[str, str], int] = {}
    for entry in sorted(entries, key=lambda entry: SPLITS.index(entry.split)):
        if (earlier := last.pop(entry.name, None)) is not None:
            pair = (earlier.split, entry.split)
            moved[pair] = moved.get(pair, 0) + 1
        last[entry.name] = entry
    notes = [
        f"{count} videos stand in {earlier} and in {later}; they count for {later} alone."
        for (earlier, later), count in moved.items()
    ]
    return list(last.values()), notes


class _Frames:
    """Where the listed frames are: below which base, and after how much of a prefix.

    A listed path starts with what somebody else's disk had. Only what all paths of the file have in
    common may be such a prefix: nothing that tells two videos or two methods apart is cut off.
    """

    def __init__(self, bases: tuple[Path, ...], entries: list[_Entry]) -> None:
        folders = {folder.path for entry in entries for folder in entry.frames}
        # The folder of a video's frames itself is not a prefix, even where it is the only one.
        steps = zip(*(folder.parts[:-1] for folder in folders), strict=False)
        common = len(list(takewhile(lambda step: len(set(step)) == 1, steps)))
        self.base, self._skip = self._find(bases, sorted(folders), common)
        self._names: dict[PurePosixPath, frozenset[str]] = {}

    @staticmethod
    def _find(
        bases: tuple[Path, ...], folders: list[PurePosixPath], common: int
    ) -> tuple[Path, int]:
        for base in bases:
            for skip in range(common + 1):
                # One video that is missing must not hide the others.
                if any(base.joinpath(*folder.parts[skip:]).is_dir() for folder in folders):
                    return base, skip
        raise not_found(INFO, f"{folders[0]}, or the end of it,", bases)

    def place(self, listed: PurePosixPath) -> Path:
        """Where a listed path is on this disk."""
        return self.base.joinpath(*listed.parts[self._skip :])

    def held(self, folder: _Folder) -> frozenset[str]:
        """What a folder holds on disk; it is read once, not asked for every frame."""
        if folder.path not in self._names:
            place = self.place(folder.path)
            names = frozenset(list_folder(place) if place.is_dir() else ())
            self._names[folder.path] = names
        return self._names[folder.path]

    def files(self, folder: _Folder) -> list[Path]:
        """The listed files that are on disk, in order."""
        held, place = self.held(folder), self.place(folder.path)
        return [place / name for name in folder.names if name in held]


def _video(entry: _Entry, frames: _Frames) -> Video:
    held = tuple(path for folder in entry.frames for path in frames.files(folder))
    masks = [path.parent for folder in entry.masks for path in frames.files(folder)[:1]]
    folder = held[0].parent if held else frames.base / entry.name
    return Video(
        name=entry.name,
        path=folder,
        label=int(entry.method != REAL),
        method=entry.method,
        identities=entry.identities,
        split=entry.split,
        mask=masks[0] if masks else None,
        frames=held,
    )


def _damaged(what: str, why: str = "") -> LpxError:
    return LpxError(
        what,
        why or "DeepfakeBench lists {set: {label: {split: {[level:] {video: {label, frames}}}}}}",
        "name a JSON file that its rearrange.py wrote",
    )


INFO = DatasetInfo(
    title="DeepfakeBench's face crops",
    obtained="github.com/SCLBD/DeepfakeBench links to its preprocessed crops and JSON files, and "
    "github.com/YZY-stack/DF40 to those of DF40",
    adapter=list_videos,
)
