"""The result of cutting one video: its crops, and the frames that gave none."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lpx.data.contents import file_digests
from lpx.data.face_sets.manifest import SkippedFrame
from lpx.data.face_sets.table import FaceRow
from lpx.data.videos import Video
from lpx.schema import in_range, read_record

# Folder of the crops below that of a prepared set; it has a folder per video.
FACES = "faces"
# Stands for the SHA-256 of a video that cannot be read.
UNREADABLE = ""
# Reason of a video that is tried again by each run: memory may have run out.
CRASHED = "reading it ended the process"
# Frame numbers and sides are stored as int32.
_MAX_INT32 = 2**31 - 1


class CutFace(NamedTuple):
    """A crop on disk.

    Attributes:
        frame: Frame number, from 0.
        width: Pixels.
        height: Pixels.
        size_bytes: File size.
    """

    frame: int
    width: int
    height: int
    size_bytes: int


@dataclass(frozen=True)
class VideoRecord:
    """A finished video.

    Attributes:
        video: Video name.
        label: 1 = fake, 0 = real.
        method: "real", or the manipulation.
        identities: People shown.
        split: "train", "val" or "test".
        source_sha256: Digest of the video file or its frames, see `source_sha256`.
        faces: Crops, in the order of their frames.
        skipped: (frame number, reason) of frames without a face; the number is None if the whole
            video was skipped.
        note: Damage found in the video; "" if there is none.
        rule: Rule for frames that show several faces, see `lpx.data.detect.rule_name`.
        several: Number of frames that show several faces.
    """

    video: str
    label: int
    method: str
    identities: tuple[str, ...]
    split: str
    source_sha256: str
    faces: tuple[CutFace, ...]
    skipped: tuple[tuple[int | None, str], ...]
    note: str
    rule: str
    several: int

    def is_of(self, video: Video) -> bool:
        """Return whether cutting `video` now would start from the same labels and content."""
        mine = (self.video, self.label, self.method, self.identities, self.split)
        asked = (video.name, video.label, video.method, video.identities, effective_split(video))
        # Last, as it may read the whole video.
        return mine == asked and self.source_sha256 == source_sha256(video.path)

    def has_crashed(self) -> bool:
        """Return whether reading the video ended the process."""
        return any(reason.startswith(CRASHED) for _, reason in self.skipped)

    def is_whole(self, folder: Path) -> bool:
        """Return whether every crop is below `folder`, that of the set, with its size."""
        try:
            for row in self.face_rows():
                if (folder / row.file).stat().st_size != row.size_bytes:
                    return False
        except OSError:
            return False
        return True

    def face_rows(self) -> Iterator[FaceRow]:
        """Yield the crops as rows of a table."""
        for face in self.faces:
            yield FaceRow(
                crop_file(self.video, face.frame),
                self.label,
                self.method,
                self.video,
                self.identities,
                self.split,
                *face,
            )

    def skipped_frames(self) -> Iterator[SkippedFrame]:
        """Yield the frames without a face, as a manifest lists them."""
        for frame, reason in self.skipped:
            yield SkippedFrame(self.video, frame, reason, self.split, self.method)

    def to_dict(self) -> dict[str, Any]:
        """Convert to values that JSON can hold."""
        return asdict(self) | {"faces": [list(face) for face in self.faces]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VideoRecord:
        """Convert back from `to_dict`.

        Raises:
            SchemaError: The values have another structure, or are out of range.
        """
        # Types are checked by the schema, ranges here: a journal may have been edited.
        stored = read_record(_StoredRecord, values)
        in_range(stored.label, 0, 1, "label")
        for face in stored.faces:
            for number in face:
                in_range(number, 0, _MAX_INT32, "a frame, a side or a size of a face")
        faces = tuple(CutFace(*face) for face in stored.faces)
        return cls(**{**vars(stored), "faces": faces})


@dataclass(frozen=True)
class _StoredRecord:
    """A `VideoRecord` as JSON holds it: named tuples become lists."""

    video: str
    label: int
    method: str
    identities: tuple[str, ...]
    split: str
    source_sha256: str
    faces: tuple[tuple[int, int, int, int], ...]
    skipped: tuple[tuple[int | None, str], ...]
    note: str
    rule: str
    several: int


def effective_split(video: Video) -> str:
    """Return the split that a video counts for."""
    # A video without an official split may show anyone: it must never be trained on.
    return video.split or "test"


def crop_folder(video: str) -> str:
    """Return the folder of a video's crops, relative to the prepared set's."""
    return f"{FACES}/{video}"


def crop_file(video: str, frame: int) -> str:
    """Return the path of a crop, relative to the prepared set's folder."""
    return f"{crop_folder(video)}/{frame:06d}.png"


def source_sha256(path: Path) -> str:
    """Return the SHA-256 of a video file, or of the files in a folder of frames.

    It changes if the video is replaced or becomes readable. Unchanged files are not read again,
    see `lpx.data.contents`.

    Returns:
        Hexadecimal digits; `UNREADABLE` if the video cannot be read.
    """
    try:
        if not path.is_dir():
            digest = file_digests([os.fsencode(path)])[0]
            return digest.tobytes().hex() if digest.any() else UNREADABLE
        # Sorted, as the order of a folder differs between copies.
        names = sorted(os.listdir(os.fsencode(path)))
    except OSError:
        return UNREADABLE
    frames = file_digests([os.path.join(os.fsencode(path), name) for name in names])
    return hashlib.sha256(b"\0".join(names) + frames.tobytes()).hexdigest()
