"""Error of a tensor relative to a reference."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TensorError:
    """Error d of a tensor relative to the reference x, over all faces.

    Attributes:
        max_abs: Largest |d|.
        mean_abs: Mean |d|.
        relative: ||d|| / ||x||; infinite if there are values that are not finite, or if x is zero
            and d is not.
        cosine: Cosine similarity of the two tensors; 1 if both are zero.
        not_finite: Number of values that are NaN or infinite in either tensor. Equal infinities, as
            in the mask of an attention, are not counted.
    """

    max_abs: float
    mean_abs: float
    relative: float
    cosine: float
    not_finite: int

    @property
    def sqnr_db(self) -> float:
        """Signal-to-quantisation-noise ratio, 20 log10(||x|| / ||d||), dB; infinite if d is 0."""
        if self.relative == 0:
            return math.inf
        if not math.isfinite(self.relative):
            return -math.inf
        return -20 * math.log10(self.relative)


class ErrorSum:
    """Sums over batches from which a `TensorError` is computed."""

    def __init__(self) -> None:
        self.count = 0
        self.not_finite = 0
        self.max_abs = 0.0
        self.abs = self.difference = self.truth = self.other = self.product = 0.0

    def add(self, truth: NDArray[np.floating], values: NDArray[np.floating]) -> None:
        """Add a batch.

        Args:
            truth: The reference.
            values: The tensor, of the same shape.
        """
        x, y = truth.astype(np.float64).ravel(), values.astype(np.float64).ravel()
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            # NaN differs from itself, and so is counted even where both are NaN.
            self.not_finite += int(np.count_nonzero(~finite & (x != y)))
            x, y = x[finite], y[finite]
        if not len(x):
            return
        d = np.abs(y - x)
        self.count += len(x)
        self.max_abs = max(self.max_abs, float(d.max()))
        self.abs += float(d.sum())
        self.difference += float(d @ d)
        self.truth += float(x @ x)
        self.other += float(y @ y)
        self.product += float(x @ y)

    def result(self) -> TensorError:
        """Return the error over all batches."""
        relative = 0.0
        if self.not_finite or (self.difference and not self.truth):
            relative = math.inf
        elif self.truth:
            relative = math.sqrt(self.difference / self.truth)
        # Both zero count as equal.
        cosine = float(not self.difference)
        if norms := math.sqrt(self.truth * self.other):
            # Rounding may lead beyond 1.
            cosine = min(1.0, self.product / norms)
        return TensorError(
            max_abs=self.max_abs,
            mean_abs=self.abs / max(self.count, 1),
            relative=relative,
            cosine=cosine,
            not_finite=self.not_finite,
        )
