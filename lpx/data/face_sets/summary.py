"""Summarise a face set: counts, people, sizes, and people who appear in several splits."""

from __future__ import annotations

from collections.abc import Mapping, Set
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
# Shown in a contact sheet in place of a face that cannot be read.
_GREY = 128


@dataclass(frozen=True)
class FaceGroup:
    """Counts of the faces that share a split, a method and a label.

    Attributes:
        split: "" if the set has no splits.
        method: "real", or the manipulation.
        label: 1 = fake, 0 = real; None if unknown.
        faces: Number of faces.
        videos: Number of videos that they come from.
        identities: Number of people; 0 if unknown.
    """

    split: str
    method: str
    label: int | None
    faces: int
    videos: int
    identities: int


class Sizes(NamedTuple):
    """Longer sides of crops, in pixels.

    Attributes:
        known: Number of crops whose size is on record.
        least: Smallest.
        median: Median.
        greatest: Largest.
    """

    known: int
    least: int
    median: int
    greatest: int


class Overlap(NamedTuple):
    """People who appear in two splits.

    Attributes:
        splits: The two splits.
        identities: The people, sorted.
    """

    splits: tuple[str, str]
    identities: tuple[str, ...]


def face_groups(faces: FaceSet) -> tuple[FaceGroup, ...]:
    """Count faces per split, method and label: splits in their usual order, real before fake."""
    columns = faces.columns
    groups = []
    for count in count_faces(columns):
        label = -1 if count.label is None else count.label
        rows = columns.split.where((count.split,)) & columns.method.where((count.method,))
        people = columns.take(np.flatnonzero(rows & (columns.label == label))).identities.present()
        groups.append(
            FaceGroup(
                count.split, count.method, count.label, count.faces, count.videos, len(people)
            )
        )
    return tuple(sorted(groups, key=group_order))


def group_order(group: FaceGroup) -> tuple[int, int, str]:
    """Return a sort key: train, val, test, then groups without a split; real first."""
    place = SPLITS.index(group.split) if group.split in SPLITS else len(SPLITS)
    return place, group.label or 0, group.method


def sizes(faces: FaceSet) -> Sizes | None:
    """Summarise the longer sides of crops; None if no size is on record."""
    if not isinstance(faces.faces, FaceTable):
        return None
    details = faces.faces.details
    longer = np.maximum(details.width, details.height)
    # 0 stands for unknown.
    known = longer[longer > 0]
    if not len(known):
        return None
    return Sizes(len(known), int(known.min()), int(np.median(known)), int(known.max()))


def overlaps(faces: FaceSet) -> tuple[Overlap, ...]:
    """Find people who appear in two splits of a face set."""
    columns = faces.columns
    people = {}
    for split in faces.splits():
        rows = np.flatnonzero(columns.split.where((split,)))
        people[split] = set(columns.take(rows).identities.present())
    return shared_people(people)


def shared_people(people: Mapping[str, Set[str]]) -> tuple[Overlap, ...]:
    """Find people who appear in two splits: results on such splits come out too good.

    Args:
        people: The people of each split.
    """
    shared = []
    for one, other in combinations(people, 2):
        both = people[one] & people[other]
        if both:
            shared.append(Overlap((one, other), tuple(sorted(both))))
    return tuple(shared)


def sheet(faces: FaceSet) -> Image:
    """Draw faces of each split and method, evenly spaced in the set, one row each.

    Returns:
        uint8 RGB [H, W, 3]; a face that cannot be read is grey.
    """
    columns = faces.columns
    rows = []
    # A dict, as a method may have groups of several labels.
    for split, method in dict.fromkeys((one.split, one.method) for one in face_groups(faces)):
        kind = columns.split.where((split,)) & columns.method.where((method,))
        some = faces.take(np.flatnonzero(kind)).first(SHEET_COLUMNS)
        title = f"{split}  {method}  {int(kind.sum())} faces".strip()
        rows.append((title, [_picture(some, row) for row in range(len(some.faces))]))
    return contact_sheet(rows, SHEET_SIDE, SHEET_COLUMNS)


def _picture(faces: FaceSet, row: int) -> Image:
    try:
        return fit(faces.faces[row].source.read(), SHEET_SIDE)
    except UnreadableImageError:
        return np.full((SHEET_SIDE, SHEET_SIDE, 3), _GREY, np.uint8)
