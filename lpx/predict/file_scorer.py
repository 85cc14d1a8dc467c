"""Score the faces of one image or video, and draw the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
from lpx.metrics.roc import called_fake
from lpx.predict.drawing import NotDrawnError, drawing, not_drawn
from lpx.predict.results import FacelessFrame, FaceScore, FileScore, Seconds, verdict
from lpx.predict.score_crops import BATCH, check_scores, score_crops
from lpx.predict.stills import Stills
from lpx.predict.timeline import KnownSpan, Moment, Timeline, render_timeline
from lpx.render.encode import encode_png
from lpx.render.face import Image
from lpx.render.frame import Mark, StripScore, drawn_size, framed, marked, score_strip
from lpx.reporter import Progress
from lpx.workspace import atomic_path, write_bytes

# Minimum frame rate of an overlay: one with few frames of a long video keeps the video's pace,
# but shows no frame longer than this.
SLOWEST_HZ = 2.0
# Frame rate of an overlay if that of the video is unknown.
USUAL_HZ = 25.0


class _Clock:
    """Adds up the time of each step."""

    def __init__(self) -> None:
        self.seconds = asdict(Seconds())

    @contextmanager
    def time(self, step: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        # In `finally`, so that a step that fails has its time counted as well.
        finally:
            self.seconds[step] += perf_counter() - start


@dataclass
class _Scores:
    """Scores of a file so far.

    Attributes:
        count: Number of frames of the file, including those that are not read.
        faces: Scored faces.
        faceless: Frames without a scored face.
        moments: One per frame that was read.
        clock: Time spent.
    """

    count: int
    faces: list[FaceScore] = field(default_factory=list)
    faceless: list[FacelessFrame] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    clock: _Clock = field(default_factory=_Clock)

    def strip(self, upto: int | None) -> list[StripScore]:
        """Return the scores of the first frames, placed in the video."""
        # An image has one frame, and no length to divide by.
        last = max(self.count - 1, 1)
        return [StripScore(moment.frame / last, moment.score) for moment in self.moments[:upto]]

    def mean(self) -> float | None:
        """Return the mean score of the frames with a face; None if there are none."""
        # Frames without a face have no score, which is not the same as a score of 0.
        scores = [moment.score for moment in self.moments if moment.score is not None]
        return float(np.mean(scores)) if scores else None


class _MarkedFrame(NamedTuple):
    """A frame with what to draw on it."""

    frame: Frame
    marks: list[Mark]


@dataclass(frozen=True)
class _Outputs:
    """Files to draw.

    Attributes:
        picture: Heat map of an image, or overlay of a video; None to draw nothing.
        timeline: Page of a video's scores over time; None for images.
        known: Spans of the video whose truth is known.
    """

    picture: Path | None = None
    timeline: Path | None = None
    known: tuple[KnownSpan, ...] = ()


@dataclass(frozen=True)
class FileScorer:
    """Scores images and videos.

    Attributes:
        name: Name of the engine, for errors.
        engine: Engine that scores crops.
        card: Card of the model.
        detector: Finds faces.
        mesh: Finds landmarks; None if the recipe needs none.
        recipe: Cuts faces out.
        frames: Number of frames to take of a video, evenly spaced; None for all.
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
        progress: Progress,
        timeline: Path | None = None,
        known: tuple[KnownSpan, ...] = (),
    ) -> FileScore:
        """Score all faces of a file, eight frames at a time.

        Args:
            file: An image or a video.
            picture: File to draw into; None to draw nothing. It is not created if this raises, or
                if nothing can be drawn, which the result's note says.
            progress: Receives the number of finished frames, and that of all.
            timeline: Page of a video's scores over time, under the same conditions. Ignored for an
                image, and if nothing is drawn.
            known: Spans of the video whose truth is known, for that page.

        Raises:
            UnreadableImageError: The image does not decode.
            UnreadableVideoError: No frame of the video decodes.
            LpxError: A score is not a probability.
        """
        try:
            return self._score(file, _Outputs(picture, timeline, known), progress)
        except NotDrawnError as error:
            # From the start, as the scores until the error are lost.
            result = self._score(file, _Outputs(), progress)
            note = "; ".join(filter(None, (result.note, not_drawn(error))))
            return replace(result, note=note)

    def _score(self, file: MediaFile, outputs: _Outputs, progress: Progress) -> FileScore:
        if file.kind == "image":
            return self._score_image(file, outputs, progress)
        return self._score_video(file, outputs, progress)

    def _score_image(self, file: MediaFile, outputs: _Outputs, progress: Progress) -> FileScore:
        scores = _Scores(1)
        with scores.clock.time("decode"):
            pixels = read_image(file.path)
        (scored,) = self._score_frames(file, [Frame(0, pixels)], scores)
        if outputs.picture is not None:
            with scores.clock.time("draw"), drawing():
                drawn = framed(_draw_marks(scored), self._image_strip(scored, scores))
                write_bytes(outputs.picture, encode_png(drawn), durable=False)
        # Last: a caller that sees the end of the progress may look for the picture.
        progress(1, 1)
        # An image has no timeline, even if one was asked for.
        return self._result(file, scores, replace(outputs, timeline=None), "")

    def _score_video(self, file: MediaFile, outputs: _Outputs, progress: Progress) -> FileScore:
        clock = _Clock()
        with clock.time("decode"):
            # 0: as many threads as FFmpeg thinks fit; nothing else runs while it decodes.
            reader = read_frames(file.path, self.frames, threads=0)
        scores = _Scores(reader.count, clock=clock)
        # Both files get their names when everything is finished: a run that is killed leaves none.
        with ExitStack() as files:
            # The page shows the overlay, which needs a picture: without one, both are left out.
            overlay = page = None
            if outputs.picture is not None:
                with drawing():
                    overlay = files.enter_context(atomic_path(outputs.picture, durable=False))
                    if outputs.timeline is not None:
                        page = files.enter_context(atomic_path(outputs.timeline, durable=False))
            stills = self._score_reader(file, reader, scores, overlay, progress)
            # A file without frames has no axis to draw.
            if outputs.picture is not None and page is not None and scores.moments:
                with clock.time("draw"), drawing():
                    line = Timeline(
                        file.name,
                        self.name,
                        self.card.threshold,
                        tuple(scores.moments),
                        scores.mean(),
                        outputs.picture.name,
                        outputs.known,
                    )
                    page.write_text(render_timeline(line, stills.chosen()), encoding="utf-8")
            # Closed here rather than by the block, so that an error in renaming counts as one of
            # drawing.
            with drawing():
                files.close()
        if page is None:
            outputs = replace(outputs, timeline=None)
        return self._result(file, scores, outputs, reader.note)

    def _score_reader(
        self,
        file: MediaFile,
        reader: FrameReader,
        scores: _Scores,
        overlay: Path | None,
        progress: Progress,
    ) -> Stills:
        """Score the frames of a video, and draw the overlay."""
        wanted = min(reader.count, self.frames or reader.count)
        stills = Stills(wanted)
        writer: VideoWriter | None = None
        while True:
            with scores.clock.time("decode"):
                # Decoded in batches, so that the memory does not depend on the length of the video.
                frames = list(islice(reader, BATCH))
            if not frames:
                break
            scored = self._score_frames(file, frames, scores)
            if overlay is not None:
                # The scores of this batch have been appended, so its first frame is at the end less
                # the batch.
                first = len(scores.moments) - len(frames)
                with scores.clock.time("draw"), drawing():
                    for place, one in enumerate(scored, first):
                        shown = _draw_marks(one)
                        stills.add(place, scores.moments[place], shown)
                        drawn = framed(shown, self._video_strip(one, scores, place))
                        # Only the first drawn frame tells the size of the overlay.
                        if writer is None:
                            height, width = drawn.shape[:2]
                            writer = VideoWriter(overlay, _rate_hz(reader, wanted), width, height)
                        writer.write(drawn)
            # The last step is reported when the overlay is finished, too.
            progress(min(len(scores.moments), wanted - 1), wanted)
        # Closing writes what the encoder has buffered, which counts as drawing and may fail as
        # such.
        if writer is not None:
            with scores.clock.time("draw"), drawing():
                writer.close()
        progress(wanted, wanted)
        return stills

    def _score_frames(
        self, file: MediaFile, frames: list[Frame], scores: _Scores
    ) -> list[_MarkedFrame]:
        """Score the faces of some frames, add them to `scores`, and return what to draw."""
        faces: list[tuple[FaceCrop, ...]] = []
        crops: list[NDArray[np.uint8]] = []
        reasons: list[str] = []
        for frame in frames:
            with scores.clock.time("detect"):
                boxes = self.detector.detect(frame.pixels)
            with scores.clock.time("crop"):
                cut = cut_faces(frame.pixels, boxes, self.mesh, self.recipe)
                crops += [fit(face.crop.pixels, self.card.input_size) for face in cut]
            faces.append(cut)
            # The two reasons call for different remedies: a better picture, or another crop recipe.
            reason = "the detector found no face"
            if boxes:
                reason = f"the detector found {len(boxes)}, none with landmarks that fit a face"
            reasons.append(reason)
        # All faces of the frames at once: batches are cheaper than single faces.
        with scores.clock.time("infer"):
            prediction = score_crops(self.engine, crops)
        start = 0
        scored = []
        for frame, cut, reason in zip(frames, faces, reasons, strict=True):
            here = slice(start, start + len(cut))
            start = here.stop
            # Checked frame by frame, so that an error names the frame.
            its = Prediction(prediction.score[here], prediction.patch_map[here])
            check_scores(self.name, its, f"{file.name}, frame {frame.index}")
            scored.append(_MarkedFrame(frame, self._add_faces(frame, cut, its, scores)))
            if not cut:
                scores.faceless.append(FacelessFrame(frame.index, frame.seconds, reason))
        return scored

    def _add_faces(
        self,
        frame: Frame,
        faces: tuple[FaceCrop, ...],
        prediction: Prediction,
        scores: _Scores,
    ) -> list[Mark]:
        """Add the scores of a frame, and return what to draw on it."""
        marks = []
        fakes = called_fake(prediction.score, self.card.threshold).tolist()
        for place, (face, fake) in enumerate(zip(faces, fakes, strict=True)):
            score = float(prediction.score[place])
            box = face.detection.box
            scores.faces.append(
                FaceScore(
                    frame.index,
                    frame.seconds,
                    place + 1,
                    box,
                    face.detection.score,
                    score,
                    fake,
                )
            )
            label = f"{score:.2f} {verdict(fake)}"
            # Numbers, those of the table, are needed only to tell several faces apart.
            if len(faces) > 1:
                label = f"{place + 1}: {label}"
            height, width = face.crop.pixels.shape[:2]
            patch_map = prediction.patch_map[place]
            marks.append(Mark(box, face.crop.matrix, (width, height), patch_map, label, fake))
        # The score of a frame is that of its highest-scoring face.
        top = max((float(score) for score in prediction.score), default=None)
        scores.moments.append(Moment(frame.index, frame.seconds, top))
        return marks

    def _image_strip(self, scored: _MarkedFrame, scores: _Scores) -> Image:
        """Draw the strip below an image: the number of faces, and the score."""
        score = scores.moments[0].score
        return self._strip(scored.frame, counted(len(scored.marks), "face"), score, ())

    def _video_strip(self, scored: _MarkedFrame, scores: _Scores, place: int) -> Image:
        """Draw the strip below a frame of a video: its time, score, and the scores so far."""
        line = scores.strip(upto=place + 1)
        left = f"frame {scored.frame.index}"
        if scored.frame.seconds is not None:
            left += f"  {scored.frame.seconds:.2f} s"
        return self._strip(scored.frame, left, line[-1].score, line)

    def _strip(
        self, frame: Frame, left: str, score: float | None, line: Sequence[StripScore]
    ) -> Image:
        right = "no face"
        if score is not None:
            right = f"score {score:.2f} {verdict(score >= self.card.threshold)}"
        height, width = frame.pixels.shape[:2]
        # The strip has the width of the drawn frame, which may be smaller than the video.
        shown_width, _ = drawn_size(width, height)
        return score_strip(shown_width, left, right, self.card.threshold, line)

    def _result(self, file: MediaFile, scores: _Scores, outputs: _Outputs, note: str) -> FileScore:
        mean = scores.mean()
        return FileScore(
            name=file.name,
            kind=file.kind,
            score=mean,
            # Nothing was found to judge, so the file is neither fake nor real.
            fake=None if mean is None else mean >= self.card.threshold,
            frames=len(scores.moments),
            faces=tuple(scores.faces),
            faceless=tuple(scores.faceless),
            picture=outputs.picture,
            note=note,
            seconds=Seconds(**scores.clock.seconds),
            timeline=outputs.timeline,
        )


def _draw_marks(scored: _MarkedFrame) -> Image:
    height, width = scored.frame.pixels.shape[:2]
    return marked(scored.frame.pixels, scored.marks, drawn_size(width, height))


def _rate_hz(reader: FrameReader, wanted: int) -> float:
    """Return the frame rate at which an overlay of `wanted` frames keeps the video's pace."""
    whole_hz = reader.frames_per_second or USUAL_HZ
    return max(whole_hz * wanted / reader.count, min(SLOWEST_HZ, whole_hz))
