"""How far a tensor is from the one that it should be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TensorError:
    """How far a tensor is from the reference, over all faces.

    Attributes:
        max_abs: Largest |d|.
        mean_abs: Mean |d|.
        relative: ||d|| / ||x||; infinite where the engine gives NaN or infinity, or x is all zero
            and d is not.
        cosine: Cosine of the two tensors; 1 where both are zero.
        not_finite: Values that are NaN or infinite in the engine, or in x alone. Where both are the
            same infinity, as in the mask of an attention, they are left out.
    """

    max_abs: float
    mean_abs: float
    relative: float
    cosine: float
    not_finite: int

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise, 20 log10(||x|| / ||d||), dB; infinite where d is zero."""
        if self.relative == 0:
            return math.inf
        return -20 * math.log10(self.relative) if math.isfinite(self.relative) else -math.inf


class ErrorSum:
    """Sums over batches that a `TensorError` is made from."""

    def __init__(self) -> None:
        self.count = 0
        self.not_finite = 0
        self.max_abs = 0.0
        self.abs = self.difference = self.truth = self.other = self.product = 0.0

    def add(self, truth: NDArray[np.floating], found: NDArray[np.floating]) -> None:
        """Take in a batch: two arrays of one shape; values that are not finite count apart."""
        x, y = truth.astype(np.float64).ravel(), found.astype(np.float64).ravel()
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
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
        """The error over all that was taken in."""
        if self.not_finite or (self.difference and not self.truth):
            relative = math.inf
        else:
            relative = math.sqrt(self.difference / self.truth) if self.truth else 0.0
        norms = math.sqrt(self.truth * self.other)
        cosine = min(1.0, self.product / norms) if norms else float(not self.difference)
        mean = self.abs / self.count if self.count else 0.0
        return TensorError(self.max_abs, mean, relative, cosine, self.not_finite)
