"""What `predict` finds, and how it is kept: typed results, a journal, and two tables."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lpx.data.detect.base import Box
from lpx.data.face_sets.face_set import Skipped
from lpx.data.walk import LeftOut
from lpx.plain import plain
from lpx.predict.timeline import Moment
from lpx.workspace import atomic_path

RULE = (
    "a face's score is its probability of fake; a frame's is that of its highest-scoring face; "
    "a video's is the mean of its frames', those without a face left out"
)


NAME_BYTES = 255
"""Longest name of a file that common file systems take; some take less."""
PATH_BYTES = 3000
"""Longest path below the folder of pictures; Linux takes 4095 in all."""


@dataclass(frozen=True)
class FaceScore:
    """What the detector says of one face.

    Attributes:
        frame: Number of the frame, from 0; 0 for an image.
        time_seconds: When the frame is shown, from the first one on; None where unknown, and for
            images.
        face: From 1, counted from left to right in its frame.
        box: In pixels of the frame; None where the picture was a crop already.
        detector_score: The face detector's, in [0, 1]; None where the picture was a crop already.
        score: Probability of fake, in [0, 1].
        fake: Whether the score reaches the threshold.
    """

    frame: int
    time_seconds: float | None
    face: int
    box: Box | None
    detector_score: float | None
    score: float
    fake: bool


@dataclass(frozen=True)
class FacelessFrame:
    """A frame in which no face was scored, and why."""

    frame: int
    time_seconds: float | None
    reason: str


@dataclass(frozen=True)
class Seconds:
    """Time that steps took, summed over frames.

    Attributes:
        decode: From the file to pixels.
        detect: The face detector.
        crop: Landmarks, where the recipe needs them, and cutting out.
        infer: The engine.
        draw: Pictures, or the overlay video.
    """

    decode: float = 0.0
    detect: float = 0.0
    crop: float = 0.0
    infer: float = 0.0
    draw: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        mine, its = asdict(self), asdict(other)
        return Seconds(**{step: mine[step] + its[step] for step in mine})


@dataclass(frozen=True)
class FileScore:
    """What the detector says of an image or a video.

    Attributes:
        name: Path relative to what was asked.
        kind: "crop" where the picture was a face crop already.
        score: See `RULE`; None where there is no face.
        fake: Whether the score reaches the threshold; None where there is no face.
        frames: How many were looked at.
        faces: In order of frames.
        faceless: Frames without a face.
        picture: The heat map, overlay or overlay video; None where none was asked for, or none
            could be drawn.
        note: What of the file is damaged, and why nothing was drawn; "" where all is well.
        seconds: Where time went; None for crops.
        timeline: The page of a video's scores over time; None where none was drawn, and for
            pictures.
    """

    name: str
    kind: Literal["image", "video", "crop"]
    score: float | None
    fake: bool | None
    frames: int
    faces: tuple[FaceScore, ...]
    faceless: tuple[FacelessFrame, ...] = ()
    picture: Path | None = None
    note: str = ""
    seconds: Seconds | None = None
    timeline: Path | None = None


def moments(file: FileScore) -> tuple[Moment, ...]:
    """The frames of a file in order, each with its highest score."""
    found = {frame.frame: Moment(frame.frame, frame.time_seconds, None) for frame in file.faceless}
    for face in file.faces:
        before = found.get(face.frame)
        if before is None or before.score is None or face.score > before.score:
            found[face.frame] = Moment(face.frame, face.time_seconds, face.score)
    return tuple(found[frame] for frame in sorted(found))


@dataclass(frozen=True)
class Predicted:
    """What `predict` found.

    Attributes:
        engine: Its name.
        threshold: Score at or above which a face, a frame or a file is called fake.
        crop: The recipe that faces were cut by; None where pictures were crops already.
        detector: The face detector's name; None where pictures were crops already.
        files: What was scored, and files without a face.
        skipped: Files that could not be read.
        resumed: How many of `files` an earlier run had scored.
        scores: The table with a row per file.
        frames: The table with a row per face of each frame, and per frame without one.
        left_out: What the folder holds besides; () for crops, whose set says so.
    """

    engine: str
    threshold: float
    crop: str | None
    detector: str | None
    files: tuple[FileScore, ...]
    skipped: tuple[Skipped, ...]
    resumed: int
    scores: Path
    frames: Path
    left_out: tuple[LeftOut, ...] = ()

    def seconds(self) -> tuple[Seconds, int]:
        """Where time went, in all, and over how many frames; crops are not counted."""
        timed = [(file.seconds, file.frames) for file in self.files if file.seconds]
        total = sum((seconds for seconds, _ in timed), Seconds())
        return total, sum(frames for _, frames in timed)


def verdict(fake: bool | None) -> str:
    """The word for tables; "" where there is no face."""
    return "" if fake is None else "fake" if fake else "real"


SCORES_HEADER = (
    "file",
    "kind",
    "score",
    "verdict",
    "frames",
    "frames_without_face",
    "faces",
    "picture",
    "note",
)
FRAMES_HEADER = (
    "file",
    "frame",
    "time_seconds",
    "face",
    "x0",
    "y0",
    "x1",
    "y1",
    "detector_score",
    "score",
    "verdict",
    "reason",
)


def write_scores(path: Path, files: Iterable[FileScore], skipped: Iterable[Skipped]) -> None:
    """A CSV file with a row per file; of those that could not be read the note says why."""
    rows: list[tuple[object, ...]] = [
        (
            file.name,
            file.kind,
            _number(file.score, 6),
            verdict(file.fake),
            file.frames,
            len(file.faceless),
            len(file.faces),
            str(file.picture or ""),
            file.note,
        )
        for file in files
    ]
    rows += [(f.name, "", "", "", 0, 0, 0, "", f"not read: {f.reason}") for f in skipped]
    _write_csv(path, SCORES_HEADER, rows)


def write_frames(path: Path, files: Iterable[FileScore]) -> None:
    """A CSV file with a row per face of each frame, and per frame without one."""
    _write_csv(path, FRAMES_HEADER, (row for file in files for row in _frame_rows(file)))


def _frame_rows(file: FileScore) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = [
        (
            file.name,
            face.frame,
            _number(face.time_seconds, 3),
            face.face,
            *([_number(value, 1) for value in face.box] if face.box else [""] * 4),
            _number(face.detector_score, 3),
            _number(face.score, 6),
            verdict(face.fake),
            "",
        )
        for face in file.faces
    ]
    return rows + [
        (file.name, frame.frame, _number(frame.time_seconds, 3), *[""] * 8, frame.reason)
        for frame in file.faceless
    ]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[Iterable[object]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        # A path may have bytes that are not UTF-8.
        writer.writerows(
            [plain(cell) if isinstance(cell, str) else cell for cell in row] for row in rows
        )


def picture_name(name: str, suffix: str, longest: int = NAME_BYTES, kind: str = "overlay") -> Path:
    """Path of a file's picture below the folder of pictures: `a/x.jpg` -> `a/x-jpg-overlay.png`.

    Two files of different names have different pictures, and none has a name of its source. Parts
    that the file system would refuse are shortened, and end in digits of the whole name's SHA-256.

    Args:
        name: Of the file, "/" between its parts.
        suffix: Of the picture, with the dot.
        longest: Bytes that one part may have.
        kind: What it is: "overlay", or "timeline".
    """
    path = Path(name)
    end = f"-{path.suffix[1:]}" if path.suffix else ""
    last = _shortened(f"{path.stem}{end}", name, longest - len(f"-{kind}{suffix}"))
    *folders, _ = path.parts or ("",)
    short = Path(*(_shortened(part, name, longest) for part in folders), f"{last}-{kind}{suffix}")
    if len(os.fsencode(str(short))) <= PATH_BYTES:
        return short
    return Path(f"{_digits(name)}-{kind}{suffix}")


def _shortened(part: str, name: str, longest: int) -> str:
    if len(os.fsencode(part)) <= longest:
        return part
    kept = os.fsencode(part)[: longest - 1 - len(_digits(name))]
    # What is left of a character that was cut in two is dropped.
    return f"{kept.decode('utf-8', 'ignore')}-{_digits(name)}"


def _digits(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


def longest_name(folder: Path) -> int:
    """Bytes that a name in a folder may have, which need not exist yet."""
    place = next(p for p in (folder, *folder.absolute().parents) if os.path.exists(p))
    try:
        return min(os.pathconf(place, "PC_NAME_MAX"), NAME_BYTES)
    except (OSError, ValueError):
        # A file system that does not say.
        return NAME_BYTES
