"""Videos of a data set, as they are on disk before faces are cut out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v"}  # QuickTime and MPEG-4
    | {".mpg", ".mpeg", ".mpe", ".m2v", ".vob", ".ts", ".mts", ".m2ts"}  # MPEG-1 and MPEG-2
    | {".avi", ".divx", ".wmv", ".asf"}
    | {".mkv", ".webm", ".ogv", ".flv", ".mxf"}
)
"""Suffixes of video files: containers that OpenCV's FFmpeg opens; in lower case."""
REAL = "real"
"""Method of a video that was not manipulated."""


@dataclass(frozen=True)
class Video:
    """A video.

    Attributes:
        name: Unique in its set: the path relative to the set's root, with "/" and without suffix.
            If copies of a set differ in their folders, the path in the official list.
        path: A video file, or a folder of frames.
        label: 1 = fake, 0 = real.
        method: "real", or the manipulation.
        identities: People shown: (target, source) for a face swap, () if unknown.
        split: "train", "val", "test", or "" if the set has no official split.
        mask: A video or a folder of masks of the manipulated pixels.
        frames: Frames of `path` that the set lists, in order; () if it lists whole videos.
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
        name: Name given by the user.
        root: Folder of the set.
        videos: Videos, in a fixed order.
        missing: Names in the official lists that are not on disk.
        note: Note for readers of results; "" if there is none.
        crop: Crop recipe if frames are face crops already; "" if they are whole frames.
    """

    name: str
    root: Path
    videos: tuple[Video, ...]
    missing: tuple[str, ...]
    note: str = ""
    crop: str = ""
