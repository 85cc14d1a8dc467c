"""predict(): scores and heat maps of the faces in images and videos."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple
from pathlib import Path

import cv2

from lpx.arguments import check_at_least
from lpx.artefacts.model import ExportedModel, open_faces, read_exported, versions
from lpx.artefacts.select_engine import pick_engine
from lpx.bench.parity.score import check_finite
from lpx.card import ModelCard
from lpx.data.detect import FaceMesh, open_detector
from lpx.data.face_sets.face_set import Face, FaceSet, ImageFile, Skipped
from lpx.data.images.crops import RECIPES, CropRecipe, find_recipe
from lpx.data.images.decode import UnreadableImageError, fit
from lpx.data.images.media import MediaFile, check_there, find_media
from lpx.data.images.video_file import UnreadableVideoError, frame_indices
from lpx.data.walk import note_of
from lpx.data.wording import printable
from lpx.engines.base import Engine, notes_of
from lpx.engines.manifest import read_manifest
from lpx.errors import LpxError
from lpx.predict.file_scorer import BATCH, FileScorer, NotDrawnError, drawing, not_drawn
from lpx.predict.results import (
    FaceScore,
    FileScore,
    Journal,
    Predicted,
    longest_name,
    picture_name,
    write_frames,
    write_scores,
)
from lpx.predict.timeline import KnownSpan
from lpx.render.encode import encode_png
from lpx.render.face import explained
from lpx.reporter import SILENT, Reporter
from lpx.workspace import Workspace, check_writable, write_bytes

FRAMES = 32
SCORES, TABLE, JOURNAL = "scores.csv", "frames.csv", "results.jsonl"
JOURNAL_FORMAT = 3
"""Grows where the same files and settings give other results than before."""
Known = Mapping[str, Sequence[KnownSpan]]
"""What is known of videos, by their names as in `FileScore`."""
NOTHING_KNOWN: Known = {}


def predict(
    workspace: Workspace,
    path: Path,
    *,
    engine: str | None = None,
    out: Path | None = None,
    crops: bool = False,
    limit: int | None = None,
    frames: int | None = FRAMES,
    detector: str = "blazeface",
    crop: str | None = None,
    overlay: bool = True,
    known: Known = NOTHING_KNOWN,
    allow_host_code: bool = False,
    allow_factory: bool = False,
    report: Reporter = SILENT,
) -> Predicted:
    """Score the faces in images and videos, and draw where the detector sees forgery.

    Files are scored one after the other, and each result is written down at once; files that an
    earlier run scored with the same model and options are not scored again, if they are unchanged.
    A file that cannot be read is left out and listed; one whose picture cannot be drawn is scored,
    and its note says why there is none. Once a file is scored, the tables are written whatever ends
    the run.

    Args:
        workspace: Holds the engines.
        path: An image, a video, or a folder of these.
        engine: Name of an engine, or "torch"; None takes the fastest that runs here.
        out: Folder for pictures and tables; `predictions` in the workspace by default.
        crops: Pictures are face crops already: nothing is detected, and nothing resumed.
        limit: Maximum number of files, sampled evenly; None takes all.
        frames: To take of each video, evenly spaced; None takes all.
        detector: A key of `lpx.data.detect.DETECTORS`.
        crop: Recipe to cut faces by; None takes the model card's.
        overlay: Whether to draw heat maps, and each video's scores over time.
        known: Frames of videos of which the truth is known: their timelines show it.
        allow_host_code: Load a version-compatible plan, which carries code that runs here.
        allow_factory: Run the factory that the workspace names, for the engine "torch".
        report: Told what happens.

    Raises:
        LpxError: Nothing there to score or nothing readable, an engine, detector or crop recipe
            that does not exist or run here, or an engine that returns NaN.
    """
    check_at_least("frames", frames, 1)
    check_at_least("limit", limit, 1)
    check_there(path)
    out = out or workspace.predictions
    model = read_exported(workspace)
    if path.is_dir() and out.resolve() == path.resolve():
        raise LpxError(
            f"{out} would hold both what is scored and its pictures",
            "the next run would take the pictures for photographs",
            "choose another folder with --out DIR",
        )
    check_writable(out, SCORES, TABLE, JOURNAL)
    if crops:
        faces = _crops(workspace, path, out, report).first(limit)
        picked = pick_engine(
            workspace, model, engine, allow_host_code=allow_host_code, allow_factory=allow_factory
        )
        return _score_crops(*picked, model, path, faces, out, overlay, report)
    recipe = _recipe(model.card, crop, report)
    media = find_media(path, skip=(workspace.root, out))
    files = tuple(media.files[number] for number in frame_indices(len(media.files), limit))
    if media.left_out:
        report.warn(f"{note_of(media.left_out)}")
    threads = len(os.sched_getaffinity(0))
    finder = open_detector(detector, threads)
    mesh = FaceMesh(threads) if recipe.needs_landmarks else None
    name, loaded = pick_engine(
        workspace, model, engine, allow_host_code=allow_host_code, allow_factory=allow_factory
    )
    report.say(
        f"engine {name}, threshold {model.card.threshold:.3f}, faces by {detector}, "
        f"crop {recipe.name}"
    )
    _warn_of(loaded, report)
    settings = {
        "format": JOURNAL_FORMAT,
        "engine": name,
        "sha256": _digest(workspace, model, name),
        "model_sha256": model.sha256,
        "threshold": model.card.threshold,
        "detector": detector,
        "crop": recipe.name,
        "frames": frames,
        "overlay": overlay,
        **versions(),
        "known": {name: [list(astuple(span)) for span in spans] for name, spans in known.items()},
    }
    journal = Journal(out / JOURNAL, settings, report.say)
    scorer = FileScorer(name, loaded, model.card, finder, mesh, recipe, frames)
    found: list[FileScore] = []
    skipped: list[Skipped] = []
    resumed = 0
    with closing(loaded), closing(journal):
        try:
            resumed = _score_files(
                scorer, files, journal, out, overlay, known, found, skipped, report
            )
        except BaseException:
            if found:
                _write_tables(out, found, skipped)
            raise
    if not found:
        raise _nothing(path, skipped)
    scores, table = _write_tables(out, found, skipped)
    return Predicted(
        name,
        model.card.threshold,
        recipe.name,
        detector,
        tuple(found),
        tuple(skipped),
        resumed,
        scores,
        table,
        media.left_out,
    )


def _score_files(
    scorer: FileScorer,
    files: Sequence[MediaFile],
    journal: Journal,
    out: Path,
    overlay: bool,
    known: Known,
    found: list[FileScore],
    skipped: list[Skipped],
    report: Reporter,
) -> int:
    resumed = 0
    longest = longest_name(out)
    tell = report.progress("scoring")
    for number, file in enumerate(files):
        if done := journal.find(file.name, file.path):
            resumed += 1
            found.append(done)
        else:
            suffix = ".png" if file.kind == "image" else ".mp4"
            picture = page = None
            if overlay:
                picture = out / picture_name(file.name, suffix, longest)
            if overlay and file.kind == "video":
                page = out / picture_name(file.name, ".html", longest, "timeline")
            # A folder's bar counts files; one file's counts frames.
            within = (lambda a, b: None) if len(files) > 1 else tell
            try:
                result = scorer.score(file, picture, within, page, tuple(known.get(file.name, ())))
            except (UnreadableImageError, UnreadableVideoError) as error:
                skipped.append(Skipped(file.name, str(error)))
            except (cv2.error, MemoryError) as error:
                skipped.append(Skipped(file.name, f"it cannot be processed: {_first_line(error)}"))
            else:
                found.append(result)
                # What could not be drawn is tried again by the next run.
                if result.picture == picture:
                    journal.add(result, file.path)
        if len(files) > 1:
            tell(number + 1, len(files))
    if resumed:
        report.say(f"{resumed} of {len(files)} files were scored by an earlier run")
    if journal.changed:
        report.say(
            f"{journal.changed} of {len(files)} files changed after an earlier run had scored "
            "them, and were scored again"
        )
    return resumed


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _recipe(card: ModelCard, named: str | None, report: Reporter) -> CropRecipe:
    if named is not None:
        recipe = find_recipe(named)
        if card.crop in RECIPES and card.crop != named:
            report.warn(
                f"the model was trained on crops by {card.crop}, not {named}: scores of "
                "others can be far off"
            )
        return recipe
    if card.crop in RECIPES:
        return RECIPES[card.crop]
    raise LpxError(
        f"how faces were cropped for this model's training is not known: its card says "
        f"{card.crop!r}",
        f"a model judges faces cut as in its training only; lpx cuts by {', '.join(RECIPES)}",
        "name the recipe with --crop RECIPE; or cut the faces yourself and add --crops",
    )


def _digest(workspace: Workspace, model: ExportedModel, engine: str) -> str:
    if engine == "torch":
        return model.card.weights_sha256
    return read_manifest(workspace.engines / engine).engine_sha256


def _write_tables(
    out: Path, found: Sequence[FileScore], skipped: Sequence[Skipped]
) -> tuple[Path, Path]:
    write_frames(out / TABLE, found)
    write_scores(out / SCORES, found, skipped)
    return out / SCORES, out / TABLE


def _nothing(path: Path, skipped: Sequence[Skipped]) -> LpxError:
    more = f"; {len(skipped) - 1} more" if len(skipped) > 1 else ""
    return LpxError(
        f"{path} holds nothing that can be read",
        f"{skipped[0].name}: {skipped[0].reason}{more}",
        "name an image, a video, or a folder of these",
    )


def _score_crops(
    name: str,
    loaded: Engine,
    model: ExportedModel,
    path: Path,
    faces: FaceSet,
    out: Path,
    overlay: bool,
    report: Reporter,
) -> Predicted:
    report.say(f"engine {name}, threshold {model.card.threshold:.3f}, pictures are face crops")
    _warn_of(loaded, report)
    skipped: list[Skipped] = []
    found: list[FileScore] = []
    with closing(loaded):
        try:
            # Those before an error are in the list, too.
            found += _crop_scores(name, loaded, model.card, faces, out, overlay, skipped, report)
        except BaseException:
            if found:
                _write_tables(out, found, skipped)
            raise
    if not found:
        raise _nothing(path, skipped)
    scores, table = _write_tables(out, found, skipped)
    return Predicted(
        name, model.card.threshold, None, None, tuple(found), tuple(skipped), 0, scores, table
    )


def _warn_of(engine: Engine, report: Reporter) -> None:
    for note in notes_of(engine):
        report.warn(f"{note}")


def _crop_scores(
    name: str,
    engine: Engine,
    card: ModelCard,
    faces: FaceSet,
    out: Path,
    overlay: bool,
    skipped: list[Skipped],
    report: Reporter,
) -> Iterator[FileScore]:
    done = 0
    longest = longest_name(out)
    tell = report.progress("scoring")
    for batch in faces.stream(BATCH, card.input_size, skipped):
        prediction = engine.infer(batch.pixels)
        check_finite(name, prediction, faces, batch.indices)
        for index, pixels, value, patch_map in zip(
            batch.indices, batch.pixels, prediction.score, prediction.patch_map, strict=True
        ):
            file, score, fake = faces.faces[index].name, float(value), bool(value >= card.threshold)
            picture = out / picture_name(file, ".png", longest) if overlay else None
            note = ""
            if picture is not None:
                caption = (
                    f"{'FAKE' if fake else 'real'}  score {score:.3f}  "
                    f"threshold {card.threshold:.3f}"
                )
                try:
                    with drawing():
                        drawn = explained(fit(pixels, 256), patch_map, caption)
                        write_bytes(picture, encode_png(drawn), durable=False)
                except NotDrawnError as error:
                    picture, note = None, not_drawn(error)
            face = FaceScore(0, None, 1, None, None, score, fake)
            done += 1
            yield FileScore(file, "crop", score, fake, 1, (face,), picture=picture, note=note)
        tell(done + len(skipped), len(faces.faces))


def _crops(workspace: Workspace, path: Path, out: Path, report: Reporter) -> FaceSet:
    if path.is_file():
        name = printable(path.name)
        face = Face(name, None, "unknown", name, (), ImageFile(path))
        return FaceSet(printable(str(path)), "all", "unknown", (face,))
    return open_faces(workspace, f"folder:{path}", "all", out, reporter=report)
