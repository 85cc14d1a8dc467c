"""The difference of AUCs per manipulation method, over faces and over videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity import PairedDifference, difference, discrimination, judge
from lpx.data.face_set import FaceSet
from lpx.metrics import Verdict, independent_groups, video_groups, video_scores

LEAST = 2
"""Things of a class below which there is no interval."""


@dataclass(frozen=True)
class Members:
    """Where the faces that were scored come from.

    Attributes:
        methods: [N].
        videos: [N], the videos' names; two videos of one name and two methods are two.
        groups: int64 [N]: faces of one video, or of one person where people are known, have one
            number; for a face swap the person is the one whose head it is.
        shared_videos: Some video has two faces.
    """

    methods: NDArray[np.str_]
    videos: NDArray[np.str_]
    groups: NDArray[np.int64]
    shared_videos: bool


@dataclass(frozen=True)
class Part:
    """The difference on some of the faces, or of their videos.

    Attributes:
        level: What was compared: faces, or videos by their faces' mean score.
        method: The manipulation, against all reals; "all" for all.
        fakes: How many, of this level.
        reals: How many.
        difference: With its intervals; None where there are too few for one.
        verdict: None where there is no interval.
        reason: Why there is none, else "".
    """

    level: Literal["face", "video"]
    method: str
    fakes: int
    reals: int
    difference: PairedDifference | None
    verdict: Verdict | None
    reason: str = ""


def members_of(faces: FaceSet, indices: NDArray[np.int64]) -> Members:
    """Methods and videos of the faces in these places."""
    chosen = [faces.faces[int(index)] for index in indices]
    methods = np.array([face.method for face in chosen])
    videos = np.array([face.video for face in chosen])
    people = np.array([face.identities[0] if face.identities else "" for face in chosen])
    clips = len(np.unique(video_groups(methods, videos)))
    groups = independent_groups(methods, videos, people)
    return Members(methods, videos, groups, clips < len(chosen))


def breakdown(
    labels: NDArray[np.int64],
    reference: NDArray[np.float32],
    candidate: NDArray[np.float32],
    members: Members,
    margin: float,
) -> tuple[Part, ...]:
    """Compare per method, and per level where videos have several faces.

    Args:
        labels: int64 [N], 1 = fake.
        reference: float32 [N].
        candidate: float32 [N].
        members: Methods and videos of the faces.
        margin: AUC that may be lost.

    Returns:
        Faces first; within a level, "all" over videos and then each method. Faces of all methods
        are not among them: that is the candidate's own difference. With one method there are no
        rows per method.
    """
    parts = _of_methods(
        "face", labels, reference, candidate, members.methods, members.groups, margin
    )
    if not members.shared_videos:
        return parts
    before, after = (
        video_scores(scores, labels, members.methods, members.videos)
        for scores in (reference, candidate)
    )
    # Each video lies in one group: that of any of its faces.
    clips = video_groups(members.methods, members.videos)
    _, first = np.unique(clips, return_index=True)
    groups = members.groups[first]
    found = before.labels, before.scores, after.scores
    whole = _part("video", "all", *found, groups, margin)
    return (*parts, whole, *_of_methods("video", *found, before.methods, groups, margin))


def _of_methods(
    level: Literal["face", "video"],
    labels: NDArray[np.int64],
    reference: NDArray[np.floating[Any]],
    candidate: NDArray[np.floating[Any]],
    methods: NDArray[np.str_],
    groups: NDArray[np.int64],
    margin: float,
) -> tuple[Part, ...]:
    names = np.unique(methods[labels == 1])
    if len(names) < 2:
        return ()
    parts = []
    for name in names:
        kept = (labels == 0) | (methods == name)
        scores = reference[kept], candidate[kept]
        parts.append(_part(level, str(name), labels[kept], *scores, groups[kept], margin))
    return tuple(parts)


def _part(
    level: Literal["face", "video"],
    method: str,
    labels: NDArray[np.int64],
    reference: NDArray[np.floating[Any]],
    candidate: NDArray[np.floating[Any]],
    groups: NDArray[np.int64],
    margin: float,
) -> Part:
    fakes = int((labels == 1).sum())
    reals = len(labels) - fakes
    if min(fakes, reals) < LEAST:
        reason = f"{reals} real and {fakes} fake {level}s: too few for an interval"
        return Part(level, method, fakes, reals, None, None, reason)
    truth = discrimination(labels, reference, groups)
    found = difference(truth.oriented(labels), reference, candidate, groups)
    decided = judge(truth, found.deciding, margin)
    return Part(level, method, fakes, reals, found, decided, found.note)
