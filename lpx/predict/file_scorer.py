"""Score the faces of one image or video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.score import are_maps, are_probabilities
from lpx.card import ModelCard
from lpx.data.detect import FaceDetector, FaceMesh
from lpx.data.images.crops import CropRecipe
from lpx.data.images.cut_faces import FaceCrop, cut_faces
from lpx.data.images.decode import fit, read_image
from lpx.data.images.media import MediaFile
from lpx.data.images.video_file import Frame, FrameReader, read_frames
from lpx.data.images.video_writer import VideoWriter
from lpx.data.wording import counted
from lpx.engines.base import Engine, Prediction
from lpx.errors import LpxError
from lpx.predict.results import FacelessFrame, FaceScore, FileScore, Seconds, verdict
from lpx.predict.stills import Stills
from lpx.predict.timeline import KnownSpan, Moment, Timeline, render_timeline
from lpx.render.encode import encode_png
from lpx.render.face import Image
from lpx.render.frame import Mark, drawn_size, framed, marked, score_strip
from lpx.workspace import atomic_path, write_bytes

BATCH = 8
"""Frames that are held at a time, and faces given to the engine at a time."""
SLOWEST_HZ = 2.0
"""An overlay of few frames of a long video keeps its pace, but no frame stays longer."""

USUAL_HZ = 25.0
"""The rate of an overlay where the video's is not known."""

Progress = Callable[[int, int], None]


class NotDrawnError(Exception):
    """A picture that cannot be drawn or written; the message says why."""


@contextmanager
def drawing() -> Iterator[None]:
    """Tells what goes wrong with a picture from what goes wrong with a score."""
    try:
        yield
    except LpxError as error:
        raise NotDrawnError(f"{error.what}: {error.why}" if error.why else error.what) from error
    except (OSError, cv2.error) as error:
        raise NotDrawnError(str(error)) from error


class _Clock:
    """Sums up where time goes."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("decode", "detect", "crop", "infer", "draw"), 0.0)

    @contextmanager
    def time(self, step: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[step] += perf_counter() - start


def not_drawn(error: NotDrawnError) -> str:
    """The note of a file that has no picture."""
    return f"nothing was drawn: {error}"


@dataclass
class _Scored:
    """What is known of a file so far."""

    count: int
    faces: list[FaceScore] = field(default_factory=list)
    faceless: list[FacelessFrame] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)

    def line(self, upto: int | None) -> list[tuple[float, float | None]]:
        """(place in [0, 1], score) of the first frames."""
        last = max(self.count - 1, 1)
        return [(moment.frame / last, moment.score) for moment in self.moments[:upto]]


@dataclass(frozen=True)
class FileScorer:
    """Everything that scoring a file needs.

    Attributes:
        name: The engine's, for errors.
        engine: Scores crops.
        card: Of the model.
        detector: Finds faces.
        mesh: Finds landmarks; None where the recipe needs none.
        recipe: Cuts faces out.
        frames: To take of a video, evenly spaced; None for all.
    """

    name: str
    engine: Engine
    card: ModelCard
    detector: FaceDetector
    mesh: FaceMesh | None
    recipe: CropRecipe
    frames: int | None

    def score(
        self,
        file: MediaFile,
        picture: Path | None,
        tell: Progress,
        timeline: Path | None = None,
        known: tuple[KnownSpan, ...] = (),
    ) -> FileScore:
        """Score all faces, eight frames at a time.

        Args:
            file: An image or a video.
            picture: Where to draw; None draws nothing. Nothing is left there where this raises, or
                where nothing can be drawn, which the result's note says.
            tell: Told (frames done, frames in all).
            timeline: Where the page of a video's scores over time goes; the same holds for it. Not
                used where nothing is drawn, or for an image.
            known: What is known of the video's frames, for that page.

        Raises:
            UnreadableImageError: The image does not decode.
            UnreadableVideoError: No frame of the video does.
            LpxError: A score is not a number.
        """
        try:
            return self._score(file, picture, tell, timeline, known)
        except NotDrawnError as error:
            # From the start, as what was scored until then is gone.
            result = self._score(file, None, tell)
            note = "; ".join(filter(None, (result.note, not_drawn(error))))
            return replace(result, note=note)

    def _score(
        self,
        file: MediaFile,
        picture: Path | None,
        tell: Progress,
        timeline: Path | None = None,
        known: tuple[KnownSpan, ...] = (),
    ) -> FileScore:
        clock = _Clock()
        if file.kind == "image":
            with clock.time("decode"):
                pixels = read_image(file.path)
            seen = _Scored(1)
            found = self._scored(file, [Frame(0, pixels)], seen, clock)
            if picture is not None:
                with clock.time("draw"), drawing():
                    frame, marks = found[0]
                    strip = self._strip(frame, marks, seen, timeline=False)
                    drawn = framed(self._marked(frame, marks), strip)
                    write_bytes(picture, encode_png(drawn), durable=False)
            tell(1, 1)
            return self._result(file, seen, picture, None, "", clock)
        with clock.time("decode"):
            reader = read_frames(file.path, self.frames, threads=0)
        seen = _Scored(reader.count)
        with ExitStack() as place:
            temporary = page = None
            if picture is not None:
                with drawing():
                    temporary = place.enter_context(atomic_path(picture, durable=False))
                    if timeline is not None:
                        page = place.enter_context(atomic_path(timeline, durable=False))
            stills = self._play(file, reader, seen, temporary, clock, tell)
            if picture is not None and page is not None and seen.moments:
                with clock.time("draw"), drawing():
                    line = Timeline(
                        file.name,
                        self.name,
                        self.card.threshold,
                        tuple(seen.moments),
                        _mean(seen.moments),
                        picture.name,
                        known,
                    )
                    page.write_text(render_timeline(line, stills.chosen()), encoding="utf-8")
            with drawing():
                place.close()
        return self._result(file, seen, picture, timeline if page else None, reader.note, clock)

    def _play(
        self,
        file: MediaFile,
        reader: FrameReader,
        seen: _Scored,
        path: Path | None,
        clock: _Clock,
        tell: Progress,
    ) -> Stills:
        writer = None
        wanted = min(reader.count, self.frames or reader.count)
        whole_hz = reader.frames_per_second or USUAL_HZ
        rate_hz = max(whole_hz * wanted / reader.count, min(SLOWEST_HZ, whole_hz))
        stills = Stills(wanted)
        while True:
            with clock.time("decode"):
                frames = list(islice(reader, BATCH))
            if not frames:
                break
            found = self._scored(file, frames, seen, clock)
            if path is not None:
                done = len(seen.moments) - len(frames)
                with clock.time("draw"), drawing():
                    for place, (frame, marks) in enumerate(found, done):
                        shown = self._marked(frame, marks)
                        stills.add(place, seen.moments[place], shown)
                        strip = self._strip(frame, marks, seen, timeline=True, upto=place + 1)
                        drawn = framed(shown, strip)
                        if writer is None:
                            height, width = drawn.shape[:2]
                            writer = VideoWriter(path, rate_hz, width, height)
                        writer.write(drawn)
            tell(min(len(seen.moments), wanted - 1), wanted)
        if writer is not None:
            with clock.time("draw"), drawing():
                writer.close()
        tell(wanted, wanted)
        return stills

    def _scored(
        self, file: MediaFile, frames: list[Frame], seen: _Scored, clock: _Clock
    ) -> list[tuple[Frame, list[Mark]]]:
        """Add the scores of some frames to `seen`; returns what to draw on each."""
        found: list[tuple[FaceCrop, ...]] = []
        crops: list[NDArray[np.uint8]] = []
        reasons: list[str] = []
        for frame in frames:
            with clock.time("detect"):
                boxes = self.detector.detect(frame.pixels)
            with clock.time("crop"):
                faces = cut_faces(frame.pixels, boxes, self.mesh, self.recipe)
                crops += [fit(face.crop.pixels, self.card.input_size) for face in faces]
            found.append(faces)
            reasons.append(
                f"the detector found {len(boxes)}, none with landmarks that fit a face"
                if boxes
                else "the detector found no face"
            )
        with clock.time("infer"):
            scores, maps = self._infer(crops)
        at = 0
        drawn = []
        for frame, faces, reason in zip(frames, found, reasons, strict=True):
            here = slice(at, at := at + len(faces))
            self._check(file, frame, scores[here], maps[here])
            drawn.append((frame, self._keep(frame, faces, scores[here], maps[here], reason, seen)))
        return drawn

    def _infer(self, crops: list[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], ...]:
        parts: list[Prediction] = [
            self.engine.infer(np.stack(crops[start : start + BATCH]))
            for start in range(0, len(crops), BATCH)
        ]
        if not parts:
            return np.zeros(0, np.float32), np.zeros((0, 1, 1), np.float32)
        return np.concatenate([p.score for p in parts]), np.concatenate(
            [p.patch_map for p in parts]
        )

    def _check(
        self, file: MediaFile, frame: Frame, scores: NDArray[np.float32], maps: NDArray[np.float32]
    ) -> None:
        likely = are_probabilities(scores)
        if not (likely.all() and are_maps(maps).all()):
            given = (
                f"the score {scores[~likely][0]}"
                if not likely.all()
                else "a map with values outside 0 to 1"
            )
            raise LpxError(
                f"{self.name} gives {given} to a face in {file.name}, frame {frame.index}",
                "scores must be probabilities, from 0 to 1; others make every figure meaningless",
                "see with --engine torch whether the checkpoint does so too; if it does not, "
                "build the engine again, or in another precision",
            )

    def _keep(
        self,
        frame: Frame,
        faces: tuple[FaceCrop, ...],
        scores: NDArray[np.float32],
        maps: NDArray[np.float32],
        reason: str,
        seen: _Scored,
    ) -> list[Mark]:
        time, marks = frame.seconds, []
        for number, (face, score, patch_map) in enumerate(zip(faces, scores, maps, strict=True), 1):
            fake = bool(score >= self.card.threshold)
            box = face.detection.box
            seen.faces.append(
                FaceScore(frame.index, time, number, box, face.detection.score, float(score), fake)
            )
            label = f"{number}: {score:.2f}" if len(faces) > 1 else f"{score:.2f}"
            height, width = face.crop.pixels.shape[:2]
            marks.append(
                Mark(
                    box,
                    face.crop.matrix,
                    (width, height),
                    patch_map,
                    f"{label} {verdict(fake)}",
                    fake,
                )
            )
        if not faces:
            seen.faceless.append(FacelessFrame(frame.index, time, reason))
        top = float(scores.max()) if len(scores) else None
        seen.moments.append(Moment(frame.index, time, top))
        return marks

    def _marked(self, frame: Frame, marks: list[Mark]) -> Image:
        height, width = frame.pixels.shape[:2]
        return marked(frame.pixels, marks, drawn_size(width, height))

    def _strip(
        self,
        frame: Frame,
        marks: list[Mark],
        seen: _Scored,
        *,
        timeline: bool,
        upto: int | None = None,
    ) -> Image:
        height, width = frame.pixels.shape[:2]
        line = seen.line(upto)
        score = line[-1][1]
        said = (
            "no face"
            if score is None
            else f"score {score:.2f} {verdict(score >= self.card.threshold)}"
        )
        left = counted(len(marks), "face")
        if timeline:
            time = frame.seconds
            left = f"frame {frame.index}" + ("" if time is None else f"  {time:.2f} s")
        size = drawn_size(width, height)
        return score_strip(size[0], left, said, self.card.threshold, line if timeline else ())

    def _result(
        self,
        file: MediaFile,
        seen: _Scored,
        picture: Path | None,
        timeline: Path | None,
        note: str,
        clock: _Clock,
    ) -> FileScore:
        mean = _mean(seen.moments)
        fake = None if mean is None else mean >= self.card.threshold
        return FileScore(
            file.name,
            file.kind,
            mean,
            fake,
            len(seen.moments),
            tuple(seen.faces),
            tuple(seen.faceless),
            picture,
            note,
            Seconds(**clock.seconds),
            timeline,
        )


def _mean(moments: list[Moment]) -> float | None:
    """The mean of the frames with a face; None where there is none."""
    scores = [moment.score for moment in moments if moment.score is not None]
    return float(np.mean(scores)) if scores else None
