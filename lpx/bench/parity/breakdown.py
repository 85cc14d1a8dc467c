"""The difference of AUCs per manipulation method, over faces and over videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.parity import PairedDifference, difference, discrimination, judge
from lpx.data.face_sets.face_set import FaceSet
from lpx.metrics import (
    Verdict,
    VideoScores,
    independent_groups,
    video_groups,
    video_scores,
)

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
    candidates: Mapping[str, NDArray[np.float32]],
    members: Members,
    margin: float,
) -> dict[str, tuple[Part, ...]]:
    """Compare per method, and per level where videos have several faces.

    Args:
        labels: int64 [N], 1 = fake.
        reference: float32 [N].
        candidates: By name, float32 [N].
        members: Methods and videos of the faces.
        margin: AUC that may be lost.

    Returns:
        Per candidate: faces first; within a level, "all" over videos and then each method. Faces of
        all methods are not among them: that is the candidate's own difference. With one method
        there are no rows per method.
    """
    parts: dict[str, list[Part]] = {name: [] for name in candidates}

    def add(
        level: Literal["face", "video"], method: str, found: _Selected, kept: NDArray[np.bool_]
    ) -> None:
        for name, part in _parts(level, method, found.take(kept), margin).items():
            parts[name].append(part)

    faces = _Selected(labels, reference, candidates, members.groups)
    levels: list[tuple[Literal["face", "video"], _Selected, NDArray[np.str_]]] = [
        ("face", faces, members.methods)
    ]
    if members.shared_videos:
        levels.append(("video", *_over_videos(faces, members)))
    for level, found, methods in levels:
        if level == "video":
            add(level, "all", found, np.ones(len(methods), np.bool_))
        names = np.unique(methods[found.labels == 1])
        for method in names if len(names) > 1 else ():
            add(level, str(method), found, (found.labels == 0) | (methods == method))
    return {name: tuple(found) for name, found in parts.items()}


@dataclass(frozen=True)
class _Selected:
    """Scores of some faces or videos.

    Attributes:
        labels: int64 [N], 1 = fake.
        reference: float [N].
        candidates: By name, float [N].
        groups: int64 [N].
    """

    labels: NDArray[np.int64]
    reference: NDArray[np.floating[Any]]
    candidates: Mapping[str, NDArray[np.floating[Any]]]
    groups: NDArray[np.int64]

    def take(self, kept: NDArray[np.bool_]) -> _Selected:
        """Those that are kept, bool [N]."""
        return _Selected(
            self.labels[kept],
            self.reference[kept],
            {name: scores[kept] for name, scores in self.candidates.items()},
            self.groups[kept],
        )


def _over_videos(faces: _Selected, members: Members) -> tuple[_Selected, NDArray[np.str_]]:
    """The mean scores of each video, and the videos' methods."""

    def mean(scores: NDArray[np.floating[Any]]) -> VideoScores:
        return video_scores(scores, faces.labels, members.methods, members.videos)

    reference = mean(faces.reference)
    # Each video lies in one group: that of any of its faces.
    _, first = np.unique(video_groups(members.methods, members.videos), return_index=True)
    candidates = {name: mean(scores).scores for name, scores in faces.candidates.items()}
    videos = _Selected(reference.labels, reference.scores, candidates, members.groups[first])
    return videos, reference.methods


def _parts(
    level: Literal["face", "video"], method: str, found: _Selected, margin: float
) -> dict[str, Part]:
    """A part of each candidate; the reference is looked at once."""
    labels, groups = found.labels, found.groups
    fakes = int((labels == 1).sum())
    reals = len(labels) - fakes
    if min(fakes, reals) < LEAST:
        reason = f"{reals} real and {fakes} fake {level}s: too few for an interval"
        part = Part(level, method, fakes, reals, None, None, reason)
        return dict.fromkeys(found.candidates, part)
    truth = discrimination(labels, found.reference, groups)
    parts = {}
    for name, scores in found.candidates.items():
        change = difference(truth.oriented(labels), found.reference, scores, groups)
        decided = judge(truth, change.deciding, margin)
        parts[name] = Part(level, method, fakes, reals, change, decided, change.note)
    return parts
