"""Parity: does a candidate still separate real from fake as the reference does?"""

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

# Non-inferiority margin: AUC that a candidate may lose.
MARGIN = 0.005
# Lin's concordance of scores below which agreement is poor: see `lpx.metrics.agreement`.
CONCORDANCE = 0.9
# Independent groups of a class below which nothing is decided. Intervals over few resampled groups
# are too narrow (Cameron, Gelbach and Miller, Review of Economics and Statistics 90, 2008).
MIN_GROUPS = 10
# Best first: the index in it orders verdicts.
VERDICTS: tuple[Verdict, ...] = ("holds", "undecided", "uninformative", "fails")

# Class that the reference scores higher; "none" if neither is shown to be higher.
Direction = Literal["fake higher", "real higher", "none"]


@dataclass(frozen=True)
class Discrimination:
    """Discrimination between the classes by the reference, on the faces of a bench.

    Attributes:
        auc: AUC with its 95 % interval: see `auc_over_groups`.
        direction: "fake higher" if the interval is above 0.5, "real higher" if it is below (the
            classes look reversed), "none" if it includes 0.5.
        fake_groups: Number of independent groups (videos, people) with fake faces.
        real_groups: Number of independent groups with real faces.
    """

    auc: Interval
    direction: Direction
    fake_groups: int
    real_groups: int

    @property
    def few_groups(self) -> bool:
        """True if a class has too few independent groups to decide anything."""
        return min(self.fake_groups, self.real_groups) < MIN_GROUPS

    def oriented(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels, 1 = the class that the reference scores higher."""
        # AUC of the flipped labels is 1 minus the AUC, so a loss stays a loss.
        return 1 - labels if self.direction == "real higher" else labels


@dataclass(frozen=True)
class PairedDifference:
    """A difference of AUCs with both intervals.

    Attributes:
        delong: Difference with DeLong's interval (assumes independent faces).
        bootstrap: Difference with the interval over resampled groups; None if no group has two
            faces or a class has too few groups.
        note: Reason why there is no bootstrap interval although faces share groups; otherwise "".
    """

    delong: Interval
    bootstrap: Interval | None
    note: str = ""

    @property
    def deciding(self) -> Interval:
        """The interval that decides the verdict: over groups if there is one."""
        return self.bootstrap or self.delong


@dataclass(frozen=True)
class ParityResult:
    """Comparison of a candidate with the reference on the same faces.

    Attributes:
        auc: AUC of the candidate, with its 95 % interval: see `auc_over_groups`.
        difference: Gain of AUC (negative: loss) in the direction that the reference shows:
            AUC(candidate) - AUC(reference), or its negative if the reference scores real faces
            higher.
        concordance: Lin's concordance of the scores, with its 95 % interval.
        score_range: The candidate's lowest and highest score.
        dead: True if all faces get one score, although the reference's scores vary.
        verdict: Verdict of `judge`.
        faces_needed: Number of faces that would probably decide the verdict; None if that cannot
            be estimated.
        score_difference: |score difference|, in [0, 1].
        flips: Faces on the other side of the threshold.
        maps: Agreement of the patch maps.
    """

    auc: Interval
    difference: PairedDifference
    concordance: Interval
    score_range: tuple[float, float]
    dead: bool
    verdict: Verdict
    faces_needed: int | None
    score_difference: ScoreDifference
    flips: Flips
    maps: MapAgreement

    @property
    def auc_difference(self) -> Interval:
        """The difference with the 95 % interval that decides the verdict."""
        return self.difference.deciding


def discrimination(
    labels: NDArray[np.int64],
    scores: NDArray[np.floating[Any]],
    groups: NDArray[np.int64] | None,
) -> Discrimination:
    """Measure how a reference tells the classes apart.

    Args:
        labels: int64 [N], 1 = fake.
        scores: float [N], the reference's.
        groups: int64 [N], the same number for faces that depend on each other; None if every face
            is a group of its own.

    Raises:
        LpxError: One class only, or NaN scores.
    """
    # Without groups every face is independent.
    own = np.arange(len(labels)) if groups is None else groups
    fake_groups, real_groups = (len(np.unique(own[labels == label])) for label in (1, 0))
    auc = auc_over_groups(labels, scores, groups)
    direction: Direction = "none"
    # By the interval and not the estimate: a direction by chance would turn noise into a verdict.
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
    """Return an AUC with its 95 % interval: over resampled groups if faces share them, or DeLong's.

    Args:
        labels: int64 [N], 1 = fake.
        scores: float [N].
        groups: int64 [N], or None.

    Raises:
        LpxError: One class only, or NaN scores.
    """
    if groups is not None and len(np.unique(groups)) < len(groups):
        # A class may have too few groups to resample. DeLong's interval is too narrow then, but no
        # verdict is given with so few groups.
        with suppress(LpxError):
            return auc_interval_bootstrap(labels, scores, groups)
    return auc_interval(labels, scores)


def judge(
    truth: Discrimination,
    gain: Interval,
    margin: float,
    agreement: Interval | None = None,
    *,
    dead: bool = False,
) -> Verdict:
    """Decide parity: no AUC lost beyond the margin, and scores that follow the reference.

    Args:
        truth: Discrimination by the reference.
        gain: Gain of AUC in the reference's direction, with its interval.
        margin: AUC that may be lost, in [0, 1].
        agreement: Concordance of the scores; None judges the AUC alone.
        dead: True if the candidate gives all faces one score.

    Returns:
        "fails" if the candidate is dead or the concordance's interval is below `CONCORDANCE`.
        Otherwise "undecided" with fewer than `MIN_GROUPS` groups of a class, and "uninformative"
        if the reference is not shown to tell the classes apart. Otherwise the worse of two: the
        difference's interval against -margin, the concordance's against `CONCORDANCE`.
    """
    scores: Verdict = "holds"
    if agreement is not None:
        scores = _above(agreement.low, agreement.high, CONCORDANCE)
    # An engine that gives one score to all faces fails whatever its intervals say.
    if dead or scores == "fails":
        return "fails"
    of_auc = verdict(gain, margin)
    # Scores that are equal but for rounding need no groups: nothing is left to vary.
    same = agreement is not None and is_identical(agreement) and of_auc == "holds"
    # Before the direction, which is not known either with so few groups.
    if truth.few_groups and not (same and truth.direction != "none"):
        return "undecided"
    if truth.direction == "none":
        return "uninformative"
    # The worse of the two decides.
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
    *,
    confidence: float = 0.95,
) -> ParityResult:
    """Compare two predictions of the same faces.

    Args:
        labels: int64 [N], 1 = fake.
        reference: Predictions of the PyTorch checkpoint, or of the previous stage.
        candidate: Predictions of an engine.
        threshold: Operating point at which decisions may flip.
        margin: AUC that may be lost.
        groups: int64 [N], as `lpx.metrics.independent_groups` numbers them; None if every face is
            a group of its own.
        truth: Discrimination by the checkpoint; None if `reference` is the checkpoint.
        confidence: Nominal coverage of the difference's intervals.

    Raises:
        LpxError: One class only, or NaN scores.
    """
    truth = truth or discrimination(labels, reference.score, groups)
    oriented = truth.oriented(labels)
    change = difference(oriented, reference.score, candidate.score, groups, confidence)
    agreement = concordance(reference.score, candidate.score, groups)
    # Told apart from a low agreement, as the remedy is another one.
    dead = is_dead(reference.score, candidate.score)
    decided = judge(truth, change.deciding, margin, agreement, dead=dead)
    needed = None
    # More faces help only if the AUC's interval is what leaves the verdict open.
    if decided == verdict(change.deciding, margin) == "undecided" and not truth.few_groups:
        needed = faces_needed(change.deciding, len(labels), margin)
    return ParityResult(
        auc=auc_over_groups(labels, candidate.score, groups),
        difference=change,
        concordance=agreement,
        score_range=(float(candidate.score.min()), float(candidate.score.max())),
        dead=dead,
        verdict=decided,
        faces_needed=needed,
        score_difference=score_difference(reference.score, candidate.score),
        flips=flips(reference.score, candidate.score, threshold),
        maps=map_agreement(reference.patch_map, candidate.patch_map),
    )


def difference(
    labels: NDArray[np.int64],
    reference: NDArray[np.floating[Any]],
    candidate: NDArray[np.floating[Any]],
    groups: NDArray[np.int64] | None,
    confidence: float = 0.95,
) -> PairedDifference:
    """Return AUC(candidate) - AUC(reference) with each interval that applies.

    Args:
        labels: int64 [N], 1 = the class that scores higher.
        reference: float [N].
        candidate: float [N].
        groups: int64 [N], or None.
        confidence: Nominal coverage of the intervals.

    Raises:
        LpxError: One class only, or NaN scores.
    """
    delong = auc_difference(labels, reference, candidate, confidence)
    # If every face is a group of its own, resampling them would repeat DeLong's interval at a cost.
    if groups is None or len(np.unique(groups)) == len(groups):
        return PairedDifference(delong, None)
    try:
        bootstrap = auc_difference_bootstrap(
            labels, reference, candidate, groups, confidence=confidence
        )
        return PairedDifference(delong, bootstrap)
    # The classes may have too few groups to resample, which must not cost the other results.
    except LpxError as error:
        note = "DeLong's interval is shown; it is too narrow if faces share a video or a person"
        return PairedDifference(delong, None, f"{error.what}; {note}")


def overall(verdicts: list[Verdict]) -> Verdict:
    """Return the worst verdict of all candidates, "undecided" if there are none."""
    return max(verdicts, key=VERDICTS.index, default="undecided")
