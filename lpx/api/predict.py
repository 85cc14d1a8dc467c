"""Scores and heat maps of the faces in images and videos."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2

from lpx.arguments import check_at_least, check_choice, check_fields
from lpx.artefacts.model import ExportedModel, open_faces, read_exported, versions
from lpx.data.detect import DETECTORS, FaceDetector, FaceMesh, open_detector
from lpx.data.face_sets.face_set import Face, FaceSet, ImageFile, Skipped
from lpx.data.images.crops import CropRecipe
from lpx.data.images.decode import UnreadableImageError
from lpx.data.images.media import MediaFile, check_there, find_media
from lpx.data.images.video_file import UnreadableVideoError, frame_indices
from lpx.data.walk import LeftOut, note_of
from lpx.data.wording import printable
from lpx.engines.base import Engine, notes_of
from lpx.engines.manifest import read_manifest
from lpx.errors import LpxError, first_line
from lpx.healing.pick import pick_engine
from lpx.predict.choose_recipe import choose_recipe
from lpx.predict.crop_scorer import CropScorer
from lpx.predict.file_scorer import FileScorer
from lpx.predict.journal import ScoreJournal
from lpx.predict.results import (
    FileScore,
    PredictionResult,
    longest_name,
    picture_name,
    write_frames,
    write_scores,
)
from lpx.predict.timeline import KnownSpan
from lpx.reporter import SILENT, Reporter
from lpx.workspace import WorkspaceFolder, check_writable

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace

FRAMES = 32
SCORES, TABLE, JOURNAL = "scores.csv", "frames.csv", "results.jsonl"
# Increased when the same files and settings give other results than before.
JOURNAL_FORMAT = 3
# Spans of videos whose truth is known, by name as in `FileScore`.
Known = Mapping[str, Sequence[KnownSpan]]


@dataclass(frozen=True)
class PredictOptions:
    """Arguments of `lpx.Workspace.predict`, which documents them.

    Attributes:
        known: Videos whose truth is known, by name: their timelines show it.
    """

    engine: str | None = None
    out: Path | None = None
    detector: str | None = "blazeface"
    crop: str | None = None
    limit: int | None = None
    frames: int | None = FRAMES
    overlay: bool = True
    known: Known = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.detector is not None:
            check_choice("detector", self.detector, DETECTORS)
        check_at_least("frames", self.frames, 1)
        check_at_least("limit", self.limit, 1)


def predict(
    workspace: OpenedWorkspace,
    path: Path,
    options: PredictOptions,
    reporter: Reporter = SILENT,
    *,
    pick_engine: Callable[..., tuple[str, Engine]] = pick_engine,
    open_detector: Callable[[str, int], FaceDetector] = open_detector,
) -> PredictionResult:
    """Implement `lpx.Workspace.predict`, which documents arguments and errors.

    Files are scored one after another, and each result is saved at once; files that an earlier run
    scored with the same model and options are not scored again if they are unchanged. A file that
    cannot be read is skipped and listed; one whose picture cannot be drawn is scored, and its note
    gives the reason. Once a file is scored, the tables are written whatever ends the run.

    Args:
        workspace: As for the method.
        path: As for the method.
        options: The other arguments of the method.
        reporter: As for the method.
        pick_engine: Opens an engine of the workspace, as `lpx.healing.pick.pick_engine`.
        open_detector: Opens a face detector by its name, for a number of threads.
    """
    # Before the model is read: a misspelt path is the most frequent mistake.
    check_there(path)
    out = options.out or workspace.predictions
    model = read_exported(workspace)
    # Resolved, as the two may be written differently, or one may be a link.
    if path.is_dir() and out.resolve() == path.resolve():
        raise LpxError(
            f"{out} would contain both the scored files and their pictures",
            "the next run would score the pictures, too",
            "use another folder (`out`)",
        )
    # Checked before scoring, which may take hours.
    check_writable(out, SCORES, TABLE, JOURNAL)
    pick = partial(
        pick_engine,
        workspace,
        model,
        options.engine,
        allow_host_code=workspace.allow_host_code,
        allow_factory=workspace.allow_factory,
        rebuild=workspace.rebuild,
        reporter=reporter,
    )
    run = _Run(workspace, model, path, out, options, reporter, pick)
    if options.detector is None:
        return _predict_crops(run)
    return _predict_files(run, options.detector, open_detector)


@dataclass(frozen=True)
class _Run:
    """Arguments of a prediction, and what follows from them, for files as for crops."""

    workspace: OpenedWorkspace
    model: ExportedModel
    path: Path
    out: Path
    options: PredictOptions
    reporter: Reporter
    pick_engine: Callable[[], tuple[str, Engine]]

    @contextmanager
    def collect(self) -> Iterator[_Collected]:
        """Collect results in this block, and write the tables at its end.

        Raises:
            LpxError: Nothing was scored, or a table cannot be written.
        """
        collected = _Collected([], [])
        try:
            yield collected
        # Even after an interrupt, which is the usual end of a long run: its results are worth
        # keeping.
        finally:
            if collected.found:
                # frames.csv first: whoever waits for scores.csv finds both.
                write_frames(self.out / TABLE, collected.found)
                write_scores(self.out / SCORES, collected.found, collected.skipped)
        if not collected.found:
            raise _nothing(self.path, collected.skipped)

    def result(
        self,
        engine: str,
        collected: _Collected,
        *,
        crop: str | None = None,
        detector: str | None = None,
        resumed: int = 0,
        left_out: tuple[LeftOut, ...] = (),
    ) -> PredictionResult:
        return PredictionResult(
            engine=engine,
            threshold=self.model.card.threshold,
            crop=crop,
            detector=detector,
            files=tuple(collected.found),
            skipped=tuple(collected.skipped),
            resumed=resumed,
            scores=self.out / SCORES,
            frames=self.out / TABLE,
            left_out=left_out,
        )


class _Collected(NamedTuple):
    """Results so far, and the files that cannot be read."""

    found: list[FileScore]
    skipped: list[Skipped]


def _predict_files(
    run: _Run, detector: str, open_detector: Callable[[str, int], FaceDetector]
) -> PredictionResult:
    model, options, reporter = run.model, run.options, run.reporter
    recipe = choose_recipe(model.card, options.crop, reporter)
    # Results of earlier runs would otherwise be scored as input.
    media = find_media(run.path, skip=(run.workspace.root, run.out))
    files = tuple(media.files[number] for number in frame_indices(len(media.files), options.limit))
    if media.left_out:
        reporter.warn(f"{note_of(media.left_out)}")
    # Not os.cpu_count(): a container or a batch system may allow fewer cores.
    threads = len(os.sched_getaffinity(0))
    finder = open_detector(detector, threads)
    # The mesh is loaded only where the recipe needs landmarks, as it takes time for every face.
    mesh = FaceMesh(threads) if recipe.needs_landmarks else None
    # After what is refused at once: an engine may have to be rebuilt, which takes minutes.
    name, loaded = run.pick_engine()
    reporter.say(
        f"engine {name}, threshold {model.card.threshold:.3f}, faces by {detector}, "
        f"crop {recipe.name}"
    )
    _warn_of(loaded, reporter)
    journal = ScoreJournal(run.out / JOURNAL, _settings(run, name, recipe), reporter)
    scorer = FileScorer(name, loaded, model.card, finder, mesh, recipe, options.frames)
    with closing(loaded), closing(journal), run.collect() as collected:
        resumed = _score_files(run, scorer, files, journal, collected)
    return run.result(
        name,
        collected,
        crop=recipe.name,
        detector=detector,
        resumed=resumed,
        left_out=media.left_out,
    )


def _settings(run: _Run, engine: str, recipe: CropRecipe) -> dict[str, Any]:
    """Return everything that can change a result.

    Anything else, such as the folder's name, must not be here, or a resumed run starts over.
    """
    options = run.options
    return {
        "format": JOURNAL_FORMAT,
        "engine": engine,
        "sha256": _digest(run.workspace, run.model, engine),
        "model_sha256": run.model.sha256,
        "threshold": run.model.card.threshold,
        "detector": options.detector,
        "crop": recipe.name,
        "frames": options.frames,
        "overlay": options.overlay,
        # Versions belong to it, as decoders and detectors change results between releases.
        **versions(),
        "known": {
            name: [list(astuple(span)) for span in spans] for name, spans in options.known.items()
        },
    }


def _score_files(
    run: _Run,
    scorer: FileScorer,
    files: Sequence[MediaFile],
    journal: ScoreJournal,
    collected: _Collected,
) -> int:
    """Score files, or take their results from the journal; return how many were taken."""
    out, options, reporter = run.out, run.options, run.reporter
    found, skipped = collected
    resumed = 0
    # Asked once, as file systems answer slowly over a network.
    longest = longest_name(out)
    tell = reporter.progress("scoring")
    for number, file in enumerate(files):
        if done := journal.find(file.name, file.path):
            resumed += 1
            found.append(done)
        else:
            suffix = ".png" if file.kind == "image" else ".mp4"
            picture = page = None
            if options.overlay:
                picture = out / picture_name(file.name, suffix, longest)
            if options.overlay and file.kind == "video":
                page = out / picture_name(file.name, ".html", longest, "timeline")
            # A folder's bar counts files; one file's counts frames.
            within = tell
            if len(files) > 1:
                within = SILENT.progress("")
            try:
                spans = tuple(options.known.get(file.name, ()))
                result = scorer.score(file, picture, within, page, spans)
            except (UnreadableImageError, UnreadableVideoError) as error:
                skipped.append(Skipped(file.name, str(error)))
            # OpenCV raises its own error for pictures that it decodes but cannot resize; one file
            # must not end the run.
            except (cv2.error, MemoryError) as error:
                skipped.append(Skipped(file.name, f"it cannot be processed: {first_line(error)}"))
            else:
                found.append(result)
                # If it could not be drawn, the next run tries again.
                if result.picture == picture:
                    journal.add(result, file.path)
        # After the file, whatever became of it: skipped files count as well.
        if len(files) > 1:
            tell(number + 1, len(files))
    if resumed:
        reporter.say(f"{resumed} of {len(files)} files were scored by an earlier run")
    if journal.changed:
        reporter.say(
            f"{journal.changed} of {len(files)} files changed after an earlier run had scored "
            "them, and were scored again"
        )
    return resumed


def _digest(workspace: WorkspaceFolder, model: ExportedModel, engine: str) -> str:
    # The checkpoint has no folder with a manifest: its weights' digest stands for it.
    if engine == "torch":
        return model.card.weights_sha256
    return read_manifest(workspace.engines / engine).engine_sha256


def _nothing(path: Path, skipped: Sequence[Skipped]) -> LpxError:
    more = f"; {len(skipped) - 1} more" if len(skipped) > 1 else ""
    return LpxError(
        f"{path} has no readable image or video",
        f"{skipped[0].name}: {skipped[0].reason}{more}",
        "use an image, a video, or a folder of these",
    )


def _predict_crops(run: _Run) -> PredictionResult:
    model, reporter = run.model, run.reporter
    faces = _crops(run.workspace, run.path, run.out, reporter).first(run.options.limit)
    name, loaded = run.pick_engine()
    reporter.say(f"engine {name}, threshold {model.card.threshold:.3f}, pictures are face crops")
    _warn_of(loaded, reporter)
    scorer = CropScorer(name, loaded, model.card, run.out if run.options.overlay else None)
    with closing(loaded), run.collect() as collected:
        # extend() keeps the scores from before an error.
        collected.found.extend(scorer.score(faces, collected.skipped, reporter.progress("scoring")))
    return run.result(name, collected)


def _warn_of(engine: Engine, reporter: Reporter) -> None:
    for note in notes_of(engine):
        reporter.warn(f"{note}")


def _crops(workspace: WorkspaceFolder, path: Path, out: Path, reporter: Reporter) -> FaceSet:
    if path.is_file():
        name = printable(path.name)
        face = Face(name, None, "unknown", name, (), ImageFile(path))
        return FaceSet(printable(str(path)), "all", "unknown", (face,))
    return open_faces(workspace, f"folder:{path}", "all", out, reporter=reporter)
