"""DeeperForensics-1.0: actors' faces on the originals of FaceForensics++.

    manipulated_videos/<11 variants>/<target>_<actor>.mp4
    lists/splits/{train,val,test}.txt         names of manipulated videos, the same in each variant
    source_videos/                            the actors

The authors say that the actors' source videos are not the real part. The real videos are the target
videos, which are originals of FaceForensics++ at c23 and only come with that set
(github.com/EndlessSora/DeeperForensics-1.0, dataset/README.md, "Target videos").
"""

from __future__ import annotations

import re
from pathlib import Path

from lpx.data.datasets import ffpp
from lpx.data.datasets.adapter import (
    SPLITS,
    DatasetInfo,
    Listing,
    VideoQuery,
    choose_methods,
    find_root,
    index_videos,
    key,
    name_of,
    partition,
    possible_roots,
)
from lpx.data.datasets.lists import read_lines, relative_path
from lpx.data.videos import REAL, Video
from lpx.errors import LpxError

VARIANTS = (
    "end_to_end",
    "end_to_end_level_1",
    "end_to_end_level_2",
    "end_to_end_level_3",
    "end_to_end_level_4",
    "end_to_end_level_5",
    "end_to_end_mix_2_distortions",
    "end_to_end_mix_3_distortions",
    "end_to_end_mix_4_distortions",
    "end_to_end_random_level",
    "reenact_postprocess",
)
_TARGETS = "original_sequences/youtube/c23/videos"
_NAME = re.compile(r"(\d{3})_([MW]\d{3})")


def identities(stem: str) -> tuple[str, ...]:
    """Return the people in a video, by its name.

    Returns:
        (target of FaceForensics++, actor) for a manipulated video, else ().
    """
    people = _NAME.fullmatch(stem)
    return people.groups() if people else ()


def read_split(root: Path, split: str) -> tuple[str, ...]:
    """Read the names of a split's manipulated videos, without suffix.

    Raises:
        LpxError: The list is missing, or a line names no manipulated video.
    """
    path = root / "lists" / "splits" / f"{split}.txt"
    if not path.is_file():
        raise LpxError(
            f"{path} does not exist",
            "it lists the videos of the split",
            "unpack the lists that come with the data set",
            code="not-found",
        )
    stems = []
    for number, line in read_lines(path):
        stem = relative_path(line, f"{path}, line {number}").name.removesuffix(".mp4")
        if not _NAME.fullmatch(stem):
            raise LpxError(
                f"{path}, line {number}: {line!r} names no manipulated video",
                "a name is <target>_<actor>.mp4, such as 000_M101.mp4",
                "unpack the list again",
                code="damaged",
            )
        stems.append(stem)
    return tuple(dict.fromkeys(stems))


def list_videos(query: VideoQuery) -> Listing:
    """List the target videos of each split, and the fakes of each variant.

    Raises:
        LpxError: The set or a list is not on disk, a list is damaged, or a method is unknown.
    """
    variants = choose_methods(query.methods, VARIANTS)
    root = find_root(INFO, query.roots)
    splits = [split for split in SPLITS if query.split in (None, split)]
    stems = {split: read_split(root, split) for split in splits}
    videos: list[Video] = []
    originals = _originals(query.roots, root)
    for split in splits:
        # Several fakes share a target; dict.fromkeys keeps the order of the list.
        targets = dict.fromkeys(stem[:3] for stem in stems[split])
        videos += [_target(originals, target, split) for target in targets]
    for variant in variants:
        folder = root / "manipulated_videos" / variant
        on_disk = index_videos(folder)
        for split in splits:
            for stem in stems[split]:
                path = on_disk.get(key(stem), folder / f"{stem}.mp4")
                name = name_of(folder / stem, root)
                videos.append(Video(name, path, 1, variant, identities(stem), split))
    note = (
        "The real videos of DeeperForensics-1.0 are originals of FaceForensics++ (c23): a model "
        "that was trained on those has seen these faces."
    )
    return Listing(root, *partition(videos), notes=(note,))


def _originals(roots: tuple[Path, ...], root: Path) -> Path:
    """Find the folder of FaceForensics++'s originals, or return where it should be."""
    # Copies hold the targets themselves, or beside them a copy of FaceForensics++.
    for folder in possible_roots(ffpp.INFO["c23"], (root, *roots, root.parent)):
        originals = folder / _TARGETS
        if originals.is_dir():
            return originals
    return root / _TARGETS


def _target(originals: Path, target: str, split: str) -> Video:
    path = originals / f"{target}.mp4"
    return Video(f"{_TARGETS}/{target}", path, 0, REAL, (target,), split)


INFO = DatasetInfo(
    title="DeeperForensics-1.0",
    obtained="fill out the form that github.com/EndlessSora/DeeperForensics-1.0 links to (its "
    "reals come with FaceForensics++ at c23)",
    adapter=list_videos,
    folders=("DeeperForensics-1.0", "DeeperForensics", "deeperforensics"),
    marks=("manipulated_videos",),
    methods=VARIANTS,
)
