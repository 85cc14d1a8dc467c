"""Celeb-DF v2: interviews of celebrities, and face swaps between them.

    Celeb-real/*.mp4  YouTube-real/*.mp4  Celeb-synthesis/*.mp4       in some copies below videos/
    List_of_testing_videos.txt        lines of `<digit> <folder>/<name>.mp4`, without a header

In that list the digit is 1 for real, the opposite of everywhere else in the field. So the folder
decides, and a digit that contradicts it is an error.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from lpx.data.datasets.adapter import (
    DatasetInfo,
    Listing,
    VideoQuery,
    choose_methods,
    find_root,
    index_folders,
    index_videos,
    key,
)
from lpx.data.datasets.lists import read_lines, relative_path
from lpx.data.videos import REAL, Video
from lpx.data.wording import printable
from lpx.errors import LpxError

FAKE = "Celeb-synthesis"
# Official number of videos in each folder.
COUNTS = {"Celeb-real": 590, "YouTube-real": 300, FAKE: 5639}
LIST = "List_of_testing_videos.txt"
LISTED = 518
# Copies spell the folders in other cases.
_SPELLED = {name.casefold(): name for name in COUNTS}
_LINE = re.compile(r"(\d+)\s+(.+)")
_PEOPLE = re.compile(r"(id\d+)_(?:(id\d+)_)?\d+")


def identities(stem: str) -> tuple[str, ...]:
    """Return the people in a video, by its name.

    Returns:
        (person) for a celebrity's video, (target, source) for a face swap, else ().
    """
    people = _PEOPLE.fullmatch(stem)
    return tuple(filter(None, people.groups())) if people else ()


def read_test_list(path: Path) -> tuple[str, ...]:
    """Read the names "<folder>/<name>" of the test videos, with folders in the official spelling.

    Raises:
        LpxError: A line has another form, or its digit contradicts its folder.
    """
    names = []
    for number, line in read_lines(path):
        here = f"{path}, line {number}"
        parts = _LINE.fullmatch(line)
        inside, folder = PurePosixPath(), ""
        if parts is not None:
            inside = relative_path(parts[2], here)
            if len(inside.parts) > 1:
                folder = _SPELLED.get(inside.parts[0].casefold(), "")
        if parts is None or not folder or parts[1] not in ("0", "1"):
            raise LpxError(
                f"{here}: {line!r} names no video",
                f"a line is a digit and a path below {', '.join(COUNTS)}: 1 YouTube-real/00000.mp4",
                "copy the list again from the data set",
                code="damaged",
            )
        # Somebody may have "corrected" the digits in a copy: neither can be trusted then.
        if (parts[1] == "1") != (folder != FAKE):
            raise LpxError(
                f"{here}: digit {parts[1]} contradicts the folder {folder}",
                "in this list, 1 stands for real and 0 for fake, the opposite of other lists",
                "copy the list again from the data set; do not swap the digits",
                code="damaged",
            )
        names.append(f"{folder}/{key(inside.stem)}")
    return tuple(names)


def list_videos(query: VideoQuery) -> Listing:
    """List the official test videos; all others on disk are for training.

    Raises:
        LpxError: The set or its list is not on disk, the list is damaged, or a method is unknown.
    """
    choose_methods(query.methods, INFO.methods)
    root = find_root(INFO, query.roots)
    path = root / LIST
    if not path.is_file():
        raise LpxError(
            f"{path} does not exist",
            "it lists the test videos",
            "copy it there; it comes with the data set",
            code="not-found",
        )
    test = read_test_list(path)
    videos: dict[str, Path] = {}
    notes = ["Celeb-DF v2 has no official validation split; train is all but the test videos."]
    # Copies are often incomplete, and only the test videos are listed: counts reveal the others.
    for folder, official in COUNTS.items():
        held = _videos_in(root, folder)
        videos |= held
        if len(held) != official:
            notes.append(f"{folder}: {len(held)} videos, officially {official}.")
    if len(test) != LISTED:
        notes.append(f"{LIST}: {len(test)} videos, officially {LISTED}.")
    for_test = set(test)
    present = []
    for name, video in videos.items():
        split = "test" if name in for_test else "train"
        present.append(_video(name, video, split))
    absent = []
    for name in test:
        if name not in videos:
            absent.append(_video(name, root / f"{name}.mp4", "test"))
    return Listing(root, tuple(present), tuple(absent), notes=tuple(notes))


def _videos_in(root: Path, folder: str) -> dict[str, Path]:
    """Index the videos of a folder, in any spelling, by "<folder>/<name>"."""
    videos: dict[str, Path] = {}
    for name, path in index_folders(root).items():
        if name.casefold() == folder.casefold():
            videos |= index_videos(path)
    return {f"{folder}/{stem}": path for stem, path in sorted(videos.items())}


def _video(name: str, path: Path, split: str) -> Video:
    folder, _, stem = name.partition("/")
    fake = folder == FAKE
    return Video(printable(name), path, int(fake), FAKE if fake else REAL, identities(stem), split)


INFO = DatasetInfo(
    title="Celeb-DF v2",
    obtained="fill out the form that github.com/yuezunli/celeb-deepfakeforensics links to",
    adapter=list_videos,
    folders=("Celeb-DF-v2", "Celeb-DF", "celeb-df-v2", "Celeb-DF_v2", "CelebDF-v2", "celebdfv2"),
    marks=(FAKE, LIST),
    methods=(FAKE,),
)
