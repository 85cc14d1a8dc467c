"""Bootstrap intervals of an AUC and of a paired AUC difference, resampling groups such as videos.

Faces of one video are not independent: resampling single faces would make the interval too narrow,
so whole groups are drawn (the cluster bootstrap; Davison and Hinkley 1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpx.arguments import check_at_least
from lpx.errors import LpxError
from lpx.metrics.inputs import (
    Floats,
    check_confidence,
    checked_classes,
    checked_scores,
    group_codes,
)
from lpx.metrics.intervals import Interval, same_scores
from lpx.metrics.zero_variance import exact_interval, one_pair_half_width

# Weights computed at once, resamples times faces: bounds the memory, and keeps them in the cache.
_BLOCK_WEIGHTS = 1 << 16

Codes = NDArray[np.integer[Any]]


def auc_difference_bootstrap(
    labels: ArrayLike,
    reference_scores: ArrayLike,
    candidate_scores: ArrayLike,
    groups: ArrayLike,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    *,
    block_weights: int = _BLOCK_WEIGHTS,
) -> Interval:
    """Return AUC(candidate) - AUC(reference) with a percentile interval over resampled groups.

    Groups are drawn with replacement within three strata: groups with real faces only, with fake
    faces only, and with both. So every resample has as many groups of each kind as the data, and
    always both classes. Reference and candidate are evaluated on the same resamples. Like any
    percentile interval it is somewhat too narrow if a class has few groups (fewer than about 50).
    If the scores differ but no resample changes the difference, the interval is that of
    `lpx.metrics.zero_variance`, as wide as if the faces of one pair of groups had swapped ranks.

    Args:
        labels: [N], 1 = fake, 0 = real.
        reference_scores: [N], the reference's score of each face.
        candidate_scores: [N], the candidate's score of the same faces in the same order.
        groups: [N], each face's group; `video_groups` makes it from methods and videos.
        resamples: Number of resamples, at least 2.
        confidence: Nominal coverage of the interval, in (0, 1).
        seed: Random seed, at least 0; the same seed gives the same interval.
        block_weights: Weights computed at once, resamples times faces; the result does not depend
            on it.

    Returns:
        The difference on the faces themselves and its interval; method "bootstrap", or "one pair"
        if no resample changes the difference. A negative difference is a loss.

    Raises:
        LpxError: There is only one class, a label other than 0 and 1, a score that is not finite,
            lengths differ, or all faces of a class are in groups that are alone in their stratum,
            so that no resample could vary them.
        InvalidArgumentError: A parameter is out of its range.
    """
    check_confidence(confidence)
    is_fake = checked_classes(labels)
    reference = checked_scores("reference_scores", reference_scores, len(is_fake))
    candidate = checked_scores("candidate_scores", candidate_scores, len(is_fake))
    result = _resample(is_fake, (reference, candidate), groups, resamples, seed, block_weights)
    estimate = float(result.aucs[1] - result.aucs[0])
    drawn = result.drawn[1] - result.drawn[0]
    # Resamples that never change the difference would give an interval of width 0, as if it were
    # known exactly; only scores that are the same deserve that.
    if (drawn == estimate).all() and not same_scores(reference, candidate):
        half_width = one_pair_half_width(result.fake_groups, result.real_groups, confidence)
        return Interval.about(estimate, half_width, "one pair")
    return _percentile_interval(estimate, drawn, confidence)


def auc_interval_bootstrap(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return an AUC with a percentile interval over resampled groups.

    Resamples are those of `auc_difference_bootstrap`. If all of them give the same AUC, as with
    perfect separation, the interval is the exact one of `lpx.metrics.zero_variance`, with the
    number of groups of the smaller class as its number of pairs.

    Args:
        labels: [N], 1 = fake, 0 = real.
        scores: [N], higher = more likely fake.
        groups: [N], each face's group.
        resamples: Number of resamples, at least 2.
        confidence: Nominal coverage of the interval, in (0, 1).
        seed: Random seed, at least 0.

    Returns:
        The AUC on the faces themselves and its interval; method "bootstrap" or "exact".

    Raises:
        LpxError: As `auc_difference_bootstrap`.
        InvalidArgumentError: As `auc_difference_bootstrap`.
    """
    check_confidence(confidence)
    is_fake = checked_classes(labels)
    checked = checked_scores("scores", scores, len(is_fake))
    result = _resample(is_fake, (checked,), groups, resamples, seed, _BLOCK_WEIGHTS)
    estimate, drawn = float(result.aucs[0]), result.drawn[0]
    # If all resamples agree, the percentiles would claim a certainty that the number of groups does
    # not support.
    if (drawn == estimate).all():
        # Groups, not faces, are independent, and the rarer class limits how much was seen.
        pairs = min(result.fake_groups, result.real_groups)
        return exact_interval(estimate, pairs, confidence)
    return _percentile_interval(estimate, drawn, confidence)


@dataclass(frozen=True, eq=False)
class _Resampled:
    """AUCs of several score vectors, on the faces themselves and on the same resamples.

    Attributes:
        aucs: float64 [K], on the faces.
        drawn: float64 [K, resamples].
        fake_groups: Number of groups with fakes.
        real_groups: Number of groups with reals.
    """

    aucs: NDArray[np.float64]
    drawn: NDArray[np.float64]
    fake_groups: int
    real_groups: int


def _resample(
    is_fake: NDArray[np.bool_],
    vectors: Sequence[Floats],
    groups: ArrayLike,
    resamples: int,
    seed: int,
    block_weights: int,
) -> _Resampled:
    check_at_least("resamples", resamples, 2)
    check_at_least("seed", seed, 0)
    names, codes = group_codes("groups", groups, len(is_fake))
    strata = _strata(is_fake, codes, len(names))
    # The scores are ranked once, as resampling changes how often a face counts but never its rank.
    ranked = [_rank(is_fake, scores, codes) for scores in vectors]
    rows_per_block = max(1, block_weights // len(is_fake))
    drawn: list[list[NDArray[np.float64]]] = [[] for _ in ranked]
    # All vectors see the same draws: a paired difference has to compare them on the same faces.
    for counts in _draw(strata, len(names), resamples, rows_per_block, seed):
        for aucs, one in zip(drawn, ranked, strict=True):
            aucs.append(one.auc(counts))
    # The AUC on the faces themselves comes out of the same sums, each group drawn once: resamples
    # that change nothing then equal it exactly, which the callers test for.
    once = np.ones((1, len(names)))
    has = _classes_of_groups(is_fake, codes, len(names))
    return _Resampled(
        aucs=np.array([float(one.auc(once)[0]) for one in ranked]),
        drawn=np.array([np.concatenate(aucs) for aucs in drawn]),
        fake_groups=int(has.fake.sum()),
        real_groups=int(has.real.sum()),
    )


@dataclass(frozen=True, eq=False)
class _Ranked:
    """A score vector, ranked once for all resamples; faces ascend by score.

    Attributes:
        fake_groups: [m], the group of each fake face.
        real_groups: [n], the group of each real face.
        below: [m], number of reals that score below each fake.
        up_to: [m], number of reals that score below it or the same.
    """

    fake_groups: Codes
    real_groups: Codes
    below: Codes
    up_to: Codes

    def auc(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the AUC of each resample.

        Args:
            counts: float64 [B, G], how often each resample drew each group.

        Returns:
            float64 [B].
        """
        # Counts are whole numbers and every sum of them stays below 2**53, so the float64
        # arithmetic is exact, and identical scores give differences of exactly 0.
        # The leading column of zeros lets `below` and `up_to` index the sum of nothing.
        reals = np.zeros((len(counts), len(self.real_groups) + 1))
        np.cumsum(np.take(counts, self.real_groups, axis=1), axis=1, out=reals[:, 1:])
        fakes = np.take(counts, self.fake_groups, axis=1)
        wins = np.take(reals, self.below, axis=1)
        wins += np.take(reals, self.up_to, axis=1)
        # Each fake wins against the reals below it and those up to it, so that ties count one half
        # each.
        doubled = np.einsum("bm,bm->b", fakes, wins)
        return np.asarray(doubled / (2.0 * fakes.sum(axis=1) * reals[:, -1]))


def _rank(is_fake: NDArray[np.bool_], scores: Floats, codes: Codes) -> _Ranked:
    fake, real = np.flatnonzero(is_fake), np.flatnonzero(~is_fake)
    fake, real = fake[np.argsort(scores[fake])], real[np.argsort(scores[real])]
    return _Ranked(
        fake_groups=codes[fake],
        real_groups=codes[real],
        below=np.searchsorted(scores[real], scores[fake], side="left"),
        up_to=np.searchsorted(scores[real], scores[fake], side="right"),
    )


class _GroupClasses(NamedTuple):
    """Masks of the groups with fakes and of the groups with reals, bool [G]."""

    fake: NDArray[np.bool_]
    real: NDArray[np.bool_]


def _classes_of_groups(is_fake: NDArray[np.bool_], codes: Codes, groups: int) -> _GroupClasses:
    # A group may hold both classes, so neither mask is the complement of the other.
    return _GroupClasses(
        fake=np.bincount(codes, weights=is_fake, minlength=groups) > 0,
        real=np.bincount(codes, weights=~is_fake, minlength=groups) > 0,
    )


def _strata(is_fake: NDArray[np.bool_], codes: Codes, groups: int) -> list[Codes]:
    """Split the groups into those with reals only, with fakes only, and with both."""
    has = _classes_of_groups(is_fake, codes, groups)
    masks = (has.real & ~has.fake, has.fake & ~has.real, has.real & has.fake)
    strata: list[Codes] = [np.flatnonzero(mask) for mask in masks if mask.any()]
    for name, members in (("real", has.real), ("fake", has.fake)):
        # A stratum of one group is drawn whole in every resample.
        if max(len(stratum) for stratum in strata if members[stratum].any()) < 2:
            raise LpxError(
                f"groups: the {name} faces are in {int(members.sum())} of {groups} groups, each"
                " the only one of its kind",
                f"every resample would contain the same {name} faces, and the interval would be too"
                " narrow",
                f"add {name} faces from other videos",
            )
    return strata


def _draw(
    strata: list[Codes], groups: int, resamples: int, rows_per_block: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Yield how often each resample draws each group, float64 [B, groups], block by block."""
    # One random stream per stratum: the draws do not depend on the size of a block.
    seeds = np.random.SeedSequence(seed).spawn(len(strata))
    streams = [np.random.default_rng(stream_seed) for stream_seed in seeds]
    for start in range(0, resamples, rows_per_block):
        rows = min(rows_per_block, resamples - start)
        counts = np.empty((rows, groups))
        for stratum, stream in zip(strata, streams, strict=True):
            size = len(stratum)
            # Numbers of row r are shifted by r * size, so that one bincount counts all rows.
            drawn = stream.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
            counted = np.bincount(drawn.ravel(), minlength=rows * size)
            counts[:, stratum] = counted.reshape(rows, size)
        yield counts


def _percentile_interval(
    estimate: float, drawn: NDArray[np.float64], confidence: float
) -> Interval:
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Interval(estimate, float(low), float(high), "bootstrap")
