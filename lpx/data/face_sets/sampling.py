"""Some faces of many: every stratum in proportion, many videos and people rather than frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lpx.arguments import check_choice
from lpx.data.face_sets.columns import Columns, Rows, paired

Stratum = Literal["label", "method", "split"]


def stratified(columns: Columns, count: int, by: Sequence[Stratum], seed: int) -> Rows:
    """Choose `count` rows, in their order.

    A stratum is what shares all properties in `by`. Its share is in proportion to its size, but at
    least one row, as long as there are as many rows as strata; with fewer, the largest strata have
    one each. Within a stratum a second video of a person comes only after one of everybody, and a
    second frame of a video only after one of every video. Who is in a face is told by the first
    identity named; where none is, every video counts as a person.

    Args:
        columns: What is chosen from, N rows.
        count: From 1 to N.
        by: Properties that make the strata.
        seed: Of the choice between rows that are equally welcome.

    Returns:
        int64 [count], ascending.
    """
    chance = np.random.default_rng(seed).permutation(len(columns))
    stratum = _strata(columns, by)
    video = paired(stratum, columns.video.codes)
    person = paired(stratum, _people(columns))
    # Videos of a person are drawn in an order of their own, and so are frames of a video.
    frame_turn = _rank(video, chance)
    leader = _leaders(video, chance)
    video_turn = np.empty(len(columns), np.int64)
    video_turn[leader] = _rank(person[leader], chance[leader])
    video_turn = video_turn[leader[video]]
    order = np.lexsort((chance, video_turn, frame_turn, stratum))
    sizes = np.bincount(stratum)
    ends = np.cumsum(sizes)
    place = np.arange(len(columns)) - np.repeat(ends - sizes, sizes)
    chosen = order[place < np.repeat(quotas(sizes, count), sizes)]
    return np.sort(chosen)


def quotas(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Divide `count` among strata in proportion to their sizes, by largest remainders.

    Args:
        sizes: int64 [K], at least 1 each.
        count: From 1 to the sum of sizes.

    Returns:
        int64 [K], summing to `count`; at least 1 each where K <= count, and never above the size.
    """
    if count < len(sizes):
        largest = np.argsort(-sizes, kind="stable")[:count]
        return np.isin(np.arange(len(sizes)), largest).astype(np.int64)
    small = np.zeros(len(sizes), np.bool_)
    while True:
        # What is lifted to one row is paid for by the others, which may make more of them small.
        left, total = count - int(small.sum()), int(sizes[~small].sum())
        lifted = ~small & (left * sizes < total)
        if not lifted.any():
            break
        small |= lifted
    shares = np.ones(len(sizes), np.int64)
    shares[~small], rest = np.divmod(left * sizes[~small], total)
    order = np.flatnonzero(~small)[np.argsort(-rest, kind="stable")]
    shares[order[: count - int(shares.sum())]] += 1
    return shares


def _strata(columns: Columns, by: Sequence[Stratum]) -> NDArray[np.int64]:
    """Which stratum each row is in, numbered from 0 without gaps."""
    known: dict[str, NDArray[np.int64]] = {
        "label": columns.label.astype(np.int64) + 1,
        "method": columns.method.codes.astype(np.int64),
        "split": columns.split.codes.astype(np.int64),
    }
    stratum = np.zeros(len(columns), np.int64)
    for name in by:
        check_choice("by", name, get_args(Stratum))
        stratum = paired(stratum, known[name])
    return stratum


def _people(columns: Columns) -> NDArray[np.int64]:
    first = columns.identities.first()
    return np.where(first >= 0, first, len(columns.identities.people) + columns.video.codes)


def _rank(group: NDArray[np.int64], chance: Rows) -> Rows:
    """Each row's turn within its group, from 0, in the order of `chance`."""
    order = np.lexsort((chance, group))
    _, starts, sizes = np.unique(group[order], return_index=True, return_counts=True)
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(starts, sizes)
    return rank


def _leaders(group: NDArray[np.int64], chance: Rows) -> Rows:
    """The row of each group that `chance` puts first, by group number."""
    order = np.lexsort((chance, group))
    first: Rows = order[np.unique(group[order], return_index=True)[1]]
    return first
