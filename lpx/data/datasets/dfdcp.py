"""The preview of the Deepfake Detection Challenge (DFDCP): another set than DFDC.

    dataset.json     {"method_A/.../x.mp4": {"label": "fake", "set": "train", "target_id": ...,
                      "swapped_id": ..., "augmentations": [...]}}

Paths are relative to the root. Some copies put all videos of a method into `<method>/videos/`.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from lpx.data.datasets.adapter import (
    DatasetInfo,
    Listing,
    VideoQuery,
    choose_methods,
    find_root,
    name_of,
    partition,
)
from lpx.data.datasets.lists import read_json_table, relative_path
from lpx.data.videos import REAL, Video
from lpx.errors import LpxError

LIST = "dataset.json"
METHODS = ("method_A", "method_B")
_LABELS = {"real": 0, "fake": 1}
_SPLITS = ("train", "test")


def list_videos(query: VideoQuery) -> Listing:
    """List the videos of the chosen methods.

    Raises:
        LpxError: The set or its list is not on disk, the list is damaged, or a method is unknown.
    """
    methods = choose_methods(query.methods, METHODS)
    root = find_root(INFO, query.roots)
    if not (root / LIST).is_file():
        raise LpxError(
            f"{root / LIST} does not exist",
            "it lists labels and splits",
            "copy it there; it comes with the data set",
            code="not-found",
        )
    chosen = []
    for name, entry in read_json_table(root / LIST).items():
        video = _video(root, name, entry)
        if video.method in (REAL, *methods):
            chosen.append(video)
    notes = ("DFDCP has no official validation split.",)
    return Listing(root, *partition(chosen), notes=notes)


def _video(root: Path, name: str, entry: dict[str, Any]) -> Video:
    """Convert an entry of the list.

    Raises:
        LpxError: Its label, split, method or people are not what they can be.
    """
    here = f"{root / LIST}: {name!r}"
    inside = relative_path(name, str(root / LIST))
    label, split = entry.get("label"), entry.get("set")
    # The method is only in the path.
    method = inside.parts[0] if label == "fake" else REAL
    # A list or an object has no hash, and cannot be looked up in a dictionary.
    if (
        not isinstance(label, str)
        or label not in _LABELS
        or split not in _SPLITS
        or method not in (REAL, *METHODS)
    ):
        raise LpxError(
            f"{here} has label {label!r} and set {split!r}",
            f"expected a label of {' or '.join(_LABELS)}, a set of {' or '.join(_SPLITS)}, and "
            f"fakes in {' or '.join(METHODS)}",
            "copy the list again from the data set",
            code="damaged",
        )
    people = ["target_id"]
    if label == "fake":
        people.append("swapped_id")
    identities = []
    for field in people:
        person = entry.get(field)
        if person is None:
            continue
        if not isinstance(person, (str, int)):
            raise LpxError(
                f"{here} names people by something other than a text or a number",
                "",
                "copy the list again from the data set",
                code="damaged",
            )
        identities.append(str(person))
    path = _place(root, inside)
    listed = name_of(root / inside, root)
    return Video(listed, path, _LABELS[label], method, tuple(identities), split)


def _place(root: Path, inside: PurePosixPath) -> Path:
    path = root / inside
    gathered = root / inside.parts[0] / "videos" / inside.name
    if gathered.is_file() and not path.is_file():
        return gathered
    return path


INFO = DatasetInfo(
    title="DFDCP (the preview of the Deepfake Detection Challenge)",
    obtained="ai.meta.com/datasets/dfdc, the preview data set",
    adapter=list_videos,
    folders=("DFDCP", "dfdcp", "dfdc_preview_set", "DFDC_preview"),
    marks=(*METHODS, "original_videos"),
    methods=METHODS,
)
