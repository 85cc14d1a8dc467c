"""Find the images and videos that a user names: one file, or a folder."""

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

# Enough to tell an image from a video: a JPEG's size follows its EXIF data and thumbnail, and a
# GIF's second picture follows the first.
_HEADER_BYTES = 1 << 23


@dataclass(frozen=True)
class MediaFile:
    """An image or a video.

    Attributes:
        name: Path relative to the folder that was named, with "/"; the file name if the file itself
            was named.
        path: Path of the file.
        kind: "image" or "video".
    """

    name: str
    path: Path
    kind: Kind


@dataclass(frozen=True)
class Media:
    """The images and videos that a user named.

    Attributes:
        files: Files in the order of their paths.
        left_out: Other files of the folder.
    """

    files: tuple[MediaFile, ...]
    left_out: tuple[LeftOut, ...] = ()


def find_media(path: Path, skip: tuple[Path, ...] = ()) -> Media:
    """Find images and videos by their suffixes.

    If `path` is a file with another suffix, its first bytes decide; if they are not those of an
    image, it is taken for a video. An animated GIF or .apng is a video.

    Args:
        path: A file, or a folder, which is searched with its subfolders.
        skip: Folders to leave out.

    Raises:
        LpxError: `path` does not exist, or is a folder without images and videos.
    """
    check_there(path)
    if path.is_file():
        return Media((MediaFile(printable(path.name), path, _kind(path)),))
    walked = walk(path, SUFFIXES | VIDEO_SUFFIXES, skip)
    files = []
    for name in walked.files:
        file = path / name
        files.append(MediaFile(printable(name), file, _kind(file)))
    if not files:
        suffixes = (
            f"images end in {', '.join(sorted(SUFFIXES))}; "
            f"videos in {', '.join(sorted(VIDEO_SUFFIXES))}."
        )
        raise LpxError(
            f"{path} holds no images and no videos",
            f"{suffixes} {note_of(walked.left_out)}".strip(),
            "name another folder, or a single file, which may have any suffix",
            code="not-found",
        )
    return Media(tuple(files), walked.left_out)


def check_there(path: Path) -> None:
    """Check that a path is a file or a folder.

    Raises:
        LpxError: It does not exist, is something else, or cannot be read.
    """
    what, why = f"{path} is neither a file nor a folder", ""
    try:
        if path.is_file() or path.is_dir():
            return
        if not path.exists():
            what = f"{path} does not exist"
    except OSError as error:
        # The name may be too long, or a folder above may be closed.
        what, why = f"{path} cannot be read", error.strerror or str(error)
    raise LpxError(what, why, "name an image, a video, or a folder of these", code="not-found")


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
    """Read the first bytes of a file; b"" if it cannot be read, which scoring it will report."""
    try:
        # Opening a pipe would wait for somebody to write into it.
        if not path.is_file():
            return b""
        with path.open("rb") as stream:
            return stream.read(_HEADER_BYTES)
    except OSError:
        return b""
