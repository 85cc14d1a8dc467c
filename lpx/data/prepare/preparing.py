"""prepare(): cut the videos of a data set into face crops, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2

import lpx
from lpx.arguments import check_at_least
from lpx.data.datasets import open_videos
from lpx.data.detect import LARGEST, MASK_OVERLAP, open_detector
from lpx.data.detect.blazeface import BlazeFace
from lpx.data.face_sets.columns import pack
from lpx.data.face_sets.manifest import (
    FILE,
    FaceManifest,
    SkippedFrame,
    read_manifest_head,
    write_manifest,
)
from lpx.data.face_sets.table import FaceRow, check_inside, make_table
from lpx.data.images.crops import find_recipe
from lpx.data.prepare.cutting import STAGES, CutResult, DiskFullError, Settings, is_full
from lpx.data.prepare.journal import VideoJournal, open_journal
from lpx.data.prepare.recipe import RECIPE
from lpx.data.prepare.record import VideoRecord, crop_folder
from lpx.data.prepare.store import folder_name
from lpx.data.prepare.workers import cut_videos
from lpx.data.roots import DataPlaces, face_store
from lpx.data.videos import Video, VideoSet
from lpx.data.wording import counted
from lpx.errors import LpxError
from lpx.reporter import Progress
from lpx.workspace import unwritable

FRAMES = 32

# Cuts videos, in some order: `lpx.data.prepare.workers.cut_videos`, or on a cluster.
CutVideos = Callable[[Settings, Sequence[Video]], Iterator[CutResult]]


@dataclass(frozen=True)
class PrepareResult:
    """The result of `prepare`.

    Attributes:
        folder: Folder of the prepared set.
        crop: Crop recipe.
        frames_per_video: Number of frames asked for.
        videos: Number of videos asked for that are on disk.
        done_now: Number of videos cut by this run; 0 if earlier runs had cut all.
        faces: Number of crops of the videos asked for.
        faceless_videos: Number of these videos that gave no crop.
        skipped: Frames, and whole videos, that gave no face.
        missing: Videos asked for that are not on disk.
        notes: Notes for readers of results.
        seconds: CPU time of this run in seconds, over all processes, by stage: decode, detect,
            landmarks, crop and write.
    """

    folder: Path
    crop: str
    frames_per_video: int
    videos: int
    done_now: int
    faces: int
    faceless_videos: int
    skipped: tuple[SkippedFrame, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: Mapping[str, float]

    def reasons(self) -> dict[str, int]:
        """Count frames and videos without a face by reason, the most frequent first."""
        return count_reasons(self.skipped)


class CutStatistics(NamedTuple):
    """Statistics of cutting videos.

    Attributes:
        videos: Number of videos cut.
        seconds: CPU time by stage, over all processes.
    """

    videos: int
    seconds: dict[str, float]


def count_reasons(skipped: Iterable[SkippedFrame]) -> dict[str, int]:
    """Count frames and videos without a face by reason, the most frequent first."""
    reasons: Counter[str] = Counter()
    for one in skipped:
        reasons[f"whole video: {one.reason}" if one.frame is None else one.reason] += 1
    return dict(reasons.most_common())


@dataclass(frozen=True)
class Preparation:
    """A data set to be prepared.

    Attributes:
        settings: Settings of its crops; the folder is that of the prepared set.
        videos: Its videos.
        run: Description of the run for the manifest.
    """

    settings: Settings
    videos: VideoSet
    run: dict[str, Any]

    def head(self) -> dict[str, Any]:
        """Return what the journal of the set begins with."""
        settings = self.settings
        return {
            "name": self.videos.name,
            "crop": settings.recipe,
            "frames": settings.frames,
            "detector": settings.detector,
        }


def open_preparation(
    name: str,
    *,
    places: DataPlaces = DataPlaces(),  # noqa: B008 (frozen)
    split: str | None = None,
    methods: tuple[str, ...] = (),
    frames: int = FRAMES,
    crop: str = RECIPE,
    detector: str = BlazeFace.name,
    strict: bool = False,
) -> Preparation:
    """Find the videos of a data set, and check that they can be prepared. Writes nothing.

    Args:
        name: As for `prepare`, as are all others.
        places: Folders of the videos and of the store.
        split: Split to prepare.
        methods: Manipulation methods.
        frames: Number of frames of each video.
        crop: Crop recipe.
        detector: Face detector.
        strict: Raise an error if a video is missing.

    Raises:
        LpxError: The set, recipe or detector does not exist, or the set consists of crops already.
    """
    check_at_least("frames", frames, 1)
    # Wrong names must be refused before anything is created in the store.
    find_recipe(crop)
    open_detector(detector)
    videos = open_videos(name, root=places.data_root, split=split, methods=methods, strict=strict)
    if videos.crop:
        raise LpxError(
            f"{name} needs no preparation",
            f"its frames are face crops already, cut with {videos.crop}",
            f"use it directly: `lpx bench --dataset {name}`",
        )
    # Names of videos come from lists of others, and become folders.
    check_inside(pack(crop_folder(video.name) for video in videos.videos), name)
    folder = face_store(places.store) / folder_name(name, crop, frames, detector)
    return Preparation(
        Settings(folder, frames, crop, detector), videos, _run(videos, split, methods)
    )


def prepare(
    name: str,
    *,
    places: DataPlaces = DataPlaces(),  # noqa: B008 (frozen)
    split: str | None = None,
    methods: tuple[str, ...] = (),
    frames: int = FRAMES,
    crop: str = RECIPE,
    detector: str = BlazeFace.name,
    cut: CutVideos = cut_videos,
    strict: bool = False,
    progress: Progress = lambda done, total: None,
) -> PrepareResult:
    """Cut the faces out of a data set's videos, into a folder of the store.

    The folder is named after the set, the recipe and the number of frames, and grows: a split that
    is prepared later is added to it. A run that was stopped is resumed by the next one; a video is
    cut again only if it changed, or a crop of it is missing. The set can be opened once a run has
    finished.

    Args:
        name: Data set, as `lpx.data.datasets.open_videos` takes it.
        places: Folders of the videos and of the store.
        split: "train", "val" or "test"; None for all. Videos without an official split count as
            test.
        methods: Manipulation methods; () for the usual ones of the set.
        frames: Number of frames of each video, evenly spaced.
        crop: Crop recipe, a key of `lpx.data.images.crops.RECIPES`.
        detector: A key of `lpx.data.detect.DETECTORS`.
        cut: Cuts the videos, in this process, in several or elsewhere.
        strict: Raise an error if a video is missing.
        progress: Receives the number of finished videos, and that of all.

    Raises:
        LpxError: The set, recipe or detector does not exist, the set consists of crops already, no
            face is found, the disk is full, the folder is in use or was prepared with other
            settings, or a worker died.
    """
    preparation = open_preparation(
        name,
        places=places,
        split=split,
        methods=methods,
        frames=frames,
        crop=crop,
        detector=detector,
        strict=strict,
    )
    settings, videos = preparation.settings, preparation.videos
    folder = settings.folder
    try:
        with open_journal(folder, preparation.head()) as journal:
            statistics = cut_missing(settings, videos, journal, progress=progress, cut=cut)
            # A run that found everything done leaves the files as they are, unless it asked for
            # something else than the runs before.
            if statistics.videos or preparation.run not in _described_runs(folder):
                write_set(settings, name, journal.records, preparation.run, crop_versions())
            names = [video.name for video in videos.videos]
            notes = (videos.note, journal.damage())
            return result_of(settings, journal.records, names, preparation.run, notes, statistics)
    except OSError as error:
        raise unwritten(folder, error) from error


def crop_versions() -> dict[str, str]:
    """Return the versions that crops depend on."""
    import onnxruntime

    return {
        "lpx": lpx.__version__,
        "opencv": cv2.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def cut_missing(
    settings: Settings,
    videos: VideoSet,
    journal: VideoJournal,
    *,
    progress: Progress,
    cut: CutVideos,
) -> CutStatistics:
    """Cut the videos that have no valid record in the journal, and record them.

    Args:
        settings: Settings of the prepared set.
        videos: Videos asked for.
        journal: Receives a record per video.
        progress: Receives the number of finished videos, and that of all.
        cut: Cuts videos.

    Raises:
        LpxError: The disk is full, or a worker died; finished videos are recorded.
        OSError: The folder cannot be written.
    """
    todo = []
    for video in videos.videos:
        record = journal.records.get(video.name)
        if record is None or not _is_valid(record, video, settings.folder):
            todo.append(video)
    total = len(videos.videos)
    before = total - len(todo)
    seconds = dict.fromkeys(STAGES, 0.0)
    if not todo:
        return CutStatistics(0, seconds)
    progress(before, total)
    done = 0
    try:
        # Closing the generator ends its workers even if this loop is left early.
        with closing(cut(settings, todo)) as results:  # type: ignore[type-var]
            for result in results:
                journal.append(result.record)
                done += 1
                for stage, value in result.seconds.items():
                    seconds[stage] += value
                progress(before + done, total)
    except (DiskFullError, OSError) as error:
        if isinstance(error, OSError) and not is_full(error):
            raise
        raise _full(settings, journal, before + done, total) from error
    return CutStatistics(len(todo), seconds)


def _is_valid(record: VideoRecord, video: Video, folder: Path) -> bool:
    # A crash may have been for lack of memory. The digest of the video, in `is_of`, is the most
    # expensive check but one that a change cannot escape; sizes of crops come last.
    return not record.has_crashed() and record.is_of(video) and record.is_whole(folder)


def _run(videos: VideoSet, split: str | None, methods: tuple[str, ...]) -> dict[str, Any]:
    """Describe a run for the manifest: what was asked for, and what was missing."""
    return {
        "split": split,
        "methods": sorted(method.casefold() for method in methods),
        "videos": len(videos.videos),
        "missing": list(videos.missing),
        "notes": [videos.note] if videos.note else [],
    }


def _described_runs(folder: Path) -> list[dict[str, Any]]:
    """Return the runs that the manifest in `folder` describes."""
    if not (folder / FILE).is_file():
        return []
    try:
        return list(read_manifest_head(folder).about["prepared"])
    except (LpxError, KeyError):
        # A damaged manifest is written again, from the journal.
        return []


def write_set(
    settings: Settings,
    name: str,
    records: Mapping[str, VideoRecord],
    run: dict[str, Any],
    versions: Mapping[str, str],
) -> None:
    """Write the table and the manifest of a set.

    Args:
        settings: Its settings.
        name: Name of the data set.
        records: All finished videos, by name: those of earlier runs too.
        run: Description of this run.
        versions: Versions that the crops depend on.

    Raises:
        LpxError: No face was found, or the folder cannot be written.
    """
    # Sorted by name: the files must not depend on the number of runs, processes or shards.
    ordered = [records[video] for video in sorted(records)]
    skipped: list[SkippedFrame] = []
    rows: list[FaceRow] = []
    for record in ordered:
        skipped += record.skipped_frames()
        rows += record.face_rows()
    table = make_table(settings.folder, rows)
    if not len(table):
        counts = [f"{count} x {reason}" for reason, count in count_reasons(skipped).items()]
        raise LpxError(
            f"no face was found in {counted(len(ordered), 'video')} of {name}",
            "; ".join(counts),
            'look at the videos, or try `detector="centerface"`',
        )
    runs = _merged_runs(settings.folder, records, run)
    missing: dict[str, None] = {}
    notes: dict[str, None] = {}
    for one in runs:
        missing |= dict.fromkeys(one["missing"])
        notes |= dict.fromkeys(one["notes"])
    manifest = FaceManifest(
        name=name,
        crop=settings.recipe,
        frames_per_video=settings.frames,
        detector=settings.detector,
        several_faces=_rule(ordered),
        skipped=tuple(skipped),
        missing=tuple(missing),
        note=" ".join(notes),
        versions=versions,
        about={
            "prepared": runs,
            "frames_with_several_faces": sum(record.several for record in ordered),
            "damaged": {record.video: record.note for record in ordered if record.note},
        },
    )
    write_manifest(settings.folder, manifest, table)


def _merged_runs(
    folder: Path, records: Mapping[str, VideoRecord], run: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the runs of the manifest with this one, which replaces an earlier one like it."""
    runs = [run]
    for other in _described_runs(folder):
        if (other["split"], other["methods"]) == (run["split"], run["methods"]):
            continue
        # Its missing videos may have been downloaded since, and prepared by another run.
        other["missing"] = [name for name in other["missing"] if name not in records]
        runs.append(other)
    return sorted(runs, key=lambda one: (one["split"] or "", one["methods"]))


def _rule(records: list[VideoRecord]) -> str:
    rules = {record.rule for record in records}
    # Real videos have no masks, so both rules usually apply in a set with masks.
    if rules == {LARGEST, MASK_OVERLAP}:
        return f"{MASK_OVERLAP} where there is a mask, {LARGEST} elsewhere"
    return "".join(rules)


def result_of(
    settings: Settings,
    records: Mapping[str, VideoRecord],
    names: Sequence[str],
    run: Mapping[str, Any],
    notes: Sequence[str],
    statistics: CutStatistics,
) -> PrepareResult:
    """Return the result of a run.

    Args:
        settings: Settings of the set.
        records: Finished videos, by name.
        names: Videos that were asked for and are on disk.
        run: Description of the run.
        notes: Notes for readers of results; "" is left out.
        statistics: Number of videos cut now, and their times.
    """
    asked = [records[name] for name in names]
    skipped: list[SkippedFrame] = []
    for record in asked:
        skipped += record.skipped_frames()
    return PrepareResult(
        folder=settings.folder,
        crop=settings.recipe,
        frames_per_video=settings.frames,
        videos=len(asked),
        done_now=statistics.videos,
        faces=sum(len(record.faces) for record in asked),
        faceless_videos=sum(not record.faces for record in asked),
        skipped=tuple(skipped),
        missing=tuple(run["missing"]),
        notes=tuple(filter(None, notes)),
        seconds=statistics.seconds,
    )


def _full(settings: Settings, journal: VideoJournal, done: int, total: int) -> LpxError:
    used = 0
    for record in journal.records.values():
        used += sum(face.size_bytes for face in record.faces)
    needed = "some room"
    if used:
        gib = used / len(journal.records) * (total - done) / 2**30
        needed = f"about {gib:.1f} GiB for the {counted(total - done, 'video')} left"
    return LpxError(
        f"the disk of {settings.folder} is full",
        f"{done} of {total} videos are finished, and are kept",
        f"free {needed}, and run the command again: it resumes where it stopped; or use a folder "
        "on another disk (`store`)",
        code="unwritable",
    )


def unwritten(folder: Path, error: OSError) -> LpxError:
    """Make the error for a folder in which videos cannot be recorded."""
    if is_full(error):
        return LpxError(
            f"the disk of {folder} is full",
            "there is no room even to record finished videos",
            "free some room, and run the command again; or use a folder on another disk (`store`)",
            code="unwritable",
        )
    cause = unwritable(folder, error)
    return LpxError(cause.what, cause.why, "use another folder (`store`)", code="unwritable")
