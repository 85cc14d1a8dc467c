"""Images and videos that a user names: one file, or a folder of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lpx.data.images.decode import SUFFIXES
from lpx.data.images.header import image_size, is_animated
from lpx.data.videos import VIDEO_SUFFIXES
from lpx.data.walk import LeftOut, note_of, walk
from lpx.data.wording import printable
from lpx.errors import LpxError

Kind = Literal["image", "video"]

_HEADER_BYTES = 1 << 23
"""What tells an image from a video; a JPEG's size stands behind its EXIF data and thumbnail, and a
GIF's second picture behind its first."""


@dataclass(frozen=True)
class MediaFile:
    """An image or a video.

    Attributes:
        name: Path relative to the folder that was named, "/" between; the file's own name where it
            was named itself.
        path: Where it lies.
        kind: What it is taken for.
    """

    name: str
    path: Path
    kind: Kind


@dataclass(frozen=True)
class Media:
    """The images and videos that a user named.

    Attributes:
        files: In order of paths.
        left_out: What a folder holds besides.
    """

    files: tuple[MediaFile, ...]
    left_out: tuple[LeftOut, ...] = ()


def find_media(path: Path, skip: tuple[Path, ...] = ()) -> Media:
    """Images and videos, by what their names end in.

    A file that is named itself and ends in something else is taken for an image where it begins
    like one, for a video otherwise. A GIF or .apng that moves is a video.

    Args:
        path: A file, or a folder that is searched with all folders below it.
        skip: Folders not to look into.

    Raises:
        LpxError: There is nothing at `path`, or a folder without images and videos.
    """
    check_there(path)
    if path.is_file():
        return Media((MediaFile(printable(path.name), path, _kind(path)),))
    walked = walk(path, SUFFIXES | VIDEO_SUFFIXES, skip)
    files = tuple(
        MediaFile(printable(name), path / name, _kind(path / name)) for name in walked.files
    )
    if not files:
        raise LpxError(
            f"{path} holds no images and no videos",
            " ".join(
                (
                    f"images end in {', '.join(sorted(SUFFIXES))};",
                    f"videos in {', '.join(sorted(VIDEO_SUFFIXES))}.",
                    note_of(walked.left_out),
                )
            ).strip(),
            "name another folder, or one file, which may end in anything",
        )
    return Media(files, walked.left_out)


def check_there(path: Path) -> None:
    """Refuse a path that is neither a file nor a folder.

    Raises:
        LpxError: There is nothing, something else, or something that cannot be looked at.
    """
    what, why = f"{path} is neither a file nor a folder", ""
    try:
        if path.is_file() or path.is_dir():
            return
        if not path.exists():
            what = f"{path} does not exist"
    except OSError as error:
        what, why = f"{path} cannot be read", error.strerror or str(error)
    raise LpxError(what, why, "name an image, a video, or a folder of these")


def _kind(path: Path) -> Kind:
    suffix = path.suffix.lower()
    if suffix in (".gif", ".apng"):
        return "video" if is_animated(_beginning(path)) else "image"
    if suffix in SUFFIXES:
        return "image"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    beginning = _beginning(path)
    return "image" if image_size(beginning) and not is_animated(beginning) else "video"


def _beginning(path: Path) -> bytes:
    """The first bytes of a file; none where it cannot be read, which scoring it will tell."""
    try:
        # Opening a pipe would wait for somebody to write into it.
        if not path.is_file():
            return b""
        with path.open("rb") as stream:
            return stream.read(_HEADER_BYTES)
    except OSError:
        return b""
