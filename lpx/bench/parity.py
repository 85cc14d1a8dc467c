"""Whether a candidate still separates real from fake as the reference does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.engines.base import Prediction
from lpx.errors import LpxError
from lpx.metrics import (
    Difference,
    Flips,
    Interval,
    MapAgreement,
    ScoreDifference,
    Verdict,
    auc_difference,
    auc_difference_bootstrap,
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
        auc_difference: AUC(candidate) - AUC(reference), with the 95 % interval that decides.
        delong: The same with DeLong's interval, which takes faces to be independent.
        bootstrap: The same with the interval over resampled videos; None where no video has two
            faces, or where it cannot be computed. Where there is one, it decides.
        note: What is wrong with the interval that decides; "" where nothing.
        verdict: "holds" where the interval's lower end is above -margin, "fails" where its upper
            end is below, else "undecided".
        faces_needed: Faces that would probably decide it, None where that cannot be said.
        score_difference: |score difference|, in [0, 1].
        flips: Faces on the other side of the threshold.
        maps: Agreement of the patch maps.
    """

    auc: Interval
    auc_difference: Difference
    delong: Difference
    bootstrap: Difference | None
    note: str
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
    videos: NDArray[np.int64] | None = None,
) -> ParityResult:
    """Compare two predictions of the same faces.

    Args:
        labels: int64 [N], 1 = fake.
        reference: Of the PyTorch checkpoint, or of the stage before.
        candidate: Of an engine.
        threshold: Operating point at which verdicts may flip.
        margin: AUC that may be lost.
        videos: int64 [N], each face's video, as `video_groups` numbers them; None where every face
            is one of its own.

    Raises:
        LpxError: One class only, or NaN scores.
    """
    found = difference(labels, reference.score, candidate.score, videos)
    decided = verdict(found.deciding, margin)
    return ParityResult(
        auc=auc_interval(labels, candidate.score),
        auc_difference=found.deciding,
        delong=found.delong,
        bootstrap=found.bootstrap,
        note=found.note,
        verdict=decided,
        faces_needed=None
        if decided != "undecided"
        else faces_needed(found.deciding, len(labels), margin),
        score_difference=score_difference(reference.score, candidate.score),
        flips=flips(reference.score, candidate.score, threshold),
        maps=map_agreement(reference.patch_map, candidate.patch_map),
    )


@dataclass(frozen=True)
class PairedDifference:
    """A difference of AUCs with both intervals.

    Attributes:
        delong: For independent faces.
        bootstrap: Over resampled videos; None where no video has two faces or a class has too few.
        note: Why there is no bootstrap although faces share videos; "" else.
    """

    delong: Difference
    bootstrap: Difference | None
    note: str = ""

    @property
    def deciding(self) -> Difference:
        """The interval that a verdict is read off: over videos where there is one."""
        return self.bootstrap or self.delong


def difference(
    labels: NDArray[np.int64],
    reference: NDArray[np.floating[Any]],
    candidate: NDArray[np.floating[Any]],
    videos: NDArray[np.int64] | None,
) -> PairedDifference:
    """AUC(candidate) - AUC(reference), with each interval that applies.

    Args:
        labels: int64 [N], 1 = fake.
        reference: float [N].
        candidate: float [N].
        videos: int64 [N], or None.

    Raises:
        LpxError: One class only, or NaN scores.
    """
    delong = auc_difference(labels, reference, candidate)
    if videos is None or len(np.unique(videos)) == len(videos):
        return PairedDifference(delong, None)
    try:
        return PairedDifference(
            delong, auc_difference_bootstrap(labels, reference, candidate, videos)
        )
    except LpxError as error:
        note = "DeLong's interval decides, and is too narrow for faces that share videos"
        return PairedDifference(delong, None, f"{error.what}; {note}")


def overall(verdicts: list[Verdict]) -> Verdict:
    """One verdict for all candidates: the worst.

    Args:
        verdicts: Of the candidates. It takes at least one to decide anything: without, the answer
            is "undecided".
    """
    return max(verdicts, key=VERDICTS.index, default="undecided")
