"""Parity of a candidate with its reference: verdict, score differences, flips and patch maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpx.arguments import check_at_least, check_number
from lpx.errors import LpxError
from lpx.metrics.inputs import Floats, checked_finite, checked_scores
from lpx.metrics.intervals import Interval
from lpx.metrics.roc import called_fake

Verdict = Literal["holds", "fails", "undecided", "uninformative"]
"""Result of a parity test; "uninformative" if the reference itself does not separate the classes.

"undecided" is the value in files and in Python; people are shown "inconclusive".
"""

# Patches ranked at once: bounds the memory of `map_agreement`.
_BLOCK_PATCHES = 1 << 21


@dataclass(frozen=True)
class ScoreDifference:
    """Differences between the candidate's scores and the reference's, in units of score.

    Attributes:
        max: Largest |difference|.
        p99: 99th percentile of |difference|, interpolated linearly.
        mean: Mean |difference|.
    """

    max: float
    p99: float
    mean: float


@dataclass(frozen=True)
class Flips:
    """Number of faces that candidate and reference classify differently.

    Attributes:
        real_to_fake: Called real by the reference and fake by the candidate.
        fake_to_real: Called fake by the reference and real by the candidate.
        total: Sum of the two.
    """

    real_to_fake: int
    fake_to_real: int
    total: int


@dataclass(frozen=True)
class MapAgreement:
    """Agreement between the patch maps of candidate and reference.

    Attributes:
        mean_abs_difference: Mean |difference| of the patch scores, over all patches.
        top_decile_iou: Intersection over union of the highest-scoring tenth of patches, averaged
            over faces, in [0, 1].
        rank_correlation: Spearman's correlation of a face's patches, averaged over faces, in
            [-1, 1].
    """

    mean_abs_difference: float
    top_decile_iou: float
    rank_correlation: float


def verdict(difference: Interval, margin: float = 0.005) -> Verdict:
    """Test whether the candidate's AUC is non-inferior to the reference's.

    Args:
        difference: AUC(candidate) - AUC(reference) with its interval.
        margin: Tolerated loss of AUC, in [0, 1].

    Returns:
        "holds" if the whole interval is above -margin, "fails" if it is below, else "undecided".

    Raises:
        InvalidArgumentError: `margin` is outside [0, 1].
    """
    check_number("margin", margin, least=0.0, most=1.0)
    # Only the lower end decides: the candidate may be better, it must not be worse by more than the
    # margin.
    if difference.low > -margin:
        return "holds"
    # The whole interval is beyond the margin here, so more faces would hardly change the result.
    if difference.high < -margin:
        return "fails"
    return "undecided"


def faces_needed(difference: Interval, faces: int, margin: float = 0.005) -> int | None:
    """Estimate how many faces in total would give a verdict.

    Assumes that the estimate stays the same and that the interval shrinks with 1/sqrt(faces), or
    with 1/faces^2 if it is that of one pair. New faces have to be like the old ones, with as many
    per video and the same share of fakes: more frames of the same videos do not count.

    Args:
        difference: AUC(candidate) - AUC(reference) with its interval.
        faces: Number of faces that it was measured on, at least 1.
        margin: Tolerated loss of AUC, in [0, 1].

    Returns:
        The number of faces; `faces` itself if there is a verdict already; None if the estimate is
        on the margin, so that no number of faces gives one.

    Raises:
        InvalidArgumentError: `margin` is outside [0, 1], or `faces` is below 1.
    """
    check_at_least("faces", faces, 1)
    if verdict(difference, margin) != "undecided":
        return faces
    # A difference of AUCs has rounding errors, so "on the margin" is not an equality.
    if math.isclose(difference.estimate, -margin, rel_tol=1e-9, abs_tol=1e-12):
        return None
    distance = difference.estimate + margin
    # The end of the interval that has to move past the margin.
    if distance > 0:
        reach = difference.estimate - difference.low
    else:
        reach = difference.high - difference.estimate
    # The width of "one pair" is 1 / (fakes * reals), quadratic in the number of faces.
    power = 2.0
    if difference.method == "one pair":
        power = 0.5
    growth: float = abs(reach / distance) ** power
    # One more than the floor: with an end exactly on the margin the verdict would still be
    # undecided.
    return math.floor(faces * growth) + 1


def score_difference(ref: ArrayLike, cand: ArrayLike) -> ScoreDifference:
    """Return maximum, 99th percentile and mean of |candidate - reference| over the faces.

    Args:
        ref: [N], the reference's scores.
        cand: [N], the candidate's scores of the same faces in the same order.

    Raises:
        LpxError: A score is not finite, there are no scores, or lengths differ.
    """
    reference = checked_scores("ref", ref)
    candidate = checked_scores("cand", cand, len(reference))
    # In float64: the differences of interest are as small as the rounding of float32.
    distances = np.abs(np.subtract(candidate, reference, dtype=np.float64))
    return ScoreDifference(
        max=float(distances.max()),
        p99=float(np.quantile(distances, 0.99)),
        mean=float(distances.mean()),
    )


def flips(ref: ArrayLike, cand: ArrayLike, threshold: float) -> Flips:
    """Count the faces whose classification changes at a threshold.

    Args:
        ref: [N], the reference's scores.
        cand: [N], the candidate's scores of the same faces in the same order.
        threshold: A face is called fake where its score is at or above this.

    Raises:
        LpxError: A score is not finite, there are no scores, or lengths differ.
        InvalidArgumentError: `threshold` is NaN.
    """
    reference = checked_scores("ref", ref)
    candidate = checked_scores("cand", cand, len(reference))
    # Thresholds are applied to both in the dtype of each, as deployment would.
    before, after = called_fake(reference, threshold), called_fake(candidate, threshold)
    real_to_fake = int(np.sum(~before & after))
    fake_to_real = int(np.sum(before & ~after))
    return Flips(real_to_fake, fake_to_real, total=real_to_fake + fake_to_real)


def map_agreement(
    ref_maps: ArrayLike, cand_maps: ArrayLike, *, block_patches: int = _BLOCK_PATCHES
) -> MapAgreement:
    """Compare the patch maps of the same faces.

    The top decile of a face is every patch that scores at least as high as its ceil(h*w/10)-th
    highest, so that tied patches are all included. The rank correlation is Spearman's with
    mid-ranks. The ranks of a constant map are undefined: its correlation is set to 1 with another
    constant map and to 0 with any other map.

    Args:
        ref_maps: [N, h, w], the reference's patch scores.
        cand_maps: [N, h, w], the candidate's, of the same faces in the same order.
        block_patches: Patches ranked at once; bounds the memory.

    Raises:
        LpxError: Maps are not [N, h, w], are empty, differ in shape, or contain a value that is
            not finite.
    """
    reference = _checked_maps("ref_maps", ref_maps)
    candidate = _checked_maps("cand_maps", cand_maps)
    if reference.shape != candidate.shape:
        raise LpxError(
            f"ref_maps has shape {list(reference.shape)}, cand_maps {list(candidate.shape)}",
            "patches are compared one to one",
            "pass maps of the same faces and the same grid",
        )
    faces = len(reference)
    pairs = reference.reshape(faces, -1), candidate.reshape(faces, -1)
    faces_per_block = max(1, block_patches // pairs[0].shape[1])
    sums = np.zeros(3)
    # Only a block is widened to float64, as all maps at once would double the memory.
    for start in range(0, faces, faces_per_block):
        block = [maps[start : start + faces_per_block].astype(np.float64) for maps in pairs]
        sums += (
            np.abs(block[1] - block[0]).mean(axis=1).sum(),
            _top_decile_iou(*block).sum(),
            _rank_correlation(*block).sum(),
        )
    return MapAgreement(*(float(mean) for mean in sums / faces))


def _top_decile_iou(
    reference: NDArray[np.float64], candidate: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return each face's overlap, [B], from patches [B, P]."""
    in_reference, in_candidate = _top_decile(reference), _top_decile(candidate)
    shared = np.sum(in_reference & in_candidate, axis=1)
    # Each decile holds at least one patch, so the union is never empty.
    return np.asarray(shared / np.sum(in_reference | in_candidate, axis=1))


def _top_decile(patches: NDArray[np.float64]) -> NDArray[np.bool_]:
    # The lowest score of the decile, then all patches that reach it: ties are not split.
    # Rounded up, so that a grid with fewer than ten patches still has one at the top.
    place = patches.shape[1] - math.ceil(patches.shape[1] / 10)
    lowest = np.partition(patches, place, axis=1)[:, place, None]
    return np.asarray(patches >= lowest)


def _rank_correlation(
    reference: NDArray[np.float64], candidate: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return each face's Spearman correlation, [B], from patches [B, P]."""
    from scipy.stats import rankdata  # a second to import, and only maps need it

    # Ranks minus their mean, (P + 1) / 2, are multiples of one half: the sums below are exact.
    middle = (reference.shape[1] + 1) / 2
    ranks = [np.asarray(rankdata(maps, axis=1)) - middle for maps in (reference, candidate)]
    spreads = [np.einsum("bp,bp->b", rank, rank) for rank in ranks]
    together = np.einsum("bp,bp->b", *ranks)
    scale = np.sqrt(spreads[0] * spreads[1])
    both_constant = (spreads[0] == 0) & (spreads[1] == 0)
    # Faces with one constant map keep the 0 that they start with, those with two keep the 1.
    correlation = both_constant.astype(np.float64)
    return np.asarray(np.divide(together, scale, out=correlation, where=scale > 0))


def _checked_maps(name: str, maps: ArrayLike) -> Floats:
    array = np.asarray(maps)
    if array.ndim != 3 or array.size == 0:
        raise LpxError(
            f"{name} has shape {list(array.shape)}",
            "patch maps are [N, h, w], all of them >= 1",
            "pass one map per face",
        )
    return checked_finite(name, array)
