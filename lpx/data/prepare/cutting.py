"""Cut the faces of one video into crops on disk."""

from __future__ import annotations

import errno
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
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
    Mesh,
    choose_face,
    open_detector,
)
from lpx.data.detect.choose import Mask
from lpx.data.images.crops import crop, find_recipe
from lpx.data.images.decode import Image
from lpx.data.images.video_file import (
    Frame,
    FrameReader,
    UnreadableVideoError,
    frame_indices,
    read_frames,
)
from lpx.data.prepare.record import (
    CRASHED,
    CutFace,
    VideoRecord,
    crop_file,
    crop_folder,
    effective_split,
    source_sha256,
)
from lpx.data.videos import Video
from lpx.data.wording import counted
from lpx.errors import LpxError
from lpx.render.encode import encode_png
from lpx.workspace import write_bytes

NO_FACE = "no face was found"
NO_LANDMARKS = "its landmarks are unsure"
OUTSIDE = "the face is outside the image"
STAGES = ("decode", "detect", "landmarks", "crop", "write")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(Exception):
    """The disk has no room for a crop."""


@dataclass(frozen=True)
class Settings:
    """Settings that crops depend on.

    Attributes:
        folder: Folder of the prepared set.
        frames: Number of frames to take of each video, evenly spaced.
        recipe: A key of `lpx.data.images.crops.RECIPES`.
        detector: A key of `lpx.data.detect.DETECTORS`.
    """

    folder: Path
    frames: int
    recipe: str
    detector: str


@dataclass(frozen=True)
class CutResult:
    """The result of cutting a video.

    Attributes:
        record: Its crops and skipped frames.
        seconds: Time spent, for each of `STAGES`.
    """

    record: VideoRecord
    seconds: Mapping[str, float]


class Cutter:
    """Cuts faces out of videos, one video after the other.

    Args:
        settings: Settings of the prepared set.
        read: Opens a video.
        write: Writes a file.
        mesh: Finds landmarks, for recipes that need them; None loads FaceMesh.

    Raises:
        LpxError: The detector or the recipe does not exist.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        read: Callable[[Path, int], FrameReader] = read_frames,
        write: Callable[..., None] = write_bytes,
        mesh: FaceMesh | None = None,
    ) -> None:
        self.settings = settings
        self.read = read
        self.write = write
        self.detector = open_detector(settings.detector)
        self.mesh: FaceMesh | None = None
        if find_recipe(settings.recipe).needs_landmarks:
            self.mesh = mesh or FaceMesh()

    def cut(self, video: Video) -> CutResult:
        """Write the crops of a video.

        Raises:
            DiskFullError: The disk is full; all crops of this video are removed.
            LpxError: The folder cannot be written.
        """
        folder = self.settings.folder / crop_folder(video.name)
        # A run that was killed, or an earlier version of the video, may have left other crops.
        remove_crops(folder)
        work = _Work(self, video)
        try:
            work.run()
        except DiskFullError:
            remove_crops(folder)
            raise
        return CutResult(work.record(), dict(work.seconds))


def crashed(settings: Settings, video: Video, how: str) -> CutResult:
    """Return the result for a video that ended the process that read it: only the reason.

    Args:
        settings: Settings of the prepared set.
        video: The video.
        how: How the process ended, such as "signal 11".
    """
    remove_crops(settings.folder / crop_folder(video.name))
    record = VideoRecord(
        video.name,
        video.label,
        video.method,
        video.identities,
        effective_split(video),
        source_sha256(video.path),
        (),
        ((None, f"{CRASHED} ({how})"),),
        "",
        LARGEST,
        0,
    )
    return CutResult(record, {})


class _Work:
    """One video while it is being cut."""

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
                frames = self.cutter.read(self.video.path, settings.frames)
            masks = _Masks(self.video.mask, frame_indices(frames.count, settings.frames))
            while (frame := self.next_frame(frames)) is not None:
                with self.timed("decode"):
                    mask = masks.at(frame)
                self.take(frame, mask)
            self.notes += filter(None, (frames.note, masks.note))
        except UnreadableVideoError as error:
            self.skipped.append((None, str(error)))
        except cv2.error as error:
            # OpenCV fails on some damaged frames instead of reporting them.
            reason = (str(error).strip() or "OpenCV fails").splitlines()[0]
            self.give_up(f"it cannot be processed: {reason}")

    def give_up(self, reason: str) -> None:
        """Skip the whole video, and remove its crops."""
        remove_crops(self.cutter.settings.folder / crop_folder(self.video.name))
        self.faces.clear()
        self.skipped = [(None, reason)]

    def next_frame(self, frames: Iterator[Frame]) -> Frame | None:
        with self.timed("decode"):
            return next(frames, None)

    def take(self, frame: Frame, mask: Mask | None) -> None:
        """Cut the face out of a frame, or record why there is none."""
        if mask is not None:
            self.rule = MASK_OVERLAP
        with self.timed("detect"):
            detections = self.cutter.detector.detect(frame.pixels)
        # Counted for the manifest: the choice among several faces may be wrong.
        self.several += len(detections) > 1
        face = choose_face(detections, mask)
        if face is None:
            self.skipped.append((frame.index, NO_FACE))
            return
        mesh = self.landmarks(frame.pixels, face)
        if mesh is not None and not mesh.is_face:
            self.skipped.append((frame.index, NO_LANDMARKS))
            return
        points = mesh.points if mesh is not None else None
        try:
            with self.timed("crop"):
                pixels = crop(self.cutter.settings.recipe, frame.pixels, face, points).pixels
        except LpxError:
            self.skipped.append((frame.index, OUTSIDE))
            return
        with self.timed("write"):
            self.write(frame.index, pixels)

    def landmarks(self, image: Image, face: Detection) -> Mesh | None:
        """Find the landmarks; None if the recipe needs none."""
        if self.cutter.mesh is None:
            return None
        with self.timed("landmarks"):
            return self.cutter.mesh.landmarks(image, face.box, face.points)

    def write(self, index: int, pixels: Image) -> None:
        # PNG, and nothing else: a lossy format would add traces of its own to the very detail that
        # detectors of fakes look at, on top of those of the video's codec.
        data = encode_png(pixels)
        try:
            path = self.cutter.settings.folder / crop_file(self.video.name, index)
            self.cutter.write(path, data, durable=False)
        except LpxError as error:
            if is_full(error.__cause__):
                raise DiskFullError from error
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENAMETOOLONG:
                # It fails at each run, and must not keep the other videos from being prepared.
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
            effective_split(video),
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
    """The masks of a video's frames, read in step with them.

    Args:
        path: A video or a folder of masks; None if there are none.
        indices: Frame numbers that will be asked for, int64 [N], ascending.
        frames: Masks to use instead of those at `path`, in the order of their numbers.
    """

    def __init__(
        self,
        path: Path | None,
        indices: NDArray[np.int64],
        frames: Iterator[Frame] | None = None,
    ) -> None:
        self._has_masks = path is not None
        self._problem = ""
        self._asked = self._absent = 0
        self._frames: Iterator[Frame] = frames or iter(())
        # The mask that was read last: masks may be missing, so it can be one of a later frame.
        self._ahead: Frame | None = None
        if path is None:
            return
        try:
            self._frames = read_frames(path, indices)
        except UnreadableVideoError as error:
            self._problem = f"its mask cannot be read: {error}"

    @property
    def note(self) -> str:
        """Description of missing masks; "" if none is missing, or the video has no masks."""
        if self._problem or not (self._has_masks and self._absent):
            return self._problem
        return f"{self._absent} of {counted(self._asked, 'frame')} have no mask"

    def at(self, frame: Frame) -> Mask | None:
        """Return the mask of this frame, resized to it; None if there is none."""
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
            self._problem = f"its mask cannot be read: {error}"
            return None
        if self._ahead.index != frame.index:
            return None
        # Some sets mark the pixels in colour.
        mask = np.asarray(self._ahead.pixels.max(axis=2), np.uint8)
        size = frame.pixels.shape[1::-1]
        if mask.shape[::-1] == size:
            return mask
        return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def is_full(error: BaseException | None) -> bool:
    """Return whether an error says that a disk, or the user's quota, is full."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL


def remove_crops(folder: Path) -> None:
    """Remove the crops of one video, but not folders below, which may be those of other videos."""
    # Not Path.is_dir, which raises if the name is too long.
    if not os.path.isdir(folder):
        return
    for path in folder.iterdir():
        if not path.is_dir():
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
