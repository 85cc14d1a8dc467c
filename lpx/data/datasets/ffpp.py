"""FaceForensics++: a thousand originals, and fakes of them by several methods.

    original_sequences/{youtube,actors}/{raw or c0,c23,c40}/{videos,images}
    manipulated_sequences/<method>/{raw or c0,c23,c40}/{videos,images}
    manipulated_sequences/<method>/masks/**            of no compression level
    {train,val,test}.json                              pairs of ids, in the authors' repository

`images` holds a folder of whole frames for each video.

A pair (a, b) of a split gives the reals a and b, and of each method the fakes a_b (b's face on a)
and b_a. So no identity of a split occurs in another. DeepFakeDetection shows actors of its own,
and has no official split.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from lpx.data.datasets.adapter import (
    SPLITS,
    DatasetInfo,
    Listing,
    VideoQuery,
    choose_methods,
    find_root,
    index_folders,
    index_videos,
    key,
    name_of,
)
from lpx.data.datasets.lists import read_json
from lpx.data.videos import REAL, Video
from lpx.errors import LpxError

LEVELS = {"raw": ("raw", "c0"), "c23": ("c23",), "c40": ("c40",)}
"""The names that each compression level's folder has."""
USUAL = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
ACTORS = "DeepFakeDetection"
METHODS = (*USUAL, "FaceShifter", ACTORS)
PAIRS = {"train": 360, "val": 70, "test": 70}
"""How many pairs the official lists hold."""
_YOUTUBE = "original_sequences/youtube"
_ACTORS = "original_sequences/actors"
_ID = re.compile(r"[0-9]{3}")
_PAIR = re.compile(r"([0-9]{3})_([0-9]{3})")
_ACTOR = re.compile(r"([0-9]{2})(?:_([0-9]{2}))?__")


def identities(stem: str) -> tuple[str, ...]:
    """Whose faces a video of this name shows: (itself) of an original, (target, source) of a fake.

    Actors are told apart from the originals' three-digit ids: "actor_01".
    """
    if pair := _PAIR.fullmatch(stem):
        return pair.groups()
    if actor := _ACTOR.match(stem):
        return tuple(f"actor_{number}" for number in actor.groups() if number)
    return (stem,) if _ID.fullmatch(stem) else ()


def read_pairs(root: Path, split: str) -> tuple[tuple[str, str], ...]:
    """The pairs of ids of a split.

    Raises:
        LpxError: The list is not there, or is not a list of pairs.
    """
    looked = [root / f"{folder}{split}.json" for folder in ("", "splits/", "dataset/splits/")]
    path = next((p for p in looked if p.is_file()), None)
    if path is None:
        raise LpxError(
            f"the FaceForensics++ split {split} is not on disk",
            "looked for:" + "".join(f"\n    {p}" for p in looked),
            "copy train.json, val.json and test.json there from the folder dataset/splits of the "
            "repository FaceForensics (github.com/ondyari/FaceForensics)",
        )
    value = read_json(path)
    for number, entry in enumerate(value if isinstance(value, list) else [value], start=1):
        if not _is_pair(entry):
            raise LpxError(
                f"{path}, entry {number}: {str(entry)[:80]} is not a pair of ids",
                'a split is a list of pairs such as ["953", "974"]',
                "copy it again from the repository FaceForensics",
            )
    return tuple((first, second) for first, second in value)


def _is_pair(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and all(isinstance(text, str) and _ID.fullmatch(text) for text in entry)
    )


def list_videos(query: VideoQuery, level: str) -> Listing:
    """The videos of one compression level.

    Raises:
        LpxError: The set, its level or a split list is not on disk; or a method is unknown.
    """
    info = INFO[level]
    methods = choose_methods(query.methods, METHODS, USUAL)
    root = find_root(info, query.roots)
    _check_level(root, level)
    paired = tuple(method for method in methods if method != ACTORS)
    splits = [split for split in SPLITS if query.split in (None, split)] if paired else []
    pairs = {split: read_pairs(root, split) for split in splits}
    _check_apart(root, pairs)
    listed = _paired(root, level, paired, pairs) if paired else []
    if ACTORS in methods:
        listed += _unpaired(root, level)
    notes = [
        f"{split}.json: {len(pairs[split])} pairs, officially {PAIRS[split]}."
        for split in splits
        if len(pairs[split]) != PAIRS[split]
    ]
    present = tuple(video for video in listed if video.path.exists())
    absent = tuple(video for video in listed if not video.path.exists())
    return Listing(root, present, absent, notes=tuple(notes), hint=_hint(root, absent))


def _hint(root: Path, absent: tuple[Video, ...]) -> str:
    """Where the frames of absent videos are, and how to have them read; "" where they are not."""
    for level, stem in {video.path.parent.parent: video.path.stem for video in absent}.items():
        for name in index_folders(level):
            if name not in ("videos", "images") and (level / name / stem).is_dir():
                return (
                    f"{(level / name).relative_to(root)} and folders like it hold frames: where "
                    f"these are whole frames, rename each {name}/ to images/, and lpx reads them "
                    "as videos; where they are DeepfakeBench's face crops, name the JSON file that "
                    "lists them, as in --dataset deepfakebench:FILE.json"
                )
    return ""


def _check_level(root: Path, level: str) -> None:
    held = {
        folder.name
        for sequence in root.glob("*_sequences/*")
        for folder in sequence.glob("*")
        if folder.name in ("raw", "c0", "c23", "c40")
    }
    if not held.intersection(LEVELS[level]):
        raise LpxError(
            f"{root} holds no videos of level {level}",
            f"levels found there: {', '.join(sorted(held)) or 'none'}",
            "name a level that is there (ffpp-raw, ffpp-c23, ffpp-c40), or download this one: "
            f"{INFO[level].obtained}",
        )


def _check_apart(root: Path, pairs: dict[str, tuple[tuple[str, str], ...]]) -> None:
    home: dict[str, str] = {}
    for split, entries in pairs.items():
        for identity in (identity for pair in entries for identity in pair):
            if home.setdefault(identity, split) != split:
                raise LpxError(
                    f"{root}: {home[identity]}.json and {split}.json both list {identity}",
                    "one of them is not the official list; a split that shares an identity with "
                    "another measures memory",
                    "copy the three lists again from the repository FaceForensics",
                )


def _paired(
    root: Path,
    level: str,
    methods: tuple[str, ...],
    pairs: dict[str, tuple[tuple[str, str], ...]],
) -> list[Video]:
    """The originals, then each method's fakes, in the order of the lists."""
    originals = _Sequence(root, _YOUTUBE, level)
    videos = []
    for split, entries in pairs.items():
        stems = dict.fromkeys(identity for pair in entries for identity in pair)
        videos += [originals.video(stem, 0, REAL, split) for stem in stems]
    for method in methods:
        fakes = _Sequence(root, f"manipulated_sequences/{method}", level)
        for split, entries in pairs.items():
            stems = dict.fromkeys(f"{x}_{y}" for a, b in entries for x, y in ((a, b), (b, a)))
            videos += [fakes.video(stem, 1, method, split) for stem in stems]
    return videos


def _unpaired(root: Path, level: str) -> list[Video]:
    """The actors' videos and their fakes: all that lie on disk, for no list names them."""
    sequences = ((_ACTORS, 0, REAL), (f"manipulated_sequences/{ACTORS}", 1, ACTORS))
    videos = []
    for folder, label, method in sequences:
        sequence = _Sequence(root, folder, level)
        if not sequence.found:
            raise LpxError(
                f"{root / folder} holds no videos of level {level}",
                f"{ACTORS} has no official list, so that nothing tells which are missing",
                f"download them: {INFO[level].obtained}",
            )
        videos += [sequence.video(stem, label, method, "") for stem in sequence.found]
    return videos


class _Sequence:
    """The videos of one method at one level, and their masks."""

    def __init__(self, root: Path, folder: str, level: str) -> None:
        self._root = root
        self._usual = root / folder / LEVELS[level][0] / "videos"
        self.found: dict[str, Path] = {}
        # A video before a dump of its frames, and "raw" before its other name "c0".
        for name in LEVELS[level]:
            self.found = index_videos(root / folder / name / "videos") | self.found
        for name in LEVELS[level]:
            self.found = index_folders(root / folder / name / "images") | self.found
        self.found = dict(sorted(self.found.items()))
        masks = root / folder / "masks"
        self._masks = index_folders(masks) | index_folders(masks / "images") | index_videos(masks)

    def video(self, stem: str, label: int, method: str, split: str) -> Video:
        path = self.found.get(key(stem), self._usual / f"{stem}.mp4")
        name = name_of(path, self._root)
        mask = self._masks.get(key(stem))
        return Video(name, path, label, method, identities(stem), split, mask)


INFO = {
    level: DatasetInfo(
        title=f"FaceForensics++ ({level})",
        obtained="fill out the form that github.com/ondyari/FaceForensics links to; its download "
        f"script takes -c {level}",
        adapter=partial(list_videos, level=level),
        folders=("FaceForensics++", "FaceForensicspp", "faceforensics++", "ffpp", "FF++"),
        marks=("original_sequences", "manipulated_sequences"),
        methods=METHODS,
        usual=USUAL,
    )
    for level in LEVELS
}
