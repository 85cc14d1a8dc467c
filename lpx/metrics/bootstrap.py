"""A paired AUC difference by a bootstrap that resamples groups of faces, such as videos.

Faces of one video are not independent: resampling faces would make the interval too narrow, so
whole groups are drawn (the cluster bootstrap; Davison and Hinkley 1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpx.errors import LpxError
from lpx.metrics.inputs import (
    Floats,
    check_between,
    checked_classes,
    checked_scores,
    group_codes,
)
from lpx.metrics.intervals import Difference, Interval, same_scores
from lpx.metrics.zero_variance import exact_ends, one_pair_reach

BLOCK_WEIGHTS = 1 << 16
"""Weights held at once, resamples times faces: bounds the memory and stays near the cache."""

Codes = NDArray[np.integer[Any]]


def auc_difference_bootstrap(
    labels: ArrayLike,
    reference_scores: ArrayLike,
    candidate_scores: ArrayLike,
    groups: ArrayLike,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Return AUC(candidate) - AUC(reference) with a percentile interval over resampled groups.

    Groups are drawn with replacement within three strata: groups of real faces only, of fake
    faces only, and of both. Each resample thus holds as many groups of each kind as the data,
    and no resample can lack a class. Reference and candidate see the same resamples. As any
    percentile interval it is somewhat too narrow where a class has few groups, below about 50.
    Where no resample differs from another although scores do, the interval is the one of
    `lpx.metrics.zero_variance`, as if the faces of one pair of groups had changed places.

    Args:
        labels: [N], 1 = fake, 0 = real.
        reference_scores: [N], the reference's score of each face.
        candidate_scores: [N], the candidate's score of the same faces in the same order.
        groups: [N], each face's group; `video_groups` makes it from methods and videos.
        resamples: How many times to resample, at least 2.
        confidence: The interval's nominal coverage, in (0, 1).
        seed: Of the random draws, at least 0; the same seed gives the same interval.

    Returns:
        The difference on the faces themselves, the percentile interval and the standard
        deviation over the resamples, method "bootstrap", or "one pair" where nothing varies.

    Raises:
        LpxError: One class only, a label other than 0 and 1, a score that is not finite,
            lengths that differ, a parameter out of its range, or a class whose faces all lie
            in groups that are alone in their stratum, so that no resample would vary it.
    """
    check_between("confidence", confidence, 0.0, 1.0, closed=False)
    is_fake = checked_classes(labels)
    reference = checked_scores("reference_scores", reference_scores, len(is_fake))
    candidate = checked_scores("candidate_scores", candidate_scores, len(is_fake))
    found = _resample(is_fake, (reference, candidate), groups, resamples, seed)
    estimate = float(found.aucs[1] - found.aucs[0])
    drawn = found.drawn[1] - found.drawn[0]
    if (drawn == estimate).all() and not same_scores(reference, candidate):
        reach = one_pair_reach(found.fake_groups, found.real_groups, confidence)
        return Difference(estimate, estimate - reach, estimate + reach, 0.0, method="one pair")
    low, high = _percentiles(drawn, confidence)
    return Difference(estimate, low, high, float(drawn.std(ddof=1)), method="bootstrap")


def auc_interval_bootstrap(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return an AUC with a percentile interval over resampled groups.

    Resamples are those of `auc_difference_bootstrap`. Where all of them give the same AUC, as with
    a perfect separation, the interval is the exact one of `lpx.metrics.zero_variance` for as many
    pairs as the smaller class has groups.

    Args:
        labels: [N], 1 = fake, 0 = real.
        scores: [N], higher = more likely fake.
        groups: [N], each face's group.
        resamples: How many times to resample, at least 2.
        confidence: The interval's nominal coverage, in (0, 1).
        seed: Of the random draws, at least 0.

    Raises:
        LpxError: As `auc_difference_bootstrap`.
    """
    check_between("confidence", confidence, 0.0, 1.0, closed=False)
    is_fake = checked_classes(labels)
    checked = checked_scores("scores", scores, len(is_fake))
    found = _resample(is_fake, (checked,), groups, resamples, seed)
    estimate, drawn = float(found.aucs[0]), found.drawn[0]
    if (drawn == estimate).all():
        pairs = min(found.fake_groups, found.real_groups)
        return Interval(estimate, *exact_ends(estimate, pairs, confidence), 0.0, method="exact")
    low, high = _percentiles(drawn, confidence)
    return Interval(estimate, low, high, float(drawn.std(ddof=1)), method="bootstrap")


@dataclass(frozen=True, eq=False)
class _Resampled:
    """AUCs of several vectors of scores, on the faces themselves and on the same resamples.

    Attributes:
        aucs: float64 [K], on the faces.
        drawn: float64 [K, resamples].
        fake_groups: Groups that have fakes.
        real_groups: Groups that have reals.
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
) -> _Resampled:
    check_between("resamples", resamples, 2, np.inf, closed=True)
    check_between("seed", seed, 0, np.inf, closed=True)
    names, codes = group_codes("groups", groups, len(is_fake))
    strata = _strata(is_fake, codes, len(names))
    ranked = [_rank(is_fake, scores, codes) for scores in vectors]
    rows_per_block = max(1, BLOCK_WEIGHTS // len(is_fake))
    drawn = [
        [one.auc(counts) for one in ranked]
        for counts in _draw(strata, len(names), resamples, rows_per_block, seed)
    ]
    once = np.ones((1, len(names)))
    fakes, reals = (int(has.sum()) for has in _members(is_fake, codes, len(names)))
    return _Resampled(
        np.array([float(one.auc(once)[0]) for one in ranked]),
        np.concatenate([np.array(block) for block in drawn], axis=1),
        fakes,
        reals,
    )


@dataclass(frozen=True, eq=False)
class _Ranked:
    """One vector of scores, ranked once for all resamples; faces ascend by score.

    Attributes:
        fake_groups: [m], the group of each fake face.
        real_groups: [n], the group of each real face.
        below: [m], how many reals score below each fake.
        up_to: [m], how many reals score below it or the same.
    """

    fake_groups: Codes
    real_groups: Codes
    below: Codes
    up_to: Codes

    def auc(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the AUC of each resample, given how often it drew each group.

        Counts are whole numbers and every sum of them stays below 2**53, so the float64
        arithmetic is exact and identical scores give differences of exactly 0.

        Args:
            counts: float64 [B, G].

        Returns:
            float64 [B].
        """
        reals = np.zeros((len(counts), len(self.real_groups) + 1))
        np.cumsum(np.take(counts, self.real_groups, axis=1), axis=1, out=reals[:, 1:])
        fakes = np.take(counts, self.fake_groups, axis=1)
        wins = np.take(reals, self.below, axis=1)
        wins += np.take(reals, self.up_to, axis=1)
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


def _members(
    is_fake: NDArray[np.bool_], codes: Codes, groups: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which groups have fakes, and which reals."""
    has_fake = np.bincount(codes, weights=is_fake, minlength=groups) > 0
    return has_fake, np.bincount(codes, weights=~is_fake, minlength=groups) > 0


def _strata(is_fake: NDArray[np.bool_], codes: Codes, groups: int) -> list[Codes]:
    """Split the groups into those of reals only, of fakes only, and of both."""
    has_fake, has_real = _members(is_fake, codes, groups)
    masks = (has_real & ~has_fake, has_fake & ~has_real, has_real & has_fake)
    strata: list[Codes] = [np.flatnonzero(mask) for mask in masks if mask.any()]
    for name, has in (("real", has_real), ("fake", has_fake)):
        if max(len(stratum) for stratum in strata if has[stratum].any()) < 2:
            raise LpxError(
                f"groups: the {name} faces lie in {int(has.sum())} of {groups} groups, each alone"
                " of its kind",
                f"every resample would hold the same {name} faces, and the interval would be too"
                " narrow",
                f"add {name} faces from other videos",
            )
    return strata


def _draw(
    strata: list[Codes], groups: int, resamples: int, rows_per_block: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Yield how often each resample draws each group, float64 [B, groups], block by block."""
    # A stream per stratum: the draws are the same whatever the size of a block.
    seeds = np.random.SeedSequence(seed).spawn(len(strata))
    streams = [np.random.default_rng(stream_seed) for stream_seed in seeds]
    for start in range(0, resamples, rows_per_block):
        rows = min(rows_per_block, resamples - start)
        counts = np.empty((rows, groups))
        for stratum, stream in zip(strata, streams, strict=True):
            size = len(stratum)
            drawn = stream.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
            counted = np.bincount(drawn.ravel(), minlength=rows * size)
            counts[:, stratum] = counted.reshape(rows, size)
        yield counts


def _percentiles(drawn: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return float(low), float(high)
