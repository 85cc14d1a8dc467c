"""Selection of calibration faces, as pure functions over columns: label, method, identity, video.

Every function returns indices in ascending order, and the same ones for the same seed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
SELECTIONS = ("stratified", "random", "coverage")


def hold_out(groups: Sequence[Hashable], share: float, limit: int, seed: int = 0) -> Indices:
    """Select whole groups of faces to hold out, about `share` of the faces and about `limit`.

    Args:
        groups: Group of each face, such as its identity or its video; no group is split.
        share: Share of the faces, in (0, 1).
        limit: Approximate maximum number of faces.
        seed: Random seed for the order of the groups.

    Returns:
        int64 [n]; empty if all faces are in one group.
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    wanted = max(1, min(round(len(groups) * share), limit))
    order = list(members)
    np.random.default_rng(seed).shuffle(order)
    chosen: list[int] = []
    # The last group is never held out: something has to be left to calibrate on.
    for group in order[:-1]:
        if len(chosen) >= wanted:
            break
        # A group that would overshoot by much is passed over for smaller ones.
        if not chosen or len(chosen) + len(members[group]) <= 1.25 * wanted:
            chosen += members[group]
    return np.array(sorted(chosen), np.int64)


def random(count: int, faces: int, seed: int = 0) -> Indices:
    """Select `count` of `faces` faces uniformly at random."""
    chosen = np.random.default_rng(seed).permutation(faces)[:count]
    return np.sort(chosen).astype(np.int64)


def stratified(
    strata: Sequence[Hashable],
    identities: Sequence[Hashable],
    videos: Sequence[Hashable],
    count: int,
    seed: int = 0,
) -> Indices:
    """Select faces from the strata in turn, within each from its identities, then their videos.

    So all strata have the same number of faces until one runs out, and the numbers of faces of two
    identities in a stratum differ by at most one, unless one has run out.

    Args:
        strata: Label and method of each face.
        identities: Identity of each face; pass the video if it is unknown.
        videos: Video of each face.
        count: Number of faces to select.
        seed: Random seed for the order at each level.
    """
    order = np.random.default_rng(seed).permutation(len(strata))
    # {stratum: {identity: {video: [faces]}}}
    tree: dict[Any, Any] = {}
    for index in order.tolist():
        by_identity = tree.setdefault(strata[index], {})
        by_identity.setdefault(identities[index], {}).setdefault(videos[index], []).append(index)
    by_stratum = []
    for stratum in tree.values():
        identity_turns = [_in_turn(list(by_video.values())) for by_video in stratum.values()]
        by_stratum.append(_in_turn(identity_turns))
    return np.sort(np.array(_in_turn(by_stratum)[:count], np.int64))


def _in_turn(lists: Sequence[Sequence[int]]) -> list[int]:
    """Return the first of each list, then the second of each, and so on."""
    longest = max((len(part) for part in lists), default=0)
    return [part[turn] for turn in range(longest) for part in lists if turn < len(part)]


def coverage(lows: NDArray[np.float32], highs: NDArray[np.float32], count: int) -> Indices:
    """Select faces greedily, each time the one that widens the tensors' ranges most.

    The gain of a face is the sum over tensors of how much it widens the range of the faces selected
    so far, as a share of the range of all faces. Once no face widens any, those with the widest
    ranges of their own are selected.

    Args:
        lows: Smallest value per face and tensor, float32 [faces, tensors].
        highs: Largest value, likewise.
        count: Number of faces to select.
    """
    low, high = lows.astype(np.float64), highs.astype(np.float64)
    # A constant tensor has no range to divide by.
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
            # There is no range yet to widen: infinity minus infinity.
            gain = width
        best = _largest(gain, width, left)
        chosen.append(best)
        left[best] = False
        reached_low = np.minimum(reached_low, low[best])
        reached_high = np.maximum(reached_high, high[best])
    return np.array(sorted(chosen), np.int64)


def _largest(gain: NDArray[np.float64], width: NDArray[np.float64], left: NDArray[np.bool_]) -> int:
    """Return the index of the largest gain; ties go to the widest face, then to the first."""
    candidates = np.flatnonzero(left & (gain == gain[left].max()))
    return int(candidates[int(np.argmax(width[candidates]))])


def linked(keys: Sequence[Sequence[Hashable]]) -> list[int]:
    """Number the groups of faces that are connected by shared keys, directly or through others.

    Args:
        keys: Keys of each face: its identities and its video.

    Returns:
        The group of each face; numbers need not be consecutive.
    """
    # Union-find with path halving.
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
