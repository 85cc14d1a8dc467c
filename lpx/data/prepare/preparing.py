"""prepare(): the videos of a data set to face crops, once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

import lpx
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
from lpx.data.face_sets.table import check_inside, make_table
from lpx.data.images.crops import find_recipe
from lpx.data.prepare.cutting import STAGES, DiskFullError, Settings, is_full
from lpx.data.prepare.journal import FILE as JOURNAL
from lpx.data.prepare.journal import Journal, open_journal
from lpx.data.prepare.recipe import RECIPE
from lpx.data.prepare.record import VideoRecord, crop_folder
from lpx.data.prepare.store import folder_name
from lpx.data.prepare.workers import cut_videos
from lpx.data.roots import DataPlaces, face_store
from lpx.data.videos import VideoSet
from lpx.data.wording import counted
from lpx.errors import LpxError
from lpx.workspace import unwritable

FRAMES = 32
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Prepared:
    """What `prepare` left.

    Attributes:
        folder: Of the prepared set.
        crop: The recipe.
        frames_per_video: How many were asked for.
        videos: Those asked for that are on disk.
        done_now: Those that this run read; 0 where all were done before.
        faces: Crops of the videos asked for.
        faceless_videos: How many of these gave no crop.
        skipped: Frames, and whole videos, of those asked for that gave no face.
        missing: Videos asked for that are not on disk.
        notes: What a reader of results must know.
        seconds: Of all processes together, in this run, by stage: decode, detect, landmarks, crop
            and write.
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
        """How many frames and videos gave no face, by reason, the most frequent first."""
        return reasons(self.skipped)


def reasons(skipped: Iterable[SkippedFrame]) -> dict[str, int]:
    """How many frames and videos gave no face, by reason, the most frequent first."""
    told = Counter(
        one.reason if one.frame is not None else f"whole video: {one.reason}" for one in skipped
    )
    return dict(told.most_common())


def prepare(
    name: str,
    *,
    places: DataPlaces = DataPlaces(),  # noqa: B008 (frozen)
    split: str | None = None,
    methods: tuple[str, ...] = (),
    frames: int = FRAMES,
    recipe: str = RECIPE,
    detector: str = BlazeFace.name,
    processes: int | None = None,
    strict: bool = False,
    progress: Progress = lambda done, total: None,
) -> Prepared:
    """Cut the faces out of a data set's videos, into a folder of the store.

    The folder is named after the set, the recipe and the number of frames, and grows: a split that
    is prepared later joins it. A run that was stopped, however, goes on where it was; what is done
    is not done again, unless the video changed or a crop is gone. The set can be opened when
    a run has come to its end.

    Args:
        name: As `lpx.data.datasets.open_videos` takes it.
        places: Where to look for the videos, and where the store is.
        split: "train", "val" or "test"; None for all. What has no official split counts as test.
        methods: Manipulations; () for the set's usual ones.
        frames: Evenly spaced frames of each video.
        recipe: A key of `lpx.data.images.crops.RECIPES`.
        detector: A key of `lpx.data.detect.DETECTORS`.
        processes: At most so many at once; None takes one per core. With more than 1 a script must
            guard its main part with `if __name__ == "__main__"`.
        strict: Whether a video that is missing is an error.
        progress: Called with videos (done, total).

    Raises:
        LpxError: The set, recipe or detector is not there, the set consists of crops already, no
            face is found, the disk is full, the folder is in use or was prepared otherwise, or a
            worker died.
    """
    _check_numbers(frames, processes)
    find_recipe(recipe)
    open_detector(detector)
    found = open_videos(name, root=places.root, split=split, methods=methods, strict=strict)
    if found.crop:
        raise LpxError(
            f"{name} needs no preparing",
            f"its frames are face crops already, cut by {found.crop}",
            f"use it as it is: lpx bench --dataset {name}",
        )
    check_inside(pack(crop_folder(video.name) for video in found.videos), name)
    folder = face_store(places.store) / folder_name(name, recipe, frames, detector)
    settings = Settings(folder, frames, recipe, detector)
    head = {"name": name, "crop": recipe, "frames": frames, "detector": detector}
    try:
        with open_journal(folder, head) as journal:
            seconds, done_now = _cut(settings, found, journal, processes, progress)
            part = _part(found, split, methods)
            if done_now or not _is_told(folder, part):
                _write(settings, journal, found, part)
            return _result(settings, journal, found, done_now, seconds)
    except OSError as error:
        raise _unwritten(folder, error) from error


def _cut(
    settings: Settings,
    found: VideoSet,
    journal: Journal,
    processes: int | None,
    progress: Progress,
) -> tuple[dict[str, float], int]:
    """Cut what is not done; seconds per stage, and how many videos were cut."""
    todo = []
    for video in found.videos:
        record = journal.records.get(video.name)
        if (
            record is None
            or record.has_crashed()
            or not (record.is_of(video) and record.is_whole(settings.folder))
        ):
            todo.append(video)
    total = len(found.videos)
    before = total - len(todo)
    seconds = dict.fromkeys(STAGES, 0.0)
    if not todo:
        return seconds, 0
    progress(before, total)
    done = 0
    try:
        with closing(cut_videos(settings, todo, processes or usable_cores())) as cuts:  # type: ignore[type-var]
            for cut in cuts:
                journal.append(cut.record)
                done += 1
                for stage, value in cut.seconds.items():
                    seconds[stage] += value
                progress(before + done, total)
    except (DiskFullError, OSError) as error:
        if isinstance(error, OSError) and not is_full(error):
            raise
        raise _full(settings, journal, before + done, total) from error
    return seconds, len(todo)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _part(found: VideoSet, split: str | None, methods: tuple[str, ...]) -> dict[str, Any]:
    """What this run was asked for and what is to be said of it, for the manifest."""
    return {
        "split": split,
        "methods": sorted(method.casefold() for method in methods),
        "videos": len(found.videos),
        "missing": list(found.missing),
        "notes": [found.note] if found.note else [],
    }


def _told(folder: Path) -> list[dict[str, Any]]:
    """The parts that the manifest there tells of."""
    if not (folder / FILE).is_file():
        return []
    try:
        return list(read_manifest_head(folder).about["prepared"])
    except (LpxError, KeyError):
        # It is written again from the journal.
        return []


def _is_told(folder: Path, part: dict[str, Any]) -> bool:
    return part in _told(folder)


def _write(settings: Settings, journal: Journal, found: VideoSet, part: dict[str, Any]) -> None:
    """Write the manifest of all that the journal knows; in order of names, however it was made."""
    import onnxruntime

    records = [journal.records[name] for name in sorted(journal.records)]
    skipped = tuple(one for record in records for one in record.skipped_frames())
    table = make_table(settings.folder, (row for record in records for row in record.face_rows()))
    if not len(table):
        raise LpxError(
            f"no face was found in {counted(len(records), 'video')} of {found.name}",
            "; ".join(f"{count} x {reason}" for reason, count in reasons(skipped).items()),
            f"look at what lies in {found.root}, or try --detector centerface",
        )
    same = (part["split"], part["methods"])
    others = [p for p in _told(settings.folder) if (p["split"], p["methods"]) != same]
    for other in others:
        # They may have been downloaded since, and prepared with other methods.
        other["missing"] = [name for name in other["missing"] if name not in journal.records]
    parts = sorted([*others, part], key=lambda p: (p["split"] or "", p["methods"]))
    missing = dict.fromkeys(name for p in parts for name in p["missing"])
    manifest = FaceManifest(
        name=found.name,
        crop=settings.recipe,
        frames_per_video=settings.frames,
        detector=settings.detector,
        several_faces=_rule(records),
        skipped=skipped,
        missing=tuple(missing),
        note=" ".join(dict.fromkeys(note for p in parts for note in p["notes"])),
        versions={
            "lpx": lpx.__version__,
            "opencv": cv2.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        about={
            "prepared": parts,
            "frames_with_several_faces": sum(record.several for record in records),
            "damaged": {record.video: record.note for record in records if record.note},
        },
    )
    write_manifest(settings.folder, manifest, table)


def _rule(records: list[VideoRecord]) -> str:
    rules = {record.rule for record in records}
    if rules == {LARGEST, MASK_OVERLAP}:
        return f"{MASK_OVERLAP} where there is a mask, {LARGEST} elsewhere"
    return "".join(rules)


def _result(
    settings: Settings,
    journal: Journal,
    found: VideoSet,
    done_now: int,
    seconds: Mapping[str, float],
) -> Prepared:
    records = [journal.records[video.name] for video in found.videos]
    return Prepared(
        folder=settings.folder,
        crop=settings.recipe,
        frames_per_video=settings.frames,
        videos=len(records),
        done_now=done_now,
        faces=sum(len(record.faces) for record in records),
        faceless_videos=sum(not record.faces for record in records),
        skipped=tuple(one for record in records for one in record.skipped_frames()),
        missing=found.missing,
        notes=tuple(filter(None, (found.note, _damage(journal)))),
        seconds=seconds,
    )


def _damage(journal: Journal) -> str:
    """What to say of a journal with damaged lines; "" where it is whole."""
    if not journal.damaged:
        return ""
    are = "is" if journal.damaged == 1 else "are"
    return (
        f"{counted(journal.damaged, 'line')} of {JOURNAL} {are} damaged: what was noted there was "
        "cut again where no later line tells of it."
    )


def _check_numbers(frames: int, processes: int | None) -> None:
    for option, value in (("--frames", frames), ("--processes", processes)):
        if value is not None and value < 1:
            raise LpxError(f"{option} {value} is too small", "", "give a number of at least 1")


def _full(settings: Settings, journal: Journal, done: int, total: int) -> LpxError:
    used = sum(face.size_bytes for r in journal.records.values() for face in r.faces)
    mean = used / len(journal.records) if journal.records else 0
    need = mean * (total - done) / 2**30
    left = counted(total - done, "video")
    much = f"about {need:.1f} GiB for the {left} left" if mean else "room"
    return LpxError(
        f"the disk of {settings.folder} is full",
        f"{done} of {total} videos are done, and are kept",
        f"free {much}, and give the command again: it goes on where it stopped; or begin on another"
        " disk with --store DIR",
    )


def _unwritten(folder: Path, error: OSError) -> LpxError:
    if is_full(error):
        return LpxError(
            f"the disk of {folder} is full",
            "there is not even room to write down what is done",
            "free some, and give the command again; or choose another disk with --store DIR",
        )
    told = unwritable(folder, error)
    return LpxError(told.what, told.why, "choose another place with --store DIR")
