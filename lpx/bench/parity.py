"""Whether a candidate still separates real from fake as the reference does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpx.engines.base import Prediction
from lpx.metrics import (
    Difference,
    Flips,
    Interval,
    MapAgreement,
    ScoreDifference,
    Verdict,
    auc_difference,
    auc_interval,
    faces_needed,
    flips,
    map_agreement,
    score_difference,
    verdict,
)

MARGIN = 0.005
"""How much AUC a candidate may lose: non-inferiority by half a point."""
VERDICTS: tuple[Verdict, ...] = ("holds", "undecided", "fails")
"""Best first."""


@dataclass(frozen=True)
class ParityResult:
    """A candidate against the reference, on the same faces.

    Attributes:
        auc: AUC of the candidate, with DeLong's 95 % interval.
        auc_difference: AUC(candidate) - AUC(reference), with DeLong's paired 95 % interval.
        verdict: "holds" where the interval's lower end is above -margin, "fails" where its upper
            end is below, else "undecided".
        faces_needed: Faces that would probably decide it, None where that cannot be said.
        score_difference: |score difference|, in [0, 1].
        flips: Faces on the other side of the threshold.
        maps: Agreement of the patch maps.
    """

    auc: Interval
    auc_difference: Difference
    verdict: Verdict
    faces_needed: int | None
    score_difference: ScoreDifference
    flips: Flips
    maps: MapAgreement


def compare(
    labels: NDArray[np.int64],
    reference: Prediction,
    candidate: Prediction,
    threshold: float,
    margin: float = MARGIN,
) -> ParityResult:
    """Compare two predictions of the same faces.

    Args:
        labels: int64 [N], 1 = fake.
        reference: Of the PyTorch checkpoint.
        candidate: Of an engine.
        threshold: Operating point at which verdicts may flip.
        margin: AUC that may be lost.

    Raises:
        LpxError: One class only, or NaN scores.
    """
    difference = auc_difference(labels, reference.score, candidate.score)
    decided = verdict(difference, margin)
    return ParityResult(
        auc=auc_interval(labels, candidate.score),
        auc_difference=difference,
        verdict=decided,
        faces_needed=None
        if decided != "undecided"
        else faces_needed(difference, len(labels), margin),
        score_difference=score_difference(reference.score, candidate.score),
        flips=flips(reference.score, candidate.score, threshold),
        maps=map_agreement(reference.patch_map, candidate.patch_map),
    )


def overall(verdicts: list[Verdict]) -> Verdict:
    """One verdict for all candidates: the worst.

    Args:
        verdicts: Of the candidates. It takes at least one to decide anything: without, the answer
            is "undecided".
    """
    return max(verdicts, key=VERDICTS.index, default="undecided")
