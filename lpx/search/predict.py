"""AUC of any plan, predicted from the shifts of its pieces."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.parity import difference
from lpx.metrics import Interval, auc_difference
from lpx.search.shifts import Shifts
from lpx.search.subject import Subject

Logits = NDArray[np.float64]


class Predictor:
    """Scores of plans: those of the float graph plus the shifts of their pieces.

    Errors do not add up exactly: each is passed on by layers that have errors too. What the sum
    misses for the plan with all pieces, which is measured, is an effect of pairs of pieces; a plan
    has the share of it that its pairs have. Two pieces weigh by the product of the root mean
    squares of their shifts.

    Args:
        subject: The model.
        shifts: Shifts of its pieces.
        whole: Logits of the graph with every piece, float64 [N]; None predicts by the sum alone.
        groups: int64 [N], the same number for faces that depend on each other; None if none do.
            Intervals are widened as much as resampling groups widens that of `whole`.
    """

    def __init__(
        self,
        subject: Subject,
        shifts: Shifts,
        whole: Logits | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        self.subject, self.shifts = subject, shifts
        self._parts: dict[frozenset[str], tuple[str, ...]] = {}
        names = list(shifts.by_piece)
        self._index = {name: row for row, name in enumerate(names)}
        self._matrix = np.array([shifts.by_piece[name] for name in names])
        self._sizes = np.sqrt((self._matrix**2).mean(axis=1))
        self._missed = np.zeros_like(shifts.logits)
        self._all_pairs = 1.0
        if whole is not None:
            rows = self._rows({group.name for group in subject.groups})
            self._missed = whole - shifts.logits - self._matrix[rows].sum(axis=0)
            self._all_pairs = _pairs(self._sizes[rows])
        self._widening = 1.0
        if whole is not None and groups is not None:
            paired = difference(self.oriented, shifts.logits, whole, groups)
            if paired.bootstrap is not None:
                widths = [one.high - one.low for one in (paired.bootstrap, paired.delong)]
                self._widening = max(1.0, widths[0] / max(widths[1], 1e-12))

    def logits(self, int8: Collection[str]) -> Logits:
        """Return the predicted logits of a plan, float64 [N].

        Args:
            int8: Names of the groups in INT8.
        """
        rows = self._rows(int8)
        share = 0.0
        if self._all_pairs > 0:
            share = _pairs(self._sizes[rows]) / self._all_pairs
        total = self.shifts.logits + self._matrix[rows].sum(axis=0) + share * self._missed
        return np.asarray(total, np.float64)

    def difference(self, int8: Collection[str], confidence: float = 0.95) -> Interval:
        """Return the predicted AUC(plan) - AUC(float) with DeLong's interval.

        Args:
            int8: Names of the groups in INT8.
            confidence: Nominal coverage of the interval, in (0, 1).
        """
        found = auc_difference(self.oriented, self.shifts.logits, self.logits(int8), confidence)
        half_width = self._widening * (found.high - found.low) / 2
        return Interval.about(found.estimate, half_width, found.method)

    @cached_property
    def oriented(self) -> NDArray[np.int64]:
        """Labels, int64 [N]: 1 = the class that the float graph scores higher."""
        labels = self.shifts.labels
        means = [self.shifts.logits[labels == label].mean() for label in (0, 1)]
        return labels if means[1] >= means[0] else 1 - labels

    def _rows(self, int8: Collection[str]) -> NDArray[np.int64]:
        key = frozenset(int8)
        if key not in self._parts:
            self._parts[key] = self.subject.parts(key)
        return np.array([self._index[name] for name in self._parts[key]], np.int64)


def _pairs(sizes: NDArray[np.float64]) -> float:
    """Return the sum of products over all pairs of different pieces."""
    return float((sizes.sum() ** 2 - (sizes**2).sum()) / 2)
