"""What became of one video: the faces that were cut from it, and the frames that gave none."""

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

FACES = "faces"
"""The folder, below that of a prepared set, in which crops lie: a folder per video."""
UNREADABLE = ""
"""In place of the SHA-256 of a video that cannot be read."""
CRASHED = "reading it ended the process"
"""Reason of a video that is tried again whenever the set is prepared: memory may have run out."""


class CutFace(NamedTuple):
    """A crop that was written.

    Attributes:
        frame: Number of its frame, from 0.
        width: Pixels.
        height: Pixels.
        size_bytes: Of the file.
    """

    frame: int
    width: int
    height: int
    size_bytes: int


@dataclass(frozen=True)
class VideoRecord:
    """One video, done.

    Attributes:
        video: Its name.
        label: 1 = fake, 0 = real.
        method: "real", or the manipulation.
        identities: Whose faces.
        split: "train", "val" or "test".
        source_sha256: Of what was read, see `source_sha256`; another one means another video.
        faces: In the order of their frames.
        skipped: Frames without a face, each with the reason; frame None for the whole video.
        note: What of the video is damaged; "" where nothing is.
        rule: How one face was chosen among several, see `lpx.data.detect.rule_name`.
        several: Number of frames that showed several faces.
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
        """Whether this is what one would get of this video now."""
        mine = (self.video, self.label, self.method, self.identities, self.split)
        asked = (video.name, video.label, video.method, video.identities, home(video))
        return mine == asked and self.source_sha256 == source_sha256(video.path)

    def has_crashed(self) -> bool:
        """Whether reading the video ended the process."""
        return any(reason.startswith(CRASHED) for _, reason in self.skipped)

    def is_whole(self, folder: Path) -> bool:
        """Whether every crop lies below `folder`, that of the prepared set, as it was written."""
        try:
            return all(
                (folder / row.file).stat().st_size == row.size_bytes for row in self.face_rows()
            )
        except OSError:
            return False

    def face_rows(self) -> Iterator[FaceRow]:
        """The faces, as rows of a table."""
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
        """The frames without a face, as a manifest lists them."""
        for frame, reason in self.skipped:
            yield SkippedFrame(self.video, frame, reason, self.split, self.method)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self) | {"faces": [list(face) for face in self.faces]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VideoRecord:
        """Read back what `to_dict` made.

        Raises:
            SchemaError: It is not that.
        """
        stored = read_record(_Stored, values)
        in_range(stored.label, 0, 1, "label")
        for face in stored.faces:
            for number in face:
                in_range(number, 0, _MOST, "a frame, a side or a size of a face")
        faces = tuple(CutFace(*face) for face in stored.faces)
        return cls(**{**vars(stored), "faces": faces})


_MOST = 2**31 - 1


@dataclass(frozen=True)
class _Stored:
    """A `VideoRecord` as JSON holds it."""

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


def home(video: Video) -> str:
    """The split that a video counts for: what has no official one is never trained on."""
    return video.split or "test"


def crop_folder(video: str) -> str:
    """Where the crops of a video lie below the prepared set's folder."""
    return f"{FACES}/{video}"


def crop_file(video: str, frame: int) -> str:
    """Path of a crop below the prepared set's folder."""
    return f"{crop_folder(video)}/{frame:06d}.png"


def source_sha256(path: Path) -> str:
    """SHA-256 of a video file, or of the files in a folder of frames; "" where not readable.

    Tells that a video is another one, or was made readable. What has not changed since it was last
    read is not read again, see `lpx.data.contents`.
    """
    try:
        if not path.is_dir():
            digest = file_digests([os.fsencode(path)])[0]
            return digest.tobytes().hex() if digest.any() else UNREADABLE
        names = sorted(os.listdir(os.fsencode(path)))
    except OSError:
        return UNREADABLE
    frames = file_digests([os.path.join(os.fsencode(path), name) for name in names])
    return hashlib.sha256(b"\0".join(names) + frames.tobytes()).hexdigest()
