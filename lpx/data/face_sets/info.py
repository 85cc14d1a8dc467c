"""read_info(): what a data set holds, whether its faces are cut out yet or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from lpx.data.datasets import open_videos
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.face_sets.manifest import FaceManifest, read_manifest_head
from lpx.data.face_sets.sets import is_crops, is_video_set, open_set, prepare_command
from lpx.data.face_sets.summary import Overlap, Part, Sizes, order, overlaps, parts, sheet, sizes
from lpx.data.prepare import is_prepared, listed, open_prepared, prepared_sets, reasons
from lpx.data.roots import DataPlaces, expanded, face_store
from lpx.data.videos import Video
from lpx.errors import LpxError
from lpx.render.encode import encode_png
from lpx.workspace import write_bytes


@dataclass(frozen=True)
class SetInfo:
    """What a set holds.

    Attributes:
        name: Of the set.
        where: Where it lies, and as what.
        parts: Counts per split, method and label; `faces` is 0 where none are cut out.
        crop: The recipe; "" where no faces are cut out.
        sizes: Of crops; None where not on record.
        overlaps: People in two splits.
        skipped_by_reason: Frames and videos without a face.
        missing: Videos that are not on disk.
        notes: What else a reader must know.
        faces: The faces; None where none are cut out.
    """

    name: str
    where: str
    parts: tuple[Part, ...]
    crop: str = ""
    sizes: Sizes | None = None
    overlaps: tuple[Overlap, ...] = ()
    skipped_by_reason: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    faces: FaceSet | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
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
    """What a set holds: its prepared faces, or the videos on disk where it was not prepared.

    Args:
        source: As `lpx.data.face_sets.sets.open_set` takes it.
        places: Where the videos and prepared faces of public data sets lie.

    Raises:
        LpxError: There is no such set, or it was prepared in several ways.
    """
    if source == "demo":
        train, test = (open_set(source, split) for split in ("train", "test"))
        both = (*parts(train), *parts(test))
        return SetInfo("demo", "ships with lpx", both, test.crop, notes=(test.note,), faces=test)
    if is_video_set(source) and not is_crops(source):
        found = prepared_sets(face_store(places.store), source)
        if len(found) > 1:
            raise LpxError(
                f"{source} was prepared in {len(found)} ways",
                "there are:" + listed(found),
                f"name the folder of one, as in lpx data info {found[0].folder}",
            )
        if not found:
            return _of_videos(source, places)
        return _of_faces(open_prepared(found[0], "all"), str(found[0].folder), found[0].manifest)
    faces = open_set(source, "all", places=places)
    folder = expanded(source.removeprefix("folder:"))
    if is_prepared(folder):
        return _of_faces(faces, str(folder), read_manifest_head(folder))
    return _of_faces(faces, "face crops", None)


def write_sheet(found: SetInfo, path: Path) -> None:
    """Draw some faces of each split and method.

    Raises:
        LpxError: No faces are cut out, or the file cannot be written.
    """
    if found.faces is None:
        raise LpxError(
            f"{found.name} has no faces to draw",
            "its videos are there, but faces were not cut out of them",
            f"lpx data prepare {found.name}",
        )
    write_bytes(path, encode_png(sheet(found.faces)))


def _of_faces(faces: FaceSet, where: str, manifest: FaceManifest | None) -> SetInfo:
    # Missing videos are listed of their own.
    note = manifest.note if manifest else faces.note
    notes = [note] if note else []
    if manifest and manifest.detector:
        several = manifest.about.get("frames_with_several_faces", 0)
        notes.append(
            f"Faces were found by {manifest.detector}; {several} frames showed several, of which "
            f"one was taken ({manifest.several_faces})."
        )
    for video, damage in (manifest.about.get("damaged", {}) if manifest else {}).items():
        notes.append(f"{video} is damaged: {damage}.")
    return SetInfo(
        name=faces.name,
        where=where,
        parts=parts(faces),
        crop=faces.crop,
        sizes=sizes(faces),
        overlaps=overlaps(faces),
        skipped_by_reason=reasons(manifest.skipped if manifest else ()),
        missing=manifest.missing if manifest else (),
        notes=tuple(notes),
        faces=faces,
    )


def _of_videos(name: str, places: DataPlaces) -> SetInfo:
    found = open_videos(name, root=places.root)
    groups: dict[tuple[str, str, int], list[Video]] = {}
    for video in found.videos:
        groups.setdefault((video.split, video.method, video.label), []).append(video)
    splits = dict.fromkeys(video.split for video in found.videos)
    people = {s: _people(v for v in found.videos if v.split == s) for s in splits}
    shared = (
        Overlap((a, b), tuple(sorted(people[a] & people[b]))) for a, b in combinations(people, 2)
    )
    command = prepare_command(name, "all", places, None)
    return SetInfo(
        name=name,
        where=f"videos in {found.root}; faces were not cut out yet ({command})",
        parts=tuple(
            sorted(
                (
                    Part(split, method, label, 0, len(videos), len(_people(videos)))
                    for (split, method, label), videos in groups.items()
                ),
                key=order,
            )
        ),
        overlaps=tuple(one for one in shared if one.identities),
        missing=found.missing,
        notes=(found.note,) if found.note else (),
    )


def _people(videos: Iterable[Video]) -> set[str]:
    return {person for video in videos for person in video.identities}
