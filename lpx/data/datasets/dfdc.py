"""The Deepfake Detection Challenge set (DFDC); its preview is another set, see `dfdcp`.

    [train/]dfdc_train_part_{0..49}/metadata.json     {"x.mp4": {"label": "FAKE", "split": "train"}}
    test/labels.csv                                   filename,label with 1 = fake

Videos are beside these lists, or in `videos/` below. Neither people nor methods were published.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from lpx.data.datasets.adapter import (
    DatasetInfo,
    Listing,
    MissingFile,
    VideoQuery,
    choose_methods,
    find_root,
    index_folders,
    index_videos,
    key,
    name_of,
)
from lpx.data.datasets.lists import read_csv, read_json_table, relative_path
from lpx.data.videos import REAL, Video
from lpx.errors import LpxError

PARTS = 50
FAKE = "fake"
METADATA = "metadata.json"
LABELS = "labels.csv"
_PART = re.compile(r"dfdc_train_part_0*(\d+)")


class _Label(NamedTuple):
    """A listed file with its label: 1 = fake, 0 = real."""

    name: str
    label: int


class _ListedVideo(NamedTuple):
    """A listed video, and whether it is on disk."""

    video: Video
    present: bool


def list_videos(query: VideoQuery) -> Listing:
    """List the train videos of every part on disk, and the test videos.

    Raises:
        LpxError: The set is not on disk, a list is damaged, or a method is unknown.
    """
    choose_methods(query.methods, INFO.methods)
    root = find_root(INFO, query.roots)
    listed: list[_ListedVideo] = []
    lost: list[MissingFile] = []
    notes = ["DFDC does not name the people in its videos: splits cannot be checked for overlap."]
    parts = _parts(root)
    if len(parts) != PARTS:
        notes.append(f"{len(parts)} of the {PARTS} parts of DFDC's training set are on disk.")
    for part in parts:
        if (part / METADATA).is_file():
            listed += _videos(root, part, _train_labels(part / METADATA), "train")
        else:
            # Without it, the labels of a whole part are unknown.
            lost.append(MissingFile("train", (part / METADATA).relative_to(root).as_posix()))
    if (root / "test" / LABELS).is_file():
        listed += _videos(root, root / "test", _test_labels(root / "test" / LABELS), "test")
    else:
        lost.append(MissingFile("test", f"test/{LABELS}"))
    present, absent = [], []
    for one in listed:
        if one.present:
            present.append(one.video)
        else:
            absent.append(one.video)
    return Listing(root, tuple(present), tuple(absent), tuple(lost), tuple(notes))


def _parts(root: Path) -> list[Path]:
    """Return the folders of the parts, in the order of their numbers."""
    numbered = []
    for folder in (root, root / "train"):
        for name, path in index_folders(folder).items():
            part = _PART.fullmatch(name)
            if part is not None:
                numbered.append((int(part[1]), path))
    return [path for _, path in sorted(numbered)]


def _train_labels(path: Path) -> list[_Label]:
    labels = []
    for name, entry in read_json_table(path).items():
        if entry.get("label") not in ("FAKE", "REAL"):
            raise _unlabelled(f"{path}: {name!r}", entry.get("label"), "FAKE or REAL")
        file = relative_path(name, str(path)).name
        labels.append(_Label(file, int(entry["label"] == "FAKE")))
    return labels


def _test_labels(path: Path) -> list[_Label]:
    labels = []
    for number, (name, label) in read_csv(path, ("filename", "label")):
        here = f"{path}, line {number}"
        if label not in ("0", "1"):
            raise _unlabelled(f"{here}: {name!r}", label, "1 (fake) or 0 (real)")
        labels.append(_Label(relative_path(name, here).name, int(label)))
    return labels


def _unlabelled(where: str, label: object, expected: str) -> LpxError:
    return LpxError(
        f"{where} has the label {label!r}",
        f"{expected} was expected",
        "copy the list again from the data set",
        code="damaged",
    )


def _videos(root: Path, folder: Path, labels: list[_Label], split: str) -> list[_ListedVideo]:
    """Look up the listed videos of a folder."""
    # Copies put videos beside the list, or into folders below it.
    on_disk = index_videos(folder)
    videos = []
    for name, label in labels:
        path = on_disk.get(key(Path(name).stem))
        place = path or folder / name
        method = FAKE if label else REAL
        video = Video(name_of(place, root), place, label, method, (), split)
        videos.append(_ListedVideo(video, path is not None))
    return videos


INFO = DatasetInfo(
    title="DFDC (Deepfake Detection Challenge)",
    obtained="ai.meta.com/datasets/dfdc, or the competition deepfake-detection-challenge on Kaggle",
    adapter=list_videos,
    folders=("DFDC", "dfdc", "deepfake-detection-challenge"),
    marks=("dfdc_train_part_*", "train/dfdc_train_part_*", f"test/{LABELS}"),
    methods=(FAKE,),
)
