"""Intervals where nothing varies, and every estimate of a variance is 0.

Two perfect separations of ten faces do not show that no face will ever be on the wrong side, but
DeLong's variance is 0 there, as is that of resamples: Obuchowski and Lieber, Academic Radiology 9
(2002), warn of it at an AUC of 1.

An AUC has an exact bound, without any distribution. Of m fakes and n reals, min(m, n) pairs share
no face. If a pair shows what all of them show with probability p, that had the probability
p^min(m, n); so p is at least (alpha / 2)^(1 / min(m, n)): the bound of Clopper and Pearson,
Biometrika 26 (1934), for as many successes as trials, and about 1 - 3.7 / min(m, n) at 95 % (the
"rule of three" of Hanley and Lippman-Hand, JAMA 249 (1983), two-sided).

For a difference of two AUCs that bound would say less of two engines none of whose faces changed
places than DeLong's interval does where a few did. So the least change that could have been seen is
added, as Agresti and Min, Statistics in Medicine 24 (2005), add pseudo-observations to paired
proportions: one pair of a fake and a real that changed places. DeLong's standard error of that is
sqrt(2) / (m n). It widens with few faces and lets none of ten decide; like DeLong's own it knows
nothing of failures that are rarer than one face in the set.
"""

from __future__ import annotations

import math
from statistics import NormalDist


def exact_ends(auc: float, pairs: int, confidence: float) -> tuple[float, float]:
    """The exact interval of an AUC that every pair of a fake and a real shows alike.

    Args:
        auc: 1, 0, or 0.5 where all scores are equal.
        pairs: Pairs that share no face: as many as the smaller class has, at least 1.
        confidence: The interval's coverage, in (0, 1).
    """
    share = ((1.0 - confidence) / 2) ** (1 / pairs)
    return share * auc, 1.0 - share * (1.0 - auc)


def one_pair_reach(fakes: int, reals: int, confidence: float) -> float:
    """Half the width of the interval of a difference as if one pair had changed places.

    Args:
        fakes: Fake faces, or groups that hold some, at least 1.
        reals: Real ones, at least 1.
        confidence: The interval's nominal coverage, in (0, 1).
    """
    return NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(2) / (fakes * reals)
