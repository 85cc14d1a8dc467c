"""What a face set holds: counts, people, sizes, and who is in several splits."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from lpx.data.datasets.adapter import SPLITS
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.face_sets.manifest import count_faces
from lpx.data.face_sets.table import FaceTable
from lpx.data.images.decode import Image, UnreadableImageError, fit
from lpx.render.face import contact_sheet

SHEET_COLUMNS = 12
SHEET_SIDE = 96


@dataclass(frozen=True)
class Part:
    """The faces of a split, a method and a label.

    Attributes:
        split: "" where the set has none.
        method: "real", or the manipulation.
        label: 1 = fake, 0 = real; None where not known.
        faces: Their number.
        videos: Number of videos that they come from.
        identities: Number of people; 0 where not known.
    """

    split: str
    method: str
    label: int | None
    faces: int
    videos: int
    identities: int


class Sizes(NamedTuple):
    """Side lengths of crops (the longer one), in pixels; of those whose size is known."""

    known: int
    least: int
    median: int
    greatest: int


class Overlap(NamedTuple):
    """People who are in two splits."""

    splits: tuple[str, str]
    identities: tuple[str, ...]


def parts(faces: FaceSet) -> tuple[Part, ...]:
    """Counts per split, method and label: splits in their usual order, real before fake."""
    columns = faces.columns
    found = []
    for count in count_faces(columns):
        label = -1 if count.label is None else count.label
        rows = columns.split.where((count.split,)) & columns.method.where((count.method,))
        people = columns.take(np.flatnonzero(rows & (columns.label == label))).identities.present()
        found.append(
            Part(count.split, count.method, count.label, count.faces, count.videos, len(people))
        )
    return tuple(sorted(found, key=order))


def order(part: Part) -> tuple[int, int, str]:
    """Sorts parts: train, val, test, then what has no split; real first."""
    place = SPLITS.index(part.split) if part.split in SPLITS else len(SPLITS)
    return place, part.label or 0, part.method


def sizes(faces: FaceSet) -> Sizes | None:
    """Side lengths; None where no size is on record."""
    if not isinstance(faces.faces, FaceTable):
        return None
    details = faces.faces.details
    longer = np.maximum(details.width, details.height)
    known = longer[longer > 0]
    if not len(known):
        return None
    return Sizes(len(known), int(known.min()), int(np.median(known)), int(known.max()))


def overlaps(faces: FaceSet) -> tuple[Overlap, ...]:
    """People in each two splits, where there are any: there figures come out too good."""
    columns = faces.columns
    people = {
        split: set(columns.take(np.flatnonzero(columns.split.where((split,)))).identities.present())
        for split in faces.splits()
    }
    found = (
        Overlap((a, b), tuple(sorted(people[a] & people[b]))) for a, b in combinations(people, 2)
    )
    return tuple(one for one in found if one.identities)


def sheet(faces: FaceSet) -> Image:
    """Faces of each split and method, spread evenly, one row each.

    Returns:
        uint8 RGB [H, W, 3]; a face that cannot be read is grey.
    """
    columns = faces.columns
    rows = []
    for split, method in dict.fromkeys((part.split, part.method) for part in parts(faces)):
        kind = columns.split.where((split,)) & columns.method.where((method,))
        some = faces.take(np.flatnonzero(kind)).first(SHEET_COLUMNS)
        title = f"{split}  {method}  {int(kind.sum())} faces".strip()
        rows.append((title, [_picture(some, row) for row in range(len(some.faces))]))
    return contact_sheet(rows, SHEET_SIDE, SHEET_COLUMNS)


def _picture(faces: FaceSet, row: int) -> Image:
    try:
        return fit(faces.faces[row].source.read(), SHEET_SIDE)
    except UnreadableImageError:
        return np.full((SHEET_SIDE, SHEET_SIDE, 3), 128, np.uint8)
