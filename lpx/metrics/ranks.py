"""Placements: how many scores of one class lie below each score of the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lpx.metrics.inputs import Floats


def doubled_placements(scores: Floats, others: Floats) -> NDArray[np.int64]:
    """Count, for each score, the others below it twice and the others equal to it once.

    Halved, this is the score's mid-rank in the pooled sample less its mid-rank among its own
    class (Sun and Xu 2014, eq. 5). Doubled, it stays an integer, so that sums are exact and
    the placements of tied or identical scores cancel without rounding.

    Args:
        scores: float [m].
        others: float [n].

    Returns:
        int64 [m], each in [0, 2n].
    """
    ascending = np.argsort(scores)
    # Searched for in order, neighbours touch neighbouring memory: far faster on millions.
    wanted, ordered = scores[ascending], np.sort(others)
    doubled = np.empty(len(scores), dtype=np.int64)
    doubled[ascending] = np.searchsorted(ordered, wanted, side="left")
    doubled[ascending] += np.searchsorted(ordered, wanted, side="right")
    return doubled
