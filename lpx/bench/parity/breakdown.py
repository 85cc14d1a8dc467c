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

# Minimum number of faces, or of videos, per class for an interval.
LEAST = 2

Level = Literal["face", "video"]


@dataclass(frozen=True)
class Members:
    """Methods, videos and groups of the faces that were scored.

    Attributes:
        methods: [N], manipulation methods.
        videos: [N], names of videos; videos with the same name and different methods differ.
        groups: int64 [N], the same number for faces of one video, or of one person if people are
            known (of a face swap: the target).
        shared_videos: True if some video has several faces.
    """

    methods: NDArray[np.str_]
    videos: NDArray[np.str_]
    groups: NDArray[np.int64]
    shared_videos: bool


@dataclass(frozen=True)
class SubsetParity:
    """Parity on a subset of the faces, or of their videos.

    Attributes:
        level: "face", or "video" for videos by the mean score of their faces.
        method: Manipulation method of the fakes; they are compared with all reals. "all" for all.
        fakes: Number of fakes, of this level.
        reals: Number of reals.
        difference: AUC difference with its intervals; None if there are too few faces for one.
        verdict: Verdict on the AUC; None without an interval.
        reason: Reason why there is no interval, or what is wrong with it; otherwise "".
    """

    level: Level
    method: str
    fakes: int
    reals: int
    difference: PairedDifference | None
    verdict: Verdict | None
    reason: str = ""


def members_of(faces: FaceSet, indices: NDArray[np.int64]) -> Members:
    """Return methods, videos and groups of the faces at these indices."""
    chosen = [faces.faces[int(index)] for index in indices]
    methods = np.array([face.method for face in chosen])
    videos = np.array([face.video for face in chosen])
    # A face swap has two people: the target, whose head it is, comes first.
    # The first person alone: a swap's donors would join most videos into one group.
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
) -> dict[str, tuple[SubsetParity, ...]]:
    """Compare per method, and over videos if they have several faces.

    Args:
        labels: int64 [N], 1 = fake.
        reference: float32 [N].
        candidates: By name, float32 [N].
        members: Methods and videos of the faces.
        margin: AUC that may be lost.

    Returns:
        For each candidate: faces first; within a level, "all" over videos and then each method.
        Faces of all methods are left out: they are the candidate's own difference. With a single
        method there are no rows per method.
    """
    parts: dict[str, list[SubsetParity]] = {name: [] for name in candidates}

    def add(level: Level, method: str, subset: _Selected) -> None:
        for name, part in _parts(level, method, subset, margin).items():
            parts[name].append(part)

    faces = _Selected(labels, reference, candidates, members.groups, members.methods)
    for method in _several_methods(faces):
        add("face", method, faces.of_method(method))
    if members.shared_videos:
        videos = _over_videos(faces, members)
        add("video", "all", videos)
        for method in _several_methods(videos):
            add("video", method, videos.of_method(method))
    return {name: tuple(rows) for name, rows in parts.items()}


def _several_methods(subset: _Selected) -> list[str]:
    """Return the fakes' methods, sorted; none if there is just one, which is the whole."""
    names = np.unique(subset.methods[subset.labels == 1])
    return [str(name) for name in names] if len(names) > 1 else []


@dataclass(frozen=True)
class _Selected:
    """Scores of some faces or videos.

    Attributes:
        labels: int64 [N], 1 = fake.
        reference: float [N].
        candidates: By name, float [N].
        groups: int64 [N].
        methods: [N].
    """

    labels: NDArray[np.int64]
    reference: NDArray[np.floating[Any]]
    candidates: Mapping[str, NDArray[np.floating[Any]]]
    groups: NDArray[np.int64]
    methods: NDArray[np.str_]

    def of_method(self, method: str) -> _Selected:
        """Return the fakes of a method, and all reals: rows of different methods are comparable."""
        kept = (self.labels == 0) | (self.methods == method)
        return _Selected(
            self.labels[kept],
            self.reference[kept],
            {name: scores[kept] for name, scores in self.candidates.items()},
            self.groups[kept],
            self.methods[kept],
        )


def _over_videos(faces: _Selected, members: Members) -> _Selected:
    """Return the mean scores of each video."""

    def mean(scores: NDArray[np.floating[Any]]) -> VideoScores:
        return video_scores(scores, faces.labels, members.methods, members.videos)

    reference = mean(faces.reference)
    # All faces of a video are in one group: take that of the first.
    _, first = np.unique(video_groups(members.methods, members.videos), return_index=True)
    candidates = {name: mean(scores).scores for name, scores in faces.candidates.items()}
    return _Selected(
        reference.labels,
        reference.scores,
        candidates,
        members.groups[first],
        reference.methods,
    )


def _parts(level: Level, method: str, subset: _Selected, margin: float) -> dict[str, SubsetParity]:
    """Compare each candidate on a subset; the reference's discrimination is computed once."""
    labels, groups = subset.labels, subset.groups
    fakes = int((labels == 1).sum())
    reals = len(labels) - fakes
    # Checked first, as the intervals would raise an error for the whole breakdown.
    if min(fakes, reals) < LEAST:
        reason = f"{reals} real and {fakes} fake {level}s: too few for an interval"
        part = SubsetParity(level, method, fakes, reals, None, None, reason)
        return dict.fromkeys(subset.candidates, part)
    # Once for all candidates: its bootstrap takes most of the time.
    truth = discrimination(labels, subset.reference, groups)
    parts = {}
    for name, scores in subset.candidates.items():
        # A reference that ranks the classes the other way round is compared by its own direction.
        change = difference(truth.oriented(labels), subset.reference, scores, groups)
        decided = judge(truth, change.deciding, margin)
        parts[name] = SubsetParity(level, method, fakes, reals, change, decided, change.note)
    return parts
