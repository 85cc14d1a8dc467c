"""read_info(): describe a data set, whether its faces have been cut out yet or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lpx.data.datasets import open_videos
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.face_sets.manifest import FaceManifest, SkippedFrame, read_manifest_head
from lpx.data.face_sets.sets import is_crops, is_video_set, open_set, prepare_command
from lpx.data.face_sets.summary import (
    FaceGroup,
    Overlap,
    Sizes,
    face_groups,
    group_order,
    overlaps,
    shared_people,
    sheet,
    sizes,
)
from lpx.data.prepare import count_reasons, is_prepared, listed, open_prepared, prepared_sets
from lpx.data.roots import DataPlaces, expanded, face_store
from lpx.data.videos import Video
from lpx.errors import LpxError
from lpx.render.encode import encode_png
from lpx.workspace import write_bytes


@dataclass(frozen=True)
class SetInfo:
    """Description of a data set.

    Attributes:
        name: Name of the set.
        where: Location, and what is there.
        parts: Counts per split, method and label; `faces` is 0 if none were cut out.
        crop: Crop recipe; "" if no faces were cut out.
        sizes: Sizes of crops; None if not on record.
        overlaps: People who appear in two splits.
        skipped_by_reason: Number of frames and videos without a face, by reason.
        missing: Videos that are not on disk.
        notes: Other notes for readers of results.
        faces: The faces; None if none were cut out.
    """

    name: str
    where: str
    parts: tuple[FaceGroup, ...]
    crop: str = ""
    sizes: Sizes | None = None
    overlaps: tuple[Overlap, ...] = ()
    skipped_by_reason: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    faces: FaceSet | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert to values that JSON can hold; the faces are left out."""
        return {
            "name": self.name,
            "where": self.where,
            "crop": self.crop,
            "parts": [asdict(part) for part in self.parts],
            "sizes_px": self.sizes._asdict() if self.sizes else None,
            "overlaps": [one._asdict() for one in self.overlaps],
            "skipped_by_reason": dict(self.skipped_by_reason),
            "missing": list(self.missing),
            "notes": list(self.notes),
        }


def read_info(source: str, places: DataPlaces) -> SetInfo:
    """Describe a set by its prepared faces, or by its videos on disk if it was not prepared.

    Args:
        source: Name or folder, as `lpx.data.face_sets.sets.open_set` takes it.
        places: Folders of the videos and of the store.

    Raises:
        LpxError: The set does not exist, or was prepared in several ways.
    """
    if source == "demo":
        train, test = open_set(source, "train"), open_set(source, "test")
        both = (*face_groups(train), *face_groups(test))
        return SetInfo("demo", "ships with lpx", both, test.crop, notes=(test.note,), faces=test)
    # Not open_set(), which refuses a set that was not prepared: its videos can be described.
    if is_video_set(source) and not is_crops(source):
        prepared = prepared_sets(face_store(places.store), source)
        if len(prepared) > 1:
            raise LpxError(
                f"{source} was prepared in {len(prepared)} ways",
                "there are:" + listed(prepared),
                f"name the folder of one: lpx data info {prepared[0].folder}",
            )
        if not prepared:
            return _of_videos(source, places)
        faces = open_prepared(prepared[0], "all")
        return _of_faces(faces, str(prepared[0].folder), prepared[0].manifest)
    faces = open_set(source, "all", places=places)
    folder = expanded(source.removeprefix("folder:"))
    if is_prepared(folder):
        return _of_faces(faces, str(folder), read_manifest_head(folder))
    return _of_faces(faces, "face crops", None)


def write_sheet(info: SetInfo, path: Path) -> None:
    """Draw some faces of each split and method.

    Raises:
        LpxError: No faces were cut out, or the file cannot be written.
    """
    if info.faces is None:
        raise LpxError(
            f"{info.name} has no faces to draw",
            "its videos are on disk, but faces were not cut out of them",
            f"lpx data prepare {info.name}",
        )
    write_bytes(path, encode_png(sheet(info.faces)))


def _of_faces(faces: FaceSet, where: str, manifest: FaceManifest | None) -> SetInfo:
    # The note of a prepared set's faces also names missing videos, which are listed separately.
    note = faces.note if manifest is None else manifest.note
    notes = [note] if note else []
    skipped: tuple[SkippedFrame, ...] = ()
    missing: tuple[str, ...] = ()
    if manifest is not None:
        skipped, missing = manifest.skipped, manifest.missing
        if manifest.detector:
            several = manifest.about.get("frames_with_several_faces", 0)
            notes.append(
                f"Faces were found by {manifest.detector}; {several} frames showed several, of "
                f"which one was taken ({manifest.several_faces})."
            )
        for video, damage in manifest.about.get("damaged", {}).items():
            notes.append(f"{video} is damaged: {damage}.")
    return SetInfo(
        name=faces.name,
        where=where,
        parts=face_groups(faces),
        crop=faces.crop,
        sizes=sizes(faces),
        overlaps=overlaps(faces),
        skipped_by_reason=count_reasons(skipped),
        missing=missing,
        notes=tuple(notes),
        faces=faces,
    )


def _of_videos(name: str, places: DataPlaces) -> SetInfo:
    videos = open_videos(name, root=places.data_root)
    members: dict[tuple[str, str, int], list[Video]] = {}
    people: dict[str, set[str]] = {}
    for video in videos.videos:
        members.setdefault((video.split, video.method, video.label), []).append(video)
        people.setdefault(video.split, set()).update(video.identities)
    groups = []
    for (split, method, label), group in members.items():
        shown = set().union(*(video.identities for video in group))
        groups.append(FaceGroup(split, method, label, 0, len(group), len(shown)))
    command = prepare_command(name, "all", places, None)
    return SetInfo(
        name=name,
        where=f"videos in {videos.root}; faces were not cut out yet ({command})",
        parts=tuple(sorted(groups, key=group_order)),
        overlaps=shared_people(people),
        missing=videos.missing,
        notes=(videos.note,) if videos.note else (),
    )
