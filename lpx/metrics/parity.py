"""Whether a candidate still does what its reference does: verdicts, scores, flips and maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpx.errors import LpxError
from lpx.metrics.inputs import Floats, check_between, checked_finite, checked_scores
from lpx.metrics.intervals import Difference
from lpx.metrics.roc import called_fake

Verdict = Literal["holds", "fails", "undecided", "uninformative"]
"""On parity; "uninformative" where the reference itself cannot tell real from fake."""

BLOCK_PATCHES = 1 << 21
"""Patches ranked at once: bounds the memory of `map_agreement`."""


@dataclass(frozen=True)
class ScoreDifference:
    """How far the candidate's scores lie from the reference's, in units of score.

    Attributes:
        max: The largest |difference|.
        p99: The 99th percentile of |difference|, interpolated linearly.
        mean: The mean |difference|.
    """

    max: float
    p99: float
    mean: float


@dataclass(frozen=True)
class Flips:
    """How many faces the candidate calls otherwise than the reference.

    Attributes:
        real_to_fake: Called real by the reference and fake by the candidate.
        fake_to_real: Called fake by the reference and real by the candidate.
        total: The two together.
    """

    real_to_fake: int
    fake_to_real: int
    total: int


@dataclass(frozen=True)
class MapAgreement:
    """How alike the patch maps of candidate and reference are; the last two are means over faces.

    Attributes:
        mean_abs_difference: Mean |difference| of a patch's score, over all patches.
        top_decile_iou: Intersection over union of the two tenths of patches that score
            highest, in [0, 1].
        rank_correlation: Spearman's correlation of a face's patches, in [-1, 1].
    """

    mean_abs_difference: float
    top_decile_iou: float
    rank_correlation: float


def verdict(difference: Difference, margin: float = 0.005) -> Verdict:
    """Decide whether the candidate's AUC is not inferior to the reference's.

    Args:
        difference: AUC(candidate) - AUC(reference) with its interval.
        margin: The loss of AUC that is tolerated, in [0, 1].

    Returns:
        "holds" where the whole interval lies above -margin, "fails" where it lies below,
        else "undecided".

    Raises:
        LpxError: `margin` lies outside [0, 1].
    """
    check_between("margin", margin, 0.0, 1.0, closed=True)
    if difference.low > -margin:
        return "holds"
    if difference.high < -margin:
        return "fails"
    return "undecided"


def faces_needed(difference: Difference, faces: int, margin: float = 0.005) -> int | None:
    """Estimate how many faces in all would decide the verdict.

    The estimate is taken to stay where it is and the interval to shrink about it with
    1/sqrt(faces), or with 1/faces^2 where it is that of one pair. The new faces have to be like the
    old ones, with as many per video and the same share of fakes: more frames of the same videos do
    not count.

    Args:
        difference: AUC(candidate) - AUC(reference) with its interval.
        faces: How many faces it was measured on, at least 1.
        margin: The loss of AUC that is tolerated, in [0, 1].

    Returns:
        The number of faces; `faces` itself where the verdict is decided already; None where
        the estimate lies on the margin, which no number of faces decides.

    Raises:
        LpxError: `margin` lies outside [0, 1], or `faces` is below 1.
    """
    check_between("faces", faces, 1, math.inf, closed=True)
    if verdict(difference, margin) != "undecided":
        return faces
    distance = difference.estimate + margin
    # A difference of AUCs is rounded: on the margin means but for the last digits.
    if math.isclose(difference.estimate, -margin, rel_tol=1e-9, abs_tol=1e-12):
        return None
    above = distance > 0
    reach = difference.estimate - difference.low if above else difference.high - difference.estimate
    power = 0.5 if difference.method == "one pair" else 2
    return math.floor(faces * abs(reach / distance) ** power) + 1


def score_difference(ref: ArrayLike, cand: ArrayLike) -> ScoreDifference:
    """Summarise |candidate - reference| over the faces.

    Args:
        ref: [N], the reference's scores.
        cand: [N], the candidate's scores of the same faces in the same order.

    Returns:
        Maximum, 99th percentile and mean.

    Raises:
        LpxError: A score that is not finite, no scores, or lengths that differ.
    """
    reference, candidate = _paired_scores(ref, cand)
    distances = np.abs(np.subtract(candidate, reference, dtype=np.float64))
    return ScoreDifference(
        max=float(distances.max()),
        p99=float(np.quantile(distances, 0.99)),
        mean=float(distances.mean()),
    )


def flips(ref: ArrayLike, cand: ArrayLike, threshold: float) -> Flips:
    """Count the faces whose call changes at an operating threshold.

    Args:
        ref: [N], the reference's scores.
        cand: [N], the candidate's scores of the same faces in the same order.
        threshold: A face is called fake where its score is at or above this.

    Returns:
        The counts in both directions and their sum.

    Raises:
        LpxError: A score that is not finite, no scores, lengths that differ, or a threshold
            that is NaN.
    """
    reference, candidate = _paired_scores(ref, cand)
    before, after = called_fake(reference, threshold), called_fake(candidate, threshold)
    real_to_fake = int(np.sum(~before & after))
    fake_to_real = int(np.sum(before & ~after))
    return Flips(real_to_fake, fake_to_real, total=real_to_fake + fake_to_real)


def map_agreement(ref_maps: ArrayLike, cand_maps: ArrayLike) -> MapAgreement:
    """Compare the patch maps of the same faces.

    A face's top decile is every patch that scores at least as high as its ceil(h*w/10)-th
    highest, so ties enter together. The rank correlation is Spearman's with mid-ranks; a
    constant map has no order, so its correlation counts as 1 with another constant map and as
    0 with a map that varies.

    Args:
        ref_maps: [N, h, w], the reference's patch scores.
        cand_maps: [N, h, w], the candidate's, of the same faces in the same order.

    Returns:
        Mean |difference|, overlap of the top deciles, rank correlation.

    Raises:
        LpxError: Maps that are not [N, h, w], are empty, differ in shape, or hold a value that
            is not finite.
    """
    reference = _checked_maps("ref_maps", ref_maps)
    candidate = _checked_maps("cand_maps", cand_maps)
    if reference.shape != candidate.shape:
        raise LpxError(
            f"ref_maps has shape {list(reference.shape)}, cand_maps {list(candidate.shape)}",
            "patches are compared one to one",
            "take both maps from the same faces and the same grid",
        )
    faces = len(reference)
    pairs = reference.reshape(faces, -1), candidate.reshape(faces, -1)
    faces_per_block = max(1, BLOCK_PATCHES // pairs[0].shape[1])
    sums = np.zeros(3)
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
    return np.asarray(shared / np.sum(in_reference | in_candidate, axis=1))


def _top_decile(patches: NDArray[np.float64]) -> NDArray[np.bool_]:
    place = patches.shape[1] - math.ceil(patches.shape[1] / 10)
    lowest = np.partition(patches, place, axis=1)[:, place, None]
    return np.asarray(patches >= lowest)


def _rank_correlation(
    reference: NDArray[np.float64], candidate: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return each face's Spearman correlation, [B], from patches [B, P]."""
    from scipy.stats import rankdata  # a second to import, and only maps need it

    # Ranks less their mean, (P + 1) / 2, are multiples of one half: the sums below are exact.
    middle = (reference.shape[1] + 1) / 2
    ranks = [np.asarray(rankdata(maps, axis=1)) - middle for maps in (reference, candidate)]
    spreads = [np.einsum("bp,bp->b", rank, rank) for rank in ranks]
    together = np.einsum("bp,bp->b", *ranks)
    scale = np.sqrt(spreads[0] * spreads[1])
    both_constant = (spreads[0] == 0) & (spreads[1] == 0)
    # A face with one constant map keeps the 0 it starts with.
    correlation = both_constant.astype(np.float64)
    return np.asarray(np.divide(together, scale, out=correlation, where=scale > 0))


def _paired_scores(ref: ArrayLike, cand: ArrayLike) -> tuple[Floats, Floats]:
    reference = checked_scores("ref", ref)
    return reference, checked_scores("cand", cand, len(reference))


def _checked_maps(name: str, maps: ArrayLike) -> Floats:
    array = np.asarray(maps)
    if array.ndim != 3 or array.size == 0:
        raise LpxError(
            f"{name} has shape {list(array.shape)}",
            "patch maps are [N, h, w], none of them 0",
            "pass one map per face",
        )
    return checked_finite(name, array)
