"""From one video to crops on disk."""

from __future__ import annotations

import errno
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lpx.data.detect import (
    LARGEST,
    MASK_OVERLAP,
    Detection,
    FaceMesh,
    choose,
    open_detector,
)
from lpx.data.detect.base import Points
from lpx.data.detect.choose import Mask
from lpx.data.images.crops import crop, find_recipe
from lpx.data.images.decode import Image
from lpx.data.images.video_file import Frame, UnreadableVideoError, frame_indices, read_frames
from lpx.data.prepare.record import (
    CRASHED,
    CutFace,
    VideoRecord,
    crop_file,
    crop_folder,
    home,
    source_sha256,
)
from lpx.data.videos import Video
from lpx.data.wording import counted
from lpx.errors import LpxError
from lpx.render.encode import encode_png
from lpx.workspace import write_bytes

NO_FACE = "no face was found"
NO_LANDMARKS = "its landmarks are unsure"
OUTSIDE = "the face lies outside the image"
STAGES = ("decode", "detect", "landmarks", "crop", "write")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(Exception):
    """There is no room for a crop."""


@dataclass(frozen=True)
class Settings:
    """How faces are cut.

    Attributes:
        folder: Of the prepared set.
        frames: To take of each video.
        recipe: A key of `lpx.data.images.crops.RECIPES`.
        detector: A key of `lpx.data.detect.DETECTORS`.
    """

    folder: Path
    frames: int
    recipe: str
    detector: str


@dataclass(frozen=True)
class Cut:
    """What became of a video, and the seconds that each of `STAGES` took."""

    record: VideoRecord
    seconds: Mapping[str, float]


class Cutter:
    """Cuts the faces out of one video after the other.

    Raises:
        LpxError: The detector or the recipe is not there.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.detector = open_detector(settings.detector)
        self.mesh = FaceMesh() if find_recipe(settings.recipe).needs_landmarks else None

    def cut(self, video: Video) -> Cut:
        """Write the crops of a video.

        Raises:
            DiskFullError: There is no room; none of the video's crops is left.
            LpxError: The folder cannot be written.
        """
        folder = self.settings.folder / crop_folder(video.name)
        # A run that was killed, or an earlier state of the video, may have left other crops.
        _remove_crops(folder)
        work = _Work(self, video)
        try:
            work.run()
        except DiskFullError:
            _remove_crops(folder)
            raise
        return Cut(work.record(), dict(work.seconds))


def crashed(settings: Settings, video: Video, how: str) -> Cut:
    """What is left of a video that ended the process that read it: nothing but the reason."""
    _remove_crops(settings.folder / crop_folder(video.name))
    record = VideoRecord(
        video.name,
        video.label,
        video.method,
        video.identities,
        home(video),
        source_sha256(video.path),
        (),
        ((None, f"{CRASHED} ({how})"),),
        "",
        LARGEST,
        0,
    )
    return Cut(record, {})


class _Work:
    """One video: what is known of it so far."""

    def __init__(self, cutter: Cutter, video: Video) -> None:
        self.cutter = cutter
        self.video = video
        self.source_sha256 = source_sha256(video.path)
        self.faces: list[CutFace] = []
        self.skipped: list[tuple[int | None, str]] = []
        self.notes: list[str] = []
        self.rule = LARGEST
        self.several = 0
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def run(self) -> None:
        settings = self.cutter.settings
        try:
            with self.timed("decode"):
                frames = read_frames(self.video.path, settings.frames)
            masks = _Masks(self.video.mask, frame_indices(frames.count, settings.frames))
            while (frame := self.next_frame(frames)) is not None:
                with self.timed("decode"):
                    mask = masks.at(frame)
                self.take(frame, mask)
            self.notes += filter(None, (frames.note, masks.note))
        except UnreadableVideoError as error:
            self.skipped.append((None, str(error)))
        except cv2.error as error:
            reason = (str(error).strip() or "OpenCV fails").splitlines()[0]
            self.give_up(f"it cannot be processed: {reason}")

    def give_up(self, reason: str) -> None:
        """Leave the whole video out, with what was cut of it."""
        _remove_crops(self.cutter.settings.folder / crop_folder(self.video.name))
        self.faces.clear()
        self.skipped = [(None, reason)]

    def next_frame(self, frames: Iterator[Frame]) -> Frame | None:
        with self.timed("decode"):
            return next(frames, None)

    def take(self, frame: Frame, mask: Mask | None) -> None:
        """Cut the face out of a frame, or note why there is none."""
        if mask is not None:
            self.rule = MASK_OVERLAP
        with self.timed("detect"):
            found = self.cutter.detector.detect(frame.pixels)
        self.several += len(found) > 1
        face = choose(found, mask)
        if face is None:
            self.skipped.append((frame.index, NO_FACE))
            return
        landmarks, sure = self.landmarks(frame.pixels, face)
        if not sure:
            self.skipped.append((frame.index, NO_LANDMARKS))
            return
        try:
            with self.timed("crop"):
                pixels = crop(self.cutter.settings.recipe, frame.pixels, face, landmarks).pixels
        except LpxError:
            self.skipped.append((frame.index, OUTSIDE))
            return
        with self.timed("write"):
            self.write(frame.index, pixels)

    def landmarks(self, image: Image, face: Detection) -> tuple[Points | None, bool]:
        """The landmarks, where the recipe needs any, and whether they are those of a face."""
        if self.cutter.mesh is None:
            return None, True
        with self.timed("landmarks"):
            mesh = self.cutter.mesh.landmarks(image, face.box, face.points)
        return mesh.points, mesh.is_face

    def write(self, index: int, pixels: Image) -> None:
        # PNG, and nothing else: a lossy format would add traces of its own to the very detail that
        # detectors of fakes look at, on top of those of the video's codec.
        data = encode_png(pixels)
        try:
            path = self.cutter.settings.folder / crop_file(self.video.name, index)
            write_bytes(path, data, durable=False)
        except LpxError as error:
            if is_full(error.__cause__):
                raise DiskFullError from error
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENAMETOOLONG:
                # No reason to stop at this video whenever the set is prepared.
                raise UnreadableVideoError(f"{error.what}: {error.why}") from error
            raise
        height, width = pixels.shape[:2]
        self.faces.append(CutFace(index, width, height, len(data)))

    def record(self) -> VideoRecord:
        video = self.video
        return VideoRecord(
            video.name,
            video.label,
            video.method,
            video.identities,
            home(video),
            self.source_sha256,
            tuple(self.faces),
            tuple(self.skipped),
            "; ".join(self.notes),
            self.rule,
            self.several,
        )

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started


class _Masks:
    """The masks of a video's frames, read beside them.

    Args:
        path: A video or a folder of masks; None where there are none.
        indices: The frames that are expected, int64, rising.
    """

    def __init__(self, path: Path | None, indices: NDArray[np.int64]) -> None:
        self._there = path is not None
        self._reason = ""
        self._asked = self._absent = 0
        self._frames: Iterator[Frame] = iter(())
        self._ahead: Frame | None = None
        if path is None:
            return
        try:
            self._frames = read_frames(path, indices)
        except UnreadableVideoError as error:
            self._reason = f"its mask cannot be read: {error}"

    @property
    def note(self) -> str:
        """What is missing; "" where every frame has a mask, or the video has none."""
        if self._reason or not (self._there and self._absent):
            return self._reason
        return f"{self._absent} of {counted(self._asked, 'frame')} have no mask"

    def at(self, frame: Frame) -> Mask | None:
        """The mask of just this frame, in the size of it; None where there is none."""
        mask = self._read(frame)
        self._asked += 1
        self._absent += mask is None
        return mask

    def _read(self, frame: Frame) -> Mask | None:
        try:
            while self._ahead is None or self._ahead.index < frame.index:
                self._ahead = next(self._frames)
        except StopIteration:
            return None
        except UnreadableVideoError as error:
            self._reason = f"its mask cannot be read: {error}"
            return None
        if self._ahead.index != frame.index:
            return None
        mask = np.asarray(self._ahead.pixels.max(axis=2), np.uint8)
        size = frame.pixels.shape[1::-1]
        if mask.shape[::-1] == size:
            return mask
        return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that a disk, or somebody's share of it, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def _remove_crops(folder: Path) -> None:
    """Remove the crops of one video; folders below may be those of other videos."""
    # Not Path.is_dir, which raises where the name is too long.
    if not os.path.isdir(folder):
        return
    for path in folder.iterdir():
        if not path.is_dir():
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
