"""The Deepfake Detection Challenge set (DFDC); its preview is another set, see `dfdcp`.

    [train/]dfdc_train_part_{0..49}/metadata.json     {"x.mp4": {"label": "FAKE", "split": "train"}}
    test/labels.csv                                   filename,label with 1 = fake

Videos lie beside these lists or in `videos/` below. Who is shown, and by which method a face was
swapped, was not published.
"""

from __future__ import annotations

import re
from pathlib import Path

from lpx.data.datasets.adapter import (
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
from lpx.data.datasets.lists import read_csv, read_json_table, relative_path
from lpx.data.videos import REAL, Video
from lpx.errors import LpxError

PARTS = 50
FAKE = "fake"
METADATA = "metadata.json"
LABELS = "labels.csv"
_PART = re.compile(r"dfdc_train_part_0*(\d+)")


def list_videos(query: VideoQuery) -> Listing:
    """Train videos of every part on disk, and the test videos.

    Raises:
        LpxError: The set is not on disk, a list is damaged, or a method is unknown.
    """
    choose_methods(query.methods, INFO.methods)
    root = find_root(INFO, query.roots)
    listed: list[tuple[Video, bool]] = []
    lost: list[tuple[str, str]] = []
    notes = [
        "DFDC does not tell whose faces its videos show: splits cannot be checked for overlap."
    ]
    parts = _parts(root)
    if len(parts) != PARTS:
        notes.append(f"{len(parts)} of the {PARTS} parts of DFDC's training set are on disk.")
    for part in parts:
        if (part / METADATA).is_file():
            listed += _videos(root, part, _train_labels(part / METADATA), "train")
        else:
            lost.append(("train", (part / METADATA).relative_to(root).as_posix()))
    if (root / "test" / LABELS).is_file():
        listed += _videos(root, root / "test", _test_labels(root / "test" / LABELS), "test")
    else:
        lost.append(("test", f"test/{LABELS}"))
    present = tuple(video for video, held in listed if held)
    absent = tuple(video for video, held in listed if not held)
    return Listing(root, present, absent, tuple(lost), tuple(notes))


def _parts(root: Path) -> list[Path]:
    numbered = [
        (int(part[1]), path)
        for folder in (root, root / "train")
        for name, path in index_folders(folder).items()
        if (part := _PART.fullmatch(name))
    ]
    return [path for _, path in sorted(numbered)]


def _train_labels(path: Path) -> list[tuple[str, int]]:
    labels = []
    for name, entry in read_json_table(path).items():
        if entry.get("label") not in ("FAKE", "REAL"):
            raise _unlabelled(f"{path}: {name!r}", entry.get("label"), "FAKE or REAL")
        labels.append((relative_path(name, str(path)).name, int(entry["label"] == "FAKE")))
    return labels


def _test_labels(path: Path) -> list[tuple[str, int]]:
    labels = []
    for number, (name, label) in read_csv(path, ("filename", "label")):
        if label not in ("0", "1"):
            raise _unlabelled(f"{path}, line {number}: {name!r}", label, "1 (fake) or 0 (real)")
        labels.append((relative_path(name, f"{path}, line {number}").name, int(label)))
    return labels


def _unlabelled(where: str, label: object, expected: str) -> LpxError:
    return LpxError(
        f"{where} has the label {label!r}",
        f"{expected} was expected",
        "copy the list again from the data set",
    )


def _videos(
    root: Path, folder: Path, labels: list[tuple[str, int]], split: str
) -> list[tuple[Video, bool]]:
    """The listed videos of a folder, and whether each is on disk."""
    found = index_videos(folder)
    videos = []
    for name, label in labels:
        path = found.get(key(Path(name).stem))
        place = path or folder / name
        method = FAKE if label else REAL
        videos.append(
            (Video(name_of(place, root), place, label, method, (), split), path is not None)
        )
    return videos


INFO = DatasetInfo(
    title="DFDC (Deepfake Detection Challenge)",
    obtained="ai.meta.com/datasets/dfdc, or the competition deepfake-detection-challenge on Kaggle",
    adapter=list_videos,
    folders=("DFDC", "dfdc", "deepfake-detection-challenge"),
    marks=("dfdc_train_part_*", "train/dfdc_train_part_*", f"test/{LABELS}"),
    methods=(FAKE,),
)
