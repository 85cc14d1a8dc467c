"""Preparing in parts: each shard cuts some of the videos, and parts become one prepared set.

A part holds its crops, so that it can come from a machine with a disk of its own. Where parts and
set are on one file system, merging links the crops instead of copying them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lpx.data.contents import file_digests
from lpx.data.datasets import KNOWN
from lpx.data.detect import DETECTORS
from lpx.data.face_sets.columns import pack
from lpx.data.face_sets.table import check_inside
from lpx.data.images.crops import RECIPES
from lpx.data.prepare.cutting import STAGES, Settings, remove_crops
from lpx.data.prepare.journal import FILE as JOURNAL
from lpx.data.prepare.journal import VideoJournal, open_journal, read_records
from lpx.data.prepare.preparing import (
    CutStatistics,
    CutVideos,
    Preparation,
    PrepareResult,
    crop_versions,
    cut_missing,
    result_of,
    unwritten,
    write_set,
)
from lpx.data.prepare.record import VideoRecord, crop_folder, effective_split
from lpx.data.prepare.store import folder_name
from lpx.data.prepare.workers import cut_videos
from lpx.data.roots import DataPlaces, face_store
from lpx.data.videos import Video
from lpx.errors import LpxError
from lpx.reporter import Reporter
from lpx.schema import MAX_INTEGER, SchemaError, in_range, read_record
from lpx.shards.join import Part, Whole
from lpx.shards.part import PartResult, PartWork, damaged, open_part, read_payload
from lpx.shards.shard import Shard
from lpx.workspace import read_regular, write_bytes

# SHA-256 of the crops, 32 bytes each, in the order of the videos' names and of their frames.
CROPS = "crops.sha256"
_DIGEST_BYTES = 32


def prepare_part(
    folder: Path,
    shard: Shard,
    preparation: Preparation,
    reporter: Reporter,
    *,
    cut: CutVideos = cut_videos,
) -> PartResult:
    """Cut a shard's share of the videos, into its part.

    Args:
        folder: Folder of the part.
        shard: The shard.
        preparation: The data set.
        reporter: Receives progress and warnings.
        cut: Cuts videos.

    Raises:
        LpxError: As for `lpx.data.prepare.prepare`, or the folder holds something else.
    """
    # `_check_shares` deals the videos again from their names alone, so that this order is fixed.
    everything = sorted(preparation.videos.videos, key=lambda video: video.name)
    mine = shard.every(everything)
    videos = replace(preparation.videos, videos=tuple(mine))
    settings = replace(preparation.settings, folder=folder)
    # Of all videos: a machine that lacks one has other shares, and its part must not fit the rest.
    key = _key(preparation, everything)
    try:
        with (
            open_part(folder, "prepare", shard, key, reporter) as work,
            # `open_part` holds the folder, and lets file systems without locks pass; a second lock
            # would fail on them.
            open_journal(folder, preparation.head(), locked=False) as journal,
        ):
            # First: `cut_missing` looks at the sizes of crops only, and would keep altered ones.
            _drop_altered(work, journal)
            done = cut_missing(
                settings,
                videos,
                journal,
                progress=reporter.progress(f"preparing {videos.name}, shard {shard}, videos"),
                cut=cut,
            )
            # A finished part of which something was cut again needs a seal with the new digests.
            if done.videos or not work.manifest.complete:
                _seal(work, journal, mine, done)
            else:
                reporter.say(f"nothing to do: shard {shard} is finished ({folder})")
            notes = tuple(filter(None, (journal.damage(),)))
    except OSError as error:
        raise unwritten(folder, error) from error
    return PartResult(folder, "prepare", shard, len(mine), len(everything), notes)


def _key(preparation: Preparation, videos: list[Video]) -> dict[str, Any]:
    # Neither paths nor contents: videos may have another place on each machine, and a shard reads
    # its own only.
    lines = []
    for video in videos:
        split = effective_split(video)
        lines.append([video.name, video.label, video.method, list(video.identities), split])
    # With all that `write_set` needs, as the machine that merges may have no videos.
    return {
        "videos": _digest(lines),
        "run": preparation.run,
        "settings": preparation.head(),
        "versions": crop_versions(),
    }


def _digest(lines: list[list[Any]]) -> str:
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def _drop_altered(work: PartWork, journal: VideoJournal) -> None:
    """Remove crops that are not as a finished shard left them, so that they are cut again."""
    if not work.manifest.complete:
        return
    # Both can be relied on: `open_part` reopens a part whose journal or digests were altered.
    digests, at = (work.folder / CROPS).read_bytes(), 0
    for name in (work.manifest.about or {}).get("videos", ()):
        files = _crops_of(journal.records[name])
        stored = digests[at : at + _DIGEST_BYTES * len(files)]
        at += len(stored)
        if _digests(work.folder, files) != stored:
            remove_crops(work.folder / crop_folder(name))


def _seal(work: PartWork, journal: VideoJournal, videos: list[Video], done: CutStatistics) -> None:
    """Write the digests of all crops, and the manifest of the part."""
    # Videos of an earlier state of the set may be in the journal too.
    records = {video.name: journal.records[video.name] for video in videos}
    paths = []
    # By name, like `videos` below: `_take` finds the digests of a video by their position.
    for record in _by_name(records):
        paths += [os.fsencode(work.folder / file) for file in _crops_of(record)]
    write_bytes(work.folder / CROPS, file_digests(paths).tobytes())
    # Nothing may be appended to the journal after this. Crops are in the list of digests only, as
    # `part.json` would become large with an entry for each.
    work.seal((JOURNAL, CROPS), {"videos": sorted(records), "seconds": dict(done.seconds)})


def _by_name(records: Mapping[str, VideoRecord]) -> list[VideoRecord]:
    return [records[name] for name in sorted(records)]


def _crops_of(record: VideoRecord) -> list[str]:
    return [row.file for row in record.face_rows()]


@dataclass(frozen=True)
class _Head:
    """The settings in a key."""

    name: str
    crop: str
    frames: int
    detector: str


@dataclass(frozen=True)
class _Run:
    """The description of the run in a key."""

    split: str | None
    methods: tuple[str, ...]
    videos: int
    missing: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Key:
    """The key of a part, as `_key` makes it."""

    videos: str
    run: _Run
    settings: _Head
    versions: dict[str, str]


def merge_prepared(whole: Whole, places: DataPlaces, reporter: Reporter) -> PrepareResult:
    """Join parts into the prepared set, beside what it holds already.

    Args:
        whole: All parts.
        places: Where the store of prepared sets is.
        reporter: Receives progress and warnings.

    Raises:
        LpxError: A part is damaged, or has other videos than its shard; another version of lpx
            made the parts; the set is in use or was prepared with other settings; no face was
            found; or the disk is full.
    """
    key = _read_key(whole)
    head, run = dict(whole.key["settings"]), dict(whole.key["run"])
    settings = _settings(key.settings, places)
    folder = settings.folder
    progress = reporter.progress("merging parts")
    names: list[str] = []
    lines: list[list[Any]] = []
    # Before the journal is opened, which creates the set: a refused merge must leave nothing.
    _check_shares(whole)
    try:
        with open_journal(folder, head) as journal:
            for done, part in enumerate(whole.parts, 1):
                records = _records(part, head)
                _take(part, records, folder, journal)
                for record in records:
                    names.append(record.video)
                    split = record.split
                    identities = list(record.identities)
                    lines.append([record.video, record.label, record.method, identities, split])
                progress(done, len(whole.parts))
            # Known only once all journals were read, and checked before the table is written.
            if _digest(sorted(lines)) != key.videos:
                part = whole.parts[0]
                damaged(part.folder, part.manifest, "the parts have other videos than the set")
            write_set(settings, key.settings.name, journal.records, run, key.versions)
            notes = (*key.run.notes, journal.damage(), whole.machine_note())
            statistics = CutStatistics(len(names), _seconds(whole))
            return result_of(settings, journal.records, sorted(names), run, notes, statistics)
    except OSError as error:
        raise unwritten(folder, error) from error


def _read_key(whole: Whole) -> _Key:
    """Read the key of parts.

    Raises:
        LpxError: It was edited, or another version of lpx wrote it.
    """
    first = whole.parts[0]
    try:
        key = read_record(_Key, whole.key)
        of = key.settings
        in_range(of.frames, 1, MAX_INTEGER, "frames")
        # They become the name of a folder.
        for value, known in ((of.name.partition(":")[0], KNOWN), (of.crop, RECIPES)):
            if value not in known:
                raise SchemaError(f"{value[:60]!a} is unknown")
        if of.detector not in DETECTORS:
            raise SchemaError(f"the detector {of.detector[:60]!a} is unknown")
    except SchemaError as error:
        damaged(first.folder, first.manifest, f"its key: {error}")
    # Only lpx's: OpenCV and ONNX Runtime matter where crops are cut, and the parts agree on them.
    here = crop_versions()["lpx"]
    if key.versions.get("lpx") != here:
        raise LpxError(
            f"the parts were made by lpx {key.versions.get('lpx')}, and this is {here}",
            "another version may record videos in another way",
            "merge with the version that made the parts",
            code="unsupported",
        )
    return key


def _settings(head: _Head, places: DataPlaces) -> Settings:
    """Return the settings of the prepared set that parts become."""
    name = folder_name(head.name, head.crop, head.frames, head.detector)
    return Settings(face_store(places.store) / name, head.frames, head.crop, head.detector)


def _records(part: Part, head: dict[str, Any]) -> list[VideoRecord]:
    """Read the finished videos of a part, in the order of their names.

    Raises:
        LpxError: The part is damaged, or lacks a video.
    """
    file = part.file(JOURNAL)
    pieces: list[bytes] = []
    read_payload(part.folder, part.manifest, file, pieces.append)
    records = read_records(part.folder, b"".join(pieces), head)
    names = _videos_of(part)
    if not set(names) <= records.keys():
        damaged(part.folder, part.manifest, f"{JOURNAL} lacks videos of the shard")
    # Names become paths below the set: an edited part must not write elsewhere.
    check_inside(pack(crop_folder(name) for name in names), str(part.folder))
    return [records[name] for name in names]


def _take(part: Part, records: list[VideoRecord], folder: Path, journal: VideoJournal) -> None:
    """Take the crops of a part into the set, and record its videos.

    Raises:
        LpxError: A crop is missing or altered.
        OSError: The set cannot be written.
    """
    pieces: list[bytes] = []
    read_payload(part.folder, part.manifest, part.file(CROPS), pieces.append)
    digests, at = b"".join(pieces), 0
    for record in records:
        files = _crops_of(record)
        wanted = digests[at : at + _DIGEST_BYTES * len(files)]
        at += _DIGEST_BYTES * len(files)
        # A merge that was interrupted, or a second one, finds them here.
        if journal.records.get(record.video) == record and wanted == _digests(folder, files):
            continue
        # Before anything is removed: the set may have good crops of this video.
        if wanted != _digests(part.folder, files):
            damaged(part.folder, part.manifest, f"crops of {record.video} are missing or altered")
        # `os.link` replaces no file, and crops of frames that the new record lacks would stay.
        remove_crops(folder / crop_folder(record.video))
        for file in files:
            place_crop(part.folder / file, folder / file)
        # After its crops: with the record, other runs take the video for finished.
        journal.append(record)
    if at != len(digests):
        damaged(part.folder, part.manifest, f"{CROPS} has digests of other crops")


def _digests(folder: Path, files: list[str]) -> bytes:
    return file_digests([os.fsencode(folder / file) for file in files]).tobytes()


def place_crop(source: Path, target: Path, *, link: Callable[..., None] = os.link) -> None:
    """Link a crop into the set, or copy it to another file system.

    Args:
        source: The crop in its part.
        target: Its place in the set, where no file is.
        link: Makes a hard link, as `os.link`.

    Raises:
        OSError: It cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # A symbolic link would lead into a folder that may be removed after the merge.
    if not source.is_symlink():
        # Whatever prevents a link, such as another file system, the copy works or says why not.
        with suppress(OSError):
            link(source, target)
            return
    # Not synchronised: parts are kept, from which a lost crop can be merged again.
    write_bytes(target, read_regular(source), durable=False)


def _check_shares(whole: Whole) -> None:
    """Check that every part names the videos of its shard, and no two parts the same.

    Raises:
        LpxError: One does not.
    """
    homes: dict[str, Part] = {}
    for part in whole.parts:
        for name in _videos_of(part):
            if (other := homes.setdefault(name, part)) is not part:
                raise LpxError(
                    f"parts {other.manifest.shard} and {part.manifest.shard} overlap",
                    f"both have {name}: {other.folder} and {part.folder}",
                    "run one of the two shards again in an empty folder",
                    code="damaged",
                )
    # From the names in the parts, as the videos need not be on the machine that merges.
    names = sorted(homes)
    for part in whole.parts:
        if part.manifest.shard.every(names) != _videos_of(part):
            damaged(part.folder, part.manifest, "it has other videos than its shard")


def _videos_of(part: Part) -> list[str]:
    names = part.about.get("videos")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        damaged(part.folder, part.manifest, "it does not name its videos")
    return names


def _seconds(whole: Whole) -> dict[str, float]:
    """Add up the times of all parts, by stage."""
    seconds = dict.fromkeys(STAGES, 0.0)
    for part in whole.parts:
        times = part.about.get("seconds")
        for stage in STAGES:
            value = times.get(stage) if isinstance(times, dict) else None
            seconds[stage] += float(value) if isinstance(value, (int, float)) else 0.0
    return seconds
