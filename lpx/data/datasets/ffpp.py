"""FaceForensics++: a thousand originals, and fakes of them by several methods.

    original_sequences/{youtube,actors}/{raw or c0,c23,c40}/{videos,images}
    manipulated_sequences/<method>/{raw or c0,c23,c40}/{videos,images}
    manipulated_sequences/<method>/masks/**            of no compression level
    {train,val,test}.json                              pairs of ids, in the authors' repository

`images` holds a folder of whole frames for each video.

A pair (a, b) of a split stands for the originals a and b, and for the fakes a_b (b's face on a) and
b_a of each method. So no identity of a split occurs in another. DeepFakeDetection has its own
actors, and no official split.
"""

from __future__ import annotations

import re
from functools import partial
from itertools import chain
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
    partition,
)
from lpx.data.datasets.lists import read_json
from lpx.data.videos import REAL, Video
from lpx.errors import LpxError

# Names of the folder of each compression level.
LEVELS = {"raw": ("raw", "c0"), "c23": ("c23",), "c40": ("c40",)}
USUAL = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
ACTORS = "DeepFakeDetection"
METHODS = (*USUAL, "FaceShifter", ACTORS)
# Number of pairs in the official lists.
PAIRS = {"train": 360, "val": 70, "test": 70}
_YOUTUBE = "original_sequences/youtube"
_ACTORS = "original_sequences/actors"
_ID = re.compile(r"[0-9]{3}")
_PAIR = re.compile(r"([0-9]{3})_([0-9]{3})")
_ACTOR = re.compile(r"([0-9]{2})(?:_([0-9]{2}))?__")


def identities(stem: str) -> tuple[str, ...]:
    """Return the people in a video, by its name.

    Returns:
        (person) for an original, (target, source) for a fake. Actors are called "actor_01", as
        their numbers are also ids of originals.
    """
    pair = _PAIR.fullmatch(stem)
    if pair is not None:
        return pair.groups()
    actor = _ACTOR.match(stem)
    if actor is not None:
        return tuple(f"actor_{number}" for number in actor.groups() if number)
    return (stem,) if _ID.fullmatch(stem) else ()


def read_pairs(root: Path, split: str) -> tuple[tuple[str, str], ...]:
    """Read the pairs of ids of a split.

    Raises:
        LpxError: The list is missing, or is not a list of pairs.
    """
    searched = [root / f"{folder}{split}.json" for folder in ("", "splits/", "dataset/splits/")]
    path = next(filter(Path.is_file, searched), None)
    if path is None:
        raise LpxError(
            f"the FaceForensics++ split {split} is not on disk",
            "looked for:" + "".join(f"\n    {file}" for file in searched),
            "copy train.json, val.json and test.json there from the folder dataset/splits of the "
            "repository FaceForensics (github.com/ondyari/FaceForensics)",
            code="not-found",
        )
    value = read_json(path)
    entries = value if isinstance(value, list) else [value]
    pairs = []
    for number, entry in enumerate(entries, start=1):
        if not _is_pair(entry):
            raise LpxError(
                f"{path}, entry {number}: {str(entry)[:80]} is not a pair of ids",
                'a split is a list of pairs such as ["953", "974"]',
                "copy it again from the repository FaceForensics",
                code="damaged",
            )
        pairs.append((entry[0], entry[1]))
    return tuple(pairs)


def _is_pair(entry: object) -> bool:
    if not isinstance(entry, list) or len(entry) != 2:
        return False
    return all(isinstance(text, str) and _ID.fullmatch(text) for text in entry)


def list_videos(query: VideoQuery, level: str) -> Listing:
    """List the videos of one compression level.

    Raises:
        LpxError: The set, its level or a split list is not on disk; or a method is unknown.
    """
    info = INFO[level]
    methods = choose_methods(query.methods, METHODS, USUAL)
    root = find_root(info, query.roots)
    _check_level(root, level)
    paired = tuple(method for method in methods if method != ACTORS)
    pairs = {}
    listed = []
    if paired:
        for split in SPLITS:
            if query.split in (None, split):
                pairs[split] = read_pairs(root, split)
        _check_apart(root, pairs)
        listed = _paired(root, level, paired, pairs)
    if ACTORS in methods:
        listed += _unpaired(root, level)
    notes = []
    for split, listed_pairs in pairs.items():
        if len(listed_pairs) != PAIRS[split]:
            notes.append(f"{split}.json: {len(listed_pairs)} pairs, officially {PAIRS[split]}.")
    # A video may be a folder of frames.
    present, absent = partition(listed, Path.exists)
    return Listing(root, present, absent, notes=tuple(notes), hint=_hint(root, absent))


def _hint(root: Path, absent: tuple[Video, ...]) -> str:
    """Say how to use absent videos whose frames are on disk; "" if there are none."""
    # One video per folder is enough.
    examples = {video.path.parent.parent: video.path.stem for video in absent}
    for level, stem in examples.items():
        for name in index_folders(level):
            if name not in ("videos", "images") and (level / name / stem).is_dir():
                return (
                    f"{(level / name).relative_to(root)} and folders like it hold frames: if these "
                    f"are whole frames, rename each {name}/ to images/, and lpx reads them as "
                    "videos; if they are DeepfakeBench's face crops, name the JSON file that lists "
                    "them: deepfakebench:FILE.json"
                )
    return ""


def _check_level(root: Path, level: str) -> None:
    known = set(chain.from_iterable(LEVELS.values()))
    held = {folder.name for folder in root.glob("*_sequences/*/*")} & known
    if not held.intersection(LEVELS[level]):
        raise LpxError(
            f"{root} holds no videos of level {level}",
            f"levels found there: {', '.join(sorted(held)) or 'none'}",
            "name a level that is there (ffpp-raw, ffpp-c23, ffpp-c40), or download this one: "
            f"{INFO[level].obtained}",
            code="not-found",
        )


def _check_apart(root: Path, pairs: dict[str, tuple[tuple[str, str], ...]]) -> None:
    """Check that no identity is in two splits."""
    home: dict[str, str] = {}
    for split, entries in pairs.items():
        for identity in chain.from_iterable(entries):
            if home.setdefault(identity, split) != split:
                raise LpxError(
                    f"{root}: {home[identity]}.json and {split}.json both list {identity}",
                    "one of them is not the official list; with a shared identity, results would "
                    "measure memory",
                    "copy the three lists again from the repository FaceForensics",
                    code="damaged",
                )


def _paired(
    root: Path,
    level: str,
    methods: tuple[str, ...],
    pairs: dict[str, tuple[tuple[str, str], ...]],
) -> list[Video]:
    """List the originals, then the fakes of each method, in the order of the lists."""
    originals = _Sequence(root, _YOUTUBE, level)
    videos = []
    # dict.fromkeys drops repeated names, but keeps their order.
    for split, entries in pairs.items():
        stems = dict.fromkeys(chain.from_iterable(entries))
        videos += [originals.video(stem, 0, REAL, split) for stem in stems]
    for method in methods:
        fakes = _Sequence(root, f"manipulated_sequences/{method}", level)
        for split, entries in pairs.items():
            swaps: dict[str, None] = {}
            for one, other in entries:
                swaps |= {f"{one}_{other}": None, f"{other}_{one}": None}
            videos += [fakes.video(stem, 1, method, split) for stem in swaps]
    return videos


def _unpaired(root: Path, level: str) -> list[Video]:
    """List the actors' videos and their fakes: all on disk, as there is no official list."""
    sequences = ((_ACTORS, 0, REAL), (f"manipulated_sequences/{ACTORS}", 1, ACTORS))
    videos = []
    for folder, label, method in sequences:
        sequence = _Sequence(root, folder, level)
        if not sequence.on_disk:
            raise LpxError(
                f"{root / folder} holds no videos of level {level}",
                f"{ACTORS} has no official list that names the missing ones",
                f"download them: {INFO[level].obtained}",
                code="not-found",
            )
        videos += [sequence.video(stem, label, method, "") for stem in sequence.on_disk]
    return videos


class _Sequence:
    """The videos of one method at one level, and their masks.

    Attributes:
        on_disk: Videos on disk by their key, sorted.
    """

    def __init__(self, root: Path, folder: str, level: str) -> None:
        self._root = root
        self._usual = root / folder / LEVELS[level][0] / "videos"
        self.on_disk: dict[str, Path] = {}
        # The right side of "|" wins: a video over a dump of its frames, and "raw" over its other
        # name "c0".
        for name in LEVELS[level]:
            self.on_disk = index_videos(root / folder / name / "videos") | self.on_disk
        for name in LEVELS[level]:
            self.on_disk = index_folders(root / folder / name / "images") | self.on_disk
        self.on_disk = dict(sorted(self.on_disk.items()))
        masks = root / folder / "masks"
        self._masks = index_folders(masks) | index_folders(masks / "images") | index_videos(masks)

    def video(self, stem: str, label: int, method: str, split: str) -> Video:
        """Return a video; its path is where it should be if it is not on disk."""
        path = self.on_disk.get(key(stem), self._usual / f"{stem}.mp4")
        name = name_of(path, self._root)
        mask = self._masks.get(key(stem))
        return Video(name, path, label, method, identities(stem), split, mask)


def _info(level: str) -> DatasetInfo:
    return DatasetInfo(
        title=f"FaceForensics++ ({level})",
        obtained="fill out the form that github.com/ondyari/FaceForensics links to; its download "
        f"script takes -c {level}",
        adapter=partial(list_videos, level=level),
        folders=("FaceForensics++", "FaceForensicspp", "faceforensics++", "ffpp", "FF++"),
        marks=("original_sequences", "manipulated_sequences"),
        methods=METHODS,
        usual=USUAL,
    )


INFO = {level: _info(level) for level in LEVELS}
