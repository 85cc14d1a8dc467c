"""Results of `predict`: types, and two tables."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

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

# Longest file name that common file systems allow, bytes; some allow less.
NAME_BYTES = 255
# Longest path below the folder of pictures, bytes; Linux allows 4095 in all.
PATH_BYTES = 3000


@dataclass(frozen=True)
class FaceScore:
    """Score of a face.

    Attributes:
        frame: Frame number, from 0; 0 for an image.
        time_seconds: Time of the frame since the first one; None if unknown, and for images.
        face: Number of the face in its frame, from 1, from left to right.
        box: Bounding box in pixels of the frame; None for a face crop.
        detector_score: Confidence of the face detector, in [0, 1]; None for a face crop.
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
    """A frame in which no face was scored, with the reason."""

    frame: int
    time_seconds: float | None
    reason: str


@dataclass(frozen=True)
class Seconds:
    """Time of each step in seconds, summed over frames.

    Attributes:
        decode: Decoding the file.
        detect: Detecting faces.
        crop: Finding landmarks, if the recipe needs them, and cutting out.
        infer: Inference.
        draw: Drawing pictures, or the overlay video.
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
    """Score of an image or a video.

    Attributes:
        name: Path relative to the path that was asked for.
        kind: "image", "video", or "crop" for a face crop.
        score: Score, see `RULE`; None without a face.
        fake: Whether the score reaches the threshold; None without a face.
        frames: Number of frames read.
        faces: Faces, in the order of frames.
        faceless: Frames without a face.
        picture: Heat map, overlay or overlay video; None if none was asked for, or could be drawn.
        note: Damage of the file, and the reason if nothing was drawn; "" if there is neither.
        seconds: Time of each step; None for crops.
        timeline: Page of a video's scores over time; None if none was drawn, and for pictures.
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
    """Return the frames of a file in order, each with its highest score."""
    by_frame: dict[int, Moment] = {}
    for frame in file.faceless:
        by_frame[frame.frame] = Moment(frame.frame, frame.time_seconds, None)
    # A frame counts as fake if any face in it does.
    for face in file.faces:
        before = by_frame.get(face.frame)
        if before is None or before.score is None or face.score > before.score:
            by_frame[face.frame] = Moment(face.frame, face.time_seconds, face.score)
    return tuple(moment for _, moment in sorted(by_frame.items()))


class TotalTime(NamedTuple):
    """Time of each step, and the number of frames that it was spent on."""

    seconds: Seconds
    frames: int


@dataclass(frozen=True)
class PredictionResult:
    """The result of `predict`.

    Attributes:
        engine: Name of the engine.
        threshold: Score from which on a face, a frame or a file is called fake.
        crop: Crop recipe; None if the pictures are face crops.
        detector: Name of the face detector; None if the pictures are face crops.
        files: Scored files, including those without a face.
        skipped: Files that could not be read.
        resumed: Number of `files` that an earlier run had scored.
        scores: Table with a row per file.
        frames: Table with a row per face of each frame, and per frame without one.
        left_out: Other files of the folder; () for crops, whose face set has a note of them.
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

    def seconds(self) -> TotalTime:
        """Return the total time of each step; crops are not counted."""
        total, frames = Seconds(), 0
        for file in self.files:
            if file.seconds is not None:
                total += file.seconds
                frames += file.frames
        return TotalTime(total, frames)

    def ms_per_frame(self) -> dict[str, float] | None:
        """Return the time of each step per frame, ms; None if no frame was timed."""
        seconds, frames = self.seconds()
        if not frames:
            return None
        return {step: 1e3 * value / frames for step, value in asdict(seconds).items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `lpx predict --json` prints them."""
        return {
            "engine": self.engine,
            "threshold": self.threshold,
            "crop": self.crop,
            "detector": self.detector,
            # The rule goes with the numbers, as a score of a video means little without it.
            "rule": RULE,
            "ms_per_frame": self.ms_per_frame(),
            "files": [_file_values(file) for file in self.files],
            "skipped": [{"file": one.name, "reason": one.reason} for one in self.skipped],
            "left_out": [asdict(one) for one in self.left_out],
            "resumed": self.resumed,
            "scores": str(self.scores),
            "frames": str(self.frames),
        }


def _file_values(file: FileScore) -> dict[str, Any]:
    values = asdict(file)
    # Times differ from run to run; the result has them in sum.
    del values["seconds"]
    for name in ("picture", "timeline"):
        values[name] = None if values[name] is None else str(values[name])
    return {"file": values.pop("name"), **values}


def verdict(fake: bool | None) -> str:
    """Return "fake" or "real"; "" without a face."""
    if fake is None:
        return ""
    return "fake" if fake else "real"


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
    """Write a CSV file with a row per file.

    Raises:
        LpxError: The file cannot be written.
    """
    rows: list[tuple[object, ...]] = []
    for file in files:
        row = (
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
        rows.append(row)
    for unread in skipped:
        note = f"not read: {unread.reason}"
        # Skipped files have a row too: a table that leaves them out looks complete.
        rows.append((unread.name, "", "", "", 0, 0, 0, "", note))
    _write_csv(path, SCORES_HEADER, rows)


def write_frames(path: Path, files: Iterable[FileScore]) -> None:
    """Write a CSV file with a row per face of each frame, and per frame without one.

    Raises:
        LpxError: The file cannot be written.
    """
    # A generator: a folder of long videos has millions of rows.
    rows = (row for file in files for row in _frame_rows(file))
    _write_csv(path, FRAMES_HEADER, rows)


def _frame_rows(file: FileScore) -> Iterator[tuple[object, ...]]:
    for face in file.faces:
        box = [""] * 4
        if face.box is not None:
            box = [_number(side, 1) for side in face.box]
        yield (
            file.name,
            face.frame,
            _number(face.time_seconds, 3),
            face.face,
            *box,
            _number(face.detector_score, 3),
            _number(face.score, 6),
            verdict(face.fake),
            "",
        )
    for frame in file.faceless:
        time = _number(frame.time_seconds, 3)
        yield (file.name, frame.frame, time, *[""] * 8, frame.reason)


def _number(value: float | None, digits: int) -> str:
    # An empty cell: spreadsheets, and pandas before 2.0, read "None" as a text.
    return "" if value is None else f"{value:.{digits}f}"


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[Iterable[object]]) -> None:
    # Written beside the table and renamed, so that a reader never sees half of it. The csv module
    # ends lines itself, hence newline="".
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            # A path may contain bytes that are not UTF-8.
            writer.writerow([plain(cell) if isinstance(cell, str) else cell for cell in row])


def picture_name(name: str, suffix: str, longest: int = NAME_BYTES, kind: str = "overlay") -> Path:
    """Return the path of a file's picture below the folder of pictures.

    `a/x.jpg` has the picture `a/x-jpg-overlay.png`: different files have different pictures, and no
    picture has the name of a source. Parts that are too long for the file system are shortened, and
    end in digits of the whole name's SHA-256.

    Args:
        name: Name of the file, with "/".
        suffix: Suffix of the picture, with the dot.
        longest: Maximum length of a part, bytes.
        kind: "overlay" or "timeline".
    """
    # The suffix stays in the name: x.jpg and x.png are different files.
    path = Path(name)
    end = f"-{path.suffix[1:]}" if path.suffix else ""
    # Names are limited in bytes, not characters, and the ending has to fit as well.
    last = _shortened(f"{path.stem}{end}", name, longest - len(f"-{kind}{suffix}"))
    *folders, _ = path.parts or ("",)
    short = Path(*(_shortened(part, name, longest) for part in folders), f"{last}-{kind}{suffix}")
    if len(os.fsencode(str(short))) <= PATH_BYTES:
        return short
    # The digits are of the full name, so that two paths that are too long do not collide.
    return Path(f"{_digits(name)}-{kind}{suffix}")


def _shortened(part: str, name: str, longest: int) -> str:
    if len(os.fsencode(part)) <= longest:
        return part
    kept = os.fsencode(part)[: longest - 1 - len(_digits(name))]
    # Drops the rest of a character that was cut in two.
    return f"{kept.decode('utf-8', 'ignore')}-{_digits(name)}"


def _digits(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


def longest_name(folder: Path) -> int:
    """Return the maximum length of a name in a folder, which need not exist yet, bytes."""
    # The root always exists.
    place = next(filter(os.path.exists, (folder, *folder.absolute().parents)))
    try:
        return min(os.pathconf(place, "PC_NAME_MAX"), NAME_BYTES)
    except (OSError, ValueError):
        # Some file systems do not say.
        return NAME_BYTES
