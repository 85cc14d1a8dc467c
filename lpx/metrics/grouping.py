"""Groups of faces that are not independent, and scores per video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpx.errors import LpxError
from lpx.metrics.inputs import checked_labels, checked_scores, group_codes


@dataclass(frozen=True, eq=False)
class VideoScores:
    """One score per video, sorted by method and name.

    Attributes:
        scores: float64 [V], mean of the video's face scores.
        labels: int64 [V], 1 = fake.
        methods: [V], the manipulation method, as passed.
        videos: [V], the video's name, as passed.
        faces: int64 [V], number of faces of the video.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    methods: NDArray[Any]
    videos: NDArray[Any]
    faces: NDArray[np.int64]


def video_groups(methods: ArrayLike, videos: ArrayLike) -> NDArray[np.int64]:
    """Number the videos; two faces are of the same video if both method and name are equal.

    The name alone is not enough: FaceForensics++ uses the same names for the fakes of all methods.

    Args:
        methods: [N], each face's manipulation method.
        videos: [N], each face's video.

    Returns:
        int64 [N], consecutive from 0, sorted by method and then video.

    Raises:
        LpxError: Lengths differ, or there are no faces.
    """
    faces = len(np.atleast_1d(np.asarray(methods)))
    _, method_codes = group_codes("methods", methods, faces)
    names, video_codes = group_codes("videos", videos, faces)
    # A pair of codes as one number, which sorts by method and then video.
    _, codes = np.unique(method_codes * len(names) + video_codes, return_inverse=True)
    return codes.astype(np.int64)


def independent_groups(
    methods: ArrayLike, videos: ArrayLike, people: ArrayLike
) -> NDArray[np.int64]:
    """Number the groups of dependent faces: those that share a video or a person.

    Groups are connected components: if a person appears in two videos, all faces of both are in one
    group.

    Args:
        methods: [N], each face's manipulation method; with `videos` as in `video_groups`.
        videos: [N], each face's video.
        people: [N], identity of each face, for a face swap the target's; "" if unknown.

    Returns:
        int64 [N], consecutive from 0.

    Raises:
        LpxError: Lengths differ, or there are no faces.
    """
    clips = video_groups(methods, videos)
    names, who = group_codes("people", people, len(clips))
    # An unknown person is written as an empty name, and must not join all of these faces into one
    # group.
    known = np.asarray(names).astype(str)[who] != ""
    if not known.any():
        return clips
    # Imported here: it takes a while, and in few data sets the people are known.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Nodes of the graph: the videos, then the people; each face is an edge.
    count = int(clips.max()) + 1
    edges = coo_array(
        (np.ones(int(known.sum())), (clips[known], count + who[known])),
        shape=(count + len(names), count + len(names)),
    )
    _, components = connected_components(edges, directed=False)
    # The components also number the people, so they are renumbered to have no gaps.
    _, codes = np.unique(components[clips], return_inverse=True)
    return codes.astype(np.int64)


def video_scores(
    scores: ArrayLike, labels: ArrayLike, methods: ArrayLike, videos: ArrayLike
) -> VideoScores:
    """Average the face scores of each video; a video is a (method, name) pair.

    Args:
        scores: [N], higher = more likely fake.
        labels: [N], 1 = fake, 0 = real.
        methods: [N], each face's manipulation method; any name for reals.
        videos: [N], each face's video.

    Returns:
        One score, label, method and name per video.

    Raises:
        LpxError: A video has faces of both labels, there is a label other than 0 and 1 or a score
            that is not finite, or lengths differ.
    """
    is_fake = checked_labels(labels)
    checked = checked_scores("scores", scores, len(is_fake))
    method_names, method_codes = group_codes("methods", methods, len(is_fake))
    video_names, video_codes = group_codes("videos", videos, len(is_fake))
    groups = video_groups(method_codes, video_codes)
    # Groups are numbered consecutively: index g of `first`, `faces` and `fakes` is group g.
    _, first = np.unique(groups, return_index=True)
    faces = np.bincount(groups)
    fakes = np.bincount(groups, weights=is_fake)
    mixed = (fakes > 0) & (fakes < faces)
    if mixed.any():
        face = first[np.argmax(mixed)]
        raise LpxError(
            f"video {video_names[video_codes[face]]!s} of method"
            f" {method_names[method_codes[face]]!s} has faces of both labels",
            "a video has one score and one label",
            "check the labels, or give the real and the fake part different video names",
        )
    return VideoScores(
        # bincount sums in float64, whatever the dtype of the scores.
        scores=np.bincount(groups, weights=checked) / faces,
        labels=is_fake[first].astype(np.int64),
        methods=method_names[method_codes[first]],
        videos=video_names[video_codes[first]],
        faces=faces.astype(np.int64),
    )
