"""Whether a candidate still separates real from fake as the reference does."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lpx.engines.base import Prediction
from lpx.errors import LpxError
from lpx.metrics import (
    Flips,
    Interval,
    MapAgreement,
    ScoreDifference,
    Verdict,
    auc_difference,
    auc_difference_bootstrap,
    auc_interval,
    auc_interval_bootstrap,
    concordance,
    faces_needed,
    flips,
    is_dead,
    is_identical,
    map_agreement,
    score_difference,
    verdict,
)

MARGIN = 0.005
"""How much AUC a candidate may lose: non-inferiority by half a point."""
CONCORDANCE = 0.9
"""Lin's concordance of scores below which agreement is poor: see `lpx.metrics.agreement`."""
MIN_GROUPS = 10
"""Independent groups of a class below which nothing is decided.

Intervals over resampled groups are too narrow with few of them; with under ten they say little
(Cameron, Gelbach and Miller, Review of Economics and Statistics 90, 2008).
"""
VERDICTS: tuple[Verdict, ...] = ("holds", "undecided", "uninformative", "fails")
"""Best first."""

Direction = Literal["fake higher", "real higher", "none"]
"""Which class the reference scores higher; "none" where that is not shown."""


@dataclass(frozen=True)
class Discrimination:
    """How the reference tells the classes apart on the faces of a bench.

    Attributes:
        auc: With its 95 % interval: see `auc_over_groups`.
        direction: "fake higher" where the interval lies above 0.5, "real higher" where it lies
            below (the classes look reversed), "none" where it includes 0.5.
        fake_groups: Independent groups (videos, people) that hold fake faces.
        real_groups: Those that hold real faces.
    """

    auc: Interval
    direction: Direction
    fake_groups: int
    real_groups: int

    @property
    def few_groups(self) -> bool:
        """Whether a class has too few independent groups to decide anything."""
        return min(self.fake_groups, self.real_groups) < MIN_GROUPS

    def oriented(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The labels, 1 = the class that the reference scores higher."""
        return 1 - labels if self.direction == "real higher" else labels


@dataclass(frozen=True)
class ParityResult:
    """A candidate against the reference, on the same faces.

    Attributes:
        auc: AUC of the candidate, with its 95 % interval: see `auc_over_groups`.
        auc_difference: What the candidate gains (or, negative, loses) in the direction that the
            reference shows, with the 95 % interval that decides: AUC(candidate) - AUC(reference),
            or its negative where the reference scores real faces higher.
        delong: The same with DeLong's interval, which takes faces to be independent.
        bootstrap: The same with the interval over resampled groups; None where no group has two
            faces, or where it cannot be computed. Where there is one, it decides.
        note: What is wrong with the interval that decides; "" where nothing.
        concordance: Of the scores, with its 95 % interval.
        score_range: The candidate's lowest and highest score.
        dead: All faces get one score, though the reference's scores vary.
        verdict: See `judge`.
        faces_needed: Faces that would probably decide it, None where that cannot be said.
        score_difference: |score difference|, in [0, 1].
        flips: Faces on the other side of the threshold.
        maps: Agreement of the patch maps.
    """

    auc: Interval
    auc_difference: Interval
    delong: Interval
    bootstrap: Interval | None
    note: str
    concordance: Interval
    score_range: tuple[float, float]
    dead: bool
    verdict: Verdict
    faces_needed: int | None
    score_difference: ScoreDifference
    flips: Flips
    maps: MapAgreement


def discrimination(
    labels: NDArray[np.int64],
    scores: NDArray[np.floating[Any]],
    groups: NDArray[np.int64] | None,
) -> Discrimination:
    """How a reference tells the classes apart.

    Args:
        labels: int64 [N], 1 = fake.
        scores: float [N], the reference's.
        groups: int64 [N], faces that depend on each other having one number; None where every face
            is a group of its own.

    Raises:
        LpxError: One class only, or NaN scores.
    """
    own = np.arange(len(labels)) if groups is None else groups
    fake_groups, real_groups = (len(np.unique(own[labels == label])) for label in (1, 0))
    auc = auc_over_groups(labels, scores, groups)
    direction: Direction = "none"
    if auc.low > 0.5:
        direction = "fake higher"
    elif auc.high < 0.5:
        direction = "real higher"
    return Discrimination(auc, direction, fake_groups, real_groups)


def auc_over_groups(
    labels: NDArray[np.int64],
    scores: NDArray[np.floating[Any]],
    groups: NDArray[np.int64] | None,
) -> Interval:
    """An AUC with its 95 % interval: over resampled groups where faces share them, else DeLong's.

    DeLong's also where a class has too few groups to resample: no verdict is given there.

    Args:
        labels: int64 [N], 1 = fake.
        scores: float [N].
        groups: int64 [N], or None.

    Raises:
        LpxError: One class only, or NaN scores.
    """
    if groups is not None and len(np.unique(groups)) < len(groups):
        with suppress(LpxError):
            return auc_interval_bootstrap(labels, scores, groups)
    return auc_interval(labels, scores)


def judge(
    truth: Discrimination,
    found: Interval,
    margin: float,
    agreement: Interval | None = None,
    *,
    dead: bool = False,
) -> Verdict:
    """Decide parity: no AUC lost beyond the margin, and scores that follow the reference.

    Args:
        truth: How the reference tells the classes apart.
        found: The gain of AUC in the reference's direction, with its interval.
        margin: AUC that may be lost, in [0, 1].
        agreement: Concordance of the scores; None judges the AUC alone.
        dead: The candidate gives all faces one score.

    Returns:
        "fails" where the candidate is dead or the concordance's interval lies below
        `CONCORDANCE`. Else "undecided" with fewer than `MIN_GROUPS` groups of a class, and
        "uninformative" where the reference is not shown to tell the classes apart. Else the worse
        of two: the difference's interval against -margin, the concordance's against `CONCORDANCE`.
        Scores that are the same but for rounding need no groups: nothing is left to vary.
    """
    scores: Verdict = "holds"
    if agreement is not None:
        scores = _above(agreement.low, agreement.high, CONCORDANCE)
    if dead or scores == "fails":
        return "fails"
    of_auc = verdict(found, margin)
    same = agreement is not None and is_identical(agreement) and of_auc == "holds"
    if truth.few_groups and not (same and truth.direction != "none"):
        return "undecided"
    if truth.direction == "none":
        return "uninformative"
    return max(of_auc, scores, key=VERDICTS.index)


def _above(low: float, high: float, bound: float) -> Verdict:
    if low >= bound:
        return "holds"
    return "fails" if high < bound else "undecided"


def compare(
    labels: NDArray[np.int64],
    reference: Prediction,
    candidate: Prediction,
    threshold: float,
    margin: float = MARGIN,
    groups: NDArray[np.int64] | None = None,
    truth: Discrimination | None = None,
) -> ParityResult:
    """Compare two predictions of the same faces.

    Args:
        labels: int64 [N], 1 = fake.
        reference: Of the PyTorch checkpoint, or of the stage before.
        candidate: Of an engine.
        threshold: Operating point at which verdicts may flip.
        margin: AUC that may be lost.
        groups: int64 [N], as `lpx.metrics.independent_groups` numbers them; None where every face
            is one of its own.
        truth: How the checkpoint tells the classes apart; None where `reference` is the checkpoint.

    Raises:
        LpxError: One class only, or NaN scores.
    """
    truth = truth or discrimination(labels, reference.score, groups)
    found = difference(truth.oriented(labels), reference.score, candidate.score, groups)
    agreement = concordance(reference.score, candidate.score, groups)
    dead = is_dead(reference.score, candidate.score)
    decided = judge(truth, found.deciding, margin, agreement, dead=dead)
    of_auc = verdict(found.deciding, margin)
    return ParityResult(
        auc=auc_over_groups(labels, candidate.score, groups),
        auc_difference=found.deciding,
        delong=found.delong,
        bootstrap=found.bootstrap,
        note=found.note,
        concordance=agreement,
        score_range=(float(candidate.score.min()), float(candidate.score.max())),
        dead=dead,
        verdict=decided,
        faces_needed=faces_needed(found.deciding, len(labels), margin)
        if decided == of_auc == "undecided" and not truth.few_groups
        else None,
        score_difference=score_difference(reference.score, candidate.score),
        flips=flips(reference.score, candidate.score, threshold),
        maps=map_agreement(reference.patch_map, candidate.patch_map),
    )


@dataclass(frozen=True)
class PairedDifference:
    """A difference of AUCs with both intervals.

    Attributes:
        delong: For independent faces.
        bootstrap: Over resampled groups; None where no group has two faces or a class has too few.
        note: Why there is no bootstrap interval although faces share groups; otherwise "".
    """

    delong: Interval
    bootstrap: Interval | None
    note: str = ""

    @property
    def deciding(self) -> Interval:
        """The interval that a verdict is read off: over groups where there is one."""
        return self.bootstrap or self.delong


def difference(
    labels: NDArray[np.int64],
    reference: NDArray[np.floating[Any]],
    candidate: NDArray[np.floating[Any]],
    groups: NDArray[np.int64] | None,
) -> PairedDifference:
    """AUC(candidate) - AUC(reference), with each interval that applies.

    Args:
        labels: int64 [N], 1 = the class that scores higher.
        reference: float [N].
        candidate: float [N].
        groups: int64 [N], or None.

    Raises:
        LpxError: One class only, or NaN scores.
    """
    delong = auc_difference(labels, reference, candidate)
    if groups is None or len(np.unique(groups)) == len(groups):
        return PairedDifference(delong, None)
    try:
        return PairedDifference(
            delong, auc_difference_bootstrap(labels, reference, candidate, groups)
        )
    except LpxError as error:
        note = "DeLong's interval is shown, too narrow for faces that share a video or a person"
        return PairedDifference(delong, None, f"{error.what}; {note}")


def overall(verdicts: list[Verdict]) -> Verdict:
    """One verdict for all candidates: the worst.

    Args:
        verdicts: Of the candidates. It takes at least one to decide anything: without, the answer
            is "undecided".
    """
    return max(verdicts, key=VERDICTS.index, default="undecided")
