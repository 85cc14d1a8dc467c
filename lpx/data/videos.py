"""Videos of a data set: what lies on disk, before faces are cut out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v"}  # QuickTime and MPEG-4
    | {".mpg", ".mpeg", ".mpe", ".m2v", ".vob", ".ts", ".mts", ".m2ts"}  # MPEG-1 and MPEG-2
    | {".avi", ".divx", ".wmv", ".asf"}
    | {".mkv", ".webm", ".ogv", ".flv", ".mxf"}
)
"""What the names of videos end in: containers that OpenCV's FFmpeg opens; in lower case."""
REAL = "real"
"""The method of a video that nobody manipulated."""


@dataclass(frozen=True)
class Video:
    """One video.

    Attributes:
        name: Unique in its set: its path relative to the set's root, "/" between, no suffix. Where
            copies of a set differ in their folders, the path in the official list.
        path: A video file, or a folder of frames.
        label: 1 = fake, 0 = real.
        method: "real", or the manipulation.
        identities: Whose faces; (target, source) of a face swap, () where not known.
        split: "train", "val", "test", or "" where the set has no official split.
        mask: A video or a folder of masks of the manipulated pixels.
        frames: The frames of `path` that the set lists, in order, where it lists frames; else ().
    """

    name: str
    path: Path
    label: int
    method: str
    identities: tuple[str, ...]
    split: str
    mask: Path | None = None
    frames: tuple[Path, ...] = ()


@dataclass(frozen=True)
class VideoSet:
    """The videos of a set that are on disk.

    Attributes:
        name: As the user named it.
        root: Where the set lies.
        videos: In a fixed order.
        missing: What the official lists name and the disk does not hold.
        note: What a reader of results must know of this set; "" where nothing.
        crop: The recipe, where frames are face crops already; "" where they are whole frames.
    """

    name: str
    root: Path
    videos: tuple[Video, ...]
    missing: tuple[str, ...]
    note: str = ""
    crop: str = ""
