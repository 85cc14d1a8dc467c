"""Face crops that were prepared with DeepfakeBench, as one of its JSON files lists them.

    {set: {label: {split: {[level:] {video: {"label": label, "frames": [...], "masks": [...]}}}}}}

The level (raw, c23, c40) stands only in FaceForensics++, FaceShifter and DeepFakeDetection. What
the published files are known for, and what is done about it here:

* Paths are those of a Windows machine, with a prefix of its disk: `_Frames` tries where they are.
* A video may stand in several splits (Celeb-DF's test videos in train, a "val" that is "test", all
  of DeepFakeDetection in all three): it counts for the last of train, val, test alone.
* DFDC's "val" holds a bare label and frames where videos were meant: passed over, and said.
* Frames stand in the order in which a file system returned them: they are sorted.
"""

from __future__ import annotations

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
    Request,
    choose_methods,
    list_folder,
    not_found,
    printable,
)
from lpx.data.datasets.lists import read_json_table, relative_path
from lpx.data.videos import REAL, Video
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
"""Label in the file -> method."""
_IDENTITIES = {
    "FF": ffpp.identities,
    "DFD": ffpp.identities,
    "CelebDFv1": celeb_df.identities,
    "CelebDFv2": celeb_df.identities,
    "DF": deeperforensics.identities,
}
_BELOW = ("", "rgb", "datasets", "datasets/rgb")
"""Where frames lie below a folder; DeepfakeBench itself reads them from datasets/rgb."""


@dataclass(frozen=True)
class _Entry:
    """A video as the file lists it."""

    name: str
    label: str
    level: str
    split: str
    frames: tuple[PurePosixPath, ...]
    masks: tuple[PurePosixPath, ...]


def list_videos(request: Request) -> Listing:
    """The listed crops of the chosen methods, at one level.

    `request.argument` is the file; "FILE.json@c40" chooses among several levels.

    Raises:
        LpxError: The file or the frames are not there, or it is no such file.
    """
    path, level = _open(request)
    bases = _bases(request.roots, path)
    entries, stray = _read(path, bases)
    level, level_notes = _choose_level(path, level, entries)
    entries = [entry for entry in entries if entry.level in ("", level)]
    if not any(entry.frames for entry in entries):
        raise _damaged(f"{path} lists no frames")
    frames = _Frames(bases, entries)
    known = tuple(dict.fromkeys(LABELS[e.label] for e in entries if LABELS[e.label] != REAL))
    methods = (REAL, *choose_methods(request.methods, known))
    unique, notes = _one_split_each(entries)
    listed = [(e, _video(e, frames)) for e in unique if LABELS[e.label] in methods]
    lost = tuple(
        (entry.split, f"{entry.name}/{frame.name}")
        for entry, video in listed
        if video.frames
        for frame in entry.frames
        if not frames.is_held(frame)
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


def _open(request: Request) -> tuple[Path, str]:
    """The JSON file, and the level that is asked for."""
    text, _, level = request.argument.rpartition("@")
    if level not in LEVELS or not text:
        text, level = request.argument, ""
    named = Path(text).expanduser()
    # Joining an absolute path to a root leaves it as it is.
    looked = tuple(dict.fromkeys((named, *(root / named for root in request.roots))))
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
        own = str(value.get("label", label))
        if own in LABELS and (LABELS[own] == REAL) != (LABELS[label] == REAL):
            raise _damaged(f"{path}: {video!r} below {label} has the label {own!r}")
        name = "/".join(part for part in (dataset, label, level, video) if part)
        frames = _paths(value["frames"], f"{path}: {video!r}", bases)
        masks = _paths(value.get("masks") or [], f"{path}: {video!r}", bases)
        entries.append(_Entry(printable(name), label, level, split, frames, masks))
    return entries, stray


def _walk(path: Path) -> Iterator[tuple[tuple[str, str, str, str, str], Any]]:
    """((set, label, split, level or "", video), entry) of everything in a file."""
    for dataset, labels in read_json_table(path).items():
        for label, splits in labels.items():
            if label not in LABELS:
                raise _damaged(
                    f"{path}: unknown label {label!r}", f"known labels: {', '.join(LABELS)}"
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


def _paths(listed: Any, listed_in: str, bases: tuple[Path, ...]) -> tuple[PurePosixPath, ...]:
    """Paths in the order of their frame numbers, each once."""
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        raise _damaged(f"{listed_in}: {str(listed)[:80]} is no list of paths")
    paths = {_below(text, listed_in, bases) for text in listed}
    return tuple(sorted(paths, key=_frame_order))


def _below(text: str, listed_in: str, bases: tuple[Path, ...]) -> PurePosixPath:
    """A listed path, relative to a base; one that is absolute must lie below a base."""
    for base in bases if text.startswith("/") else ():
        if text.startswith(f"{base}/"):
            return relative_path(text.removeprefix(f"{base}/"), listed_in)
    return relative_path(text, listed_in)


def _frame_order(path: PurePosixPath) -> tuple[int, str]:
    return (int(path.stem) if path.stem.isdecimal() else -1, str(path))


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
        folders = {entry.frames[0].parent for entry in entries if entry.frames}
        # The folder of a video's frames itself is no prefix, even where it is the only one.
        steps = zip(*(folder.parts[:-1] for folder in folders), strict=False)
        common = len(list(takewhile(lambda step: len(set(step)) == 1, steps)))
        self.base, self._skip = self._find(bases, sorted(folders), common)
        self._names: dict[Path, frozenset[str]] = {}

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

    def is_held(self, listed: PurePosixPath) -> bool:
        """Whether a listed file is on disk; a folder is read once for all its frames."""
        folder = self.place(listed).parent
        if folder not in self._names:
            self._names[folder] = frozenset(list_folder(folder) if folder.is_dir() else ())
        return listed.name in self._names[folder]


def _video(entry: _Entry, frames: _Frames) -> Video:
    held = tuple(frames.place(path) for path in entry.frames if frames.is_held(path))
    masks = [frames.place(path).parent for path in entry.masks if frames.is_held(path)]
    method = LABELS[entry.label]
    folder = held[0].parent if held else frames.base / entry.name
    identities = _IDENTITIES.get(entry.label.replace("-", "_").partition("_")[0])
    stem = entry.name.rpartition("/")[2]
    return Video(
        name=entry.name,
        path=folder,
        label=int(method != REAL),
        method=method,
        identities=identities(stem) if identities else (),
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
    obtained="github.com/SCLBD/DeepfakeBench links to its preprocessed crops and JSON files",
    adapter=list_videos,
)
