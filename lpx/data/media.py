"""Images and videos that a user names: one file, or a folder of both."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lpx.data.decode import SUFFIXES
from lpx.data.image_header import image_size
from lpx.data.videos import VIDEO_SUFFIXES
from lpx.data.walk import walk_files
from lpx.errors import LpxError

Kind = Literal["image", "video"]

_HEADER_BYTES = 1 << 20
"""Of a file whose name says nothing; a JPEG's size stands behind its EXIF data and thumbnail."""


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


def find_media(path: Path, skip: tuple[Path, ...] = ()) -> tuple[MediaFile, ...]:
    """Images and videos, by what their names end in.

    A file that is named itself and ends in something else is taken for an image where it begins
    like one, for a video otherwise.

    Args:
        path: A file, or a folder that is searched with all folders below it.
        skip: Folders not to look into.

    Returns:
        In order of paths.

    Raises:
        LpxError: There is nothing at `path`, or a folder without images and videos.
    """
    check_there(path)
    if path.is_file():
        return (MediaFile(_text(path.name), path, _kind(path)),)
    skipped = {folder.resolve() for folder in skip}
    files = walk_files(path, SUFFIXES | VIDEO_SUFFIXES, skipped)
    found = tuple(MediaFile(_text(str(f.relative_to(path))), f, _kind(f)) for f in files)
    if not found:
        raise LpxError(
            f"{path} holds no images and no videos",
            f"images end in {', '.join(sorted(SUFFIXES))}; "
            f"videos in {', '.join(sorted(VIDEO_SUFFIXES))}",
            "name another folder, or one file, which may end in anything",
        )
    return found


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
    if suffix in SUFFIXES:
        return "image"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    try:
        with path.open("rb") as stream:
            return "image" if image_size(stream.read(_HEADER_BYTES)) else "video"
    except OSError:
        return "video"


def _text(name: str) -> str:
    """A name that any table can hold: bytes that are not UTF-8 are spelt out in hexadecimal.

    Two files keep two names, and so two pictures.
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")
