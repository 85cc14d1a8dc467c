"""Which faces to calibrate on, as pure functions over columns: label, method, identity, video.

Every function returns indices in ascending order, and the same ones for the same seed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
SELECTIONS = ("stratified", "random", "coverage")


def hold_out(groups: Sequence[Hashable], share: float, most: int, seed: int = 0) -> Indices:
    """Faces to set aside: whole groups, about `share` of the faces and at most about `most`.

    Args:
        groups: What must not be on both sides, per face: its identity, or its video.
        share: In (0, 1).
        most: Faces.
        seed: Of the order in which groups are drawn.

    Returns:
        int64 [n]; empty where all faces are of one group.
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    wanted = max(1, min(round(len(groups) * share), most))
    order = list(members)
    np.random.default_rng(seed).shuffle(order)
    chosen: list[int] = []
    for group in order[:-1]:
        if len(chosen) >= wanted:
            break
        # A group that would overshoot by much leaves its place to smaller ones.
        if not chosen or len(chosen) + len(members[group]) <= 1.25 * wanted:
            chosen += members[group]
    return np.array(sorted(chosen), np.int64)


def random(count: int, faces: int, seed: int = 0) -> Indices:
    """`count` of all faces, each as likely as the next."""
    chosen = np.random.default_rng(seed).permutation(faces)[:count]
    return np.sort(chosen).astype(np.int64)


def stratified(
    strata: Sequence[Hashable],
    identities: Sequence[Hashable],
    videos: Sequence[Hashable],
    count: int,
    seed: int = 0,
) -> Indices:
    """Strata take turns, within them identities, within these videos.

    So every stratum has the same number of faces until it runs out, and no identity more than one
    face more than another of its stratum, unless that one has run out.

    Args:
        strata: Label and method, per face.
        identities: Whose face it is; where that is not known, let it be the video.
        videos: Which video it is a frame of.
        count: Faces wanted.
        seed: Of the order in which each level is drawn.
    """
    order = np.random.default_rng(seed).permutation(len(strata))
    tree: dict[Any, Any] = {}
    for index in order.tolist():
        by_identity = tree.setdefault(strata[index], {})
        by_identity.setdefault(identities[index], {}).setdefault(videos[index], []).append(index)
    turns = _in_turn(
        [
            _in_turn([_in_turn(list(by_video.values())) for by_video in by_id.values()])
            for by_id in tree.values()
        ]
    )
    return np.sort(np.array(turns[:count], np.int64))


def _in_turn(lists: Sequence[Sequence[int]]) -> list[int]:
    """The first of each list, then the second of each, ..."""
    longest = max((len(part) for part in lists), default=0)
    return [part[turn] for turn in range(longest) for part in lists if turn < len(part)]


def coverage(lows: NDArray[np.float32], highs: NDArray[np.float32], count: int) -> Indices:
    """Faces that, taken one by one, widen the ranges of the tensors most.

    The gain of a face is the sum over tensors of what it adds to the range, as a share of the range
    of all faces together. Where no face adds anything any more, the rest is the faces that come
    nearest to doing so: those with the widest ranges of their own.

    Args:
        lows: Smallest value per face and tensor, float32 [faces, tensors].
        highs: Largest.
        count: Faces wanted.
    """
    low, high = lows.astype(np.float64), highs.astype(np.float64)
    span = np.maximum(high.max(axis=0) - low.min(axis=0), np.finfo(np.float64).tiny)
    reached_low = np.full(low.shape[1], np.inf)
    reached_high = np.full(low.shape[1], -np.inf)
    width = ((high - low) / span).sum(axis=1)
    left = np.ones(len(low), bool)
    chosen: list[int] = []
    for _ in range(min(count, len(low))):
        if chosen:
            more = np.maximum(high - reached_high, 0) + np.maximum(reached_low - low, 0)
            gain = (more / span).sum(axis=1)
        else:
            gain = width
        best = _largest(gain, width, left)
        chosen.append(best)
        left[best] = False
        reached_low = np.minimum(reached_low, low[best])
        reached_high = np.maximum(reached_high, high[best])
    return np.array(sorted(chosen), np.int64)


def _largest(gain: NDArray[np.float64], width: NDArray[np.float64], left: NDArray[np.bool_]) -> int:
    """Index of the largest gain, of equal ones the widest, of those the first."""
    candidates = np.flatnonzero(left & (gain == gain[left].max()))
    return int(candidates[int(np.argmax(width[candidates]))])


def linked(keys: Sequence[Sequence[Hashable]]) -> list[int]:
    """Number of the group that each face is in: faces that share a key, directly or by others.

    Args:
        keys: Per face, what ties it to others: its identities and its video.
    """
    parent = list(range(len(keys)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[Hashable, int] = {}
    for index, own in enumerate(keys):
        for key in own:
            parent[root(index)] = root(first.setdefault(key, index))
    return [root(index) for index in range(len(keys))]
