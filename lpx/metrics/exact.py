"""Bounds where nothing varies, and every estimate of a variance is 0.

Two perfect separations of ten faces do not show that no face will ever be on the wrong side, but
DeLong's variance is 0 there, as is that of resamples: Obuchowski and Lieber, Academic Radiology 9
(2002), warn of the AUC of 1. What can be said then without assuming a distribution is said by faces
that are independent. Of m fakes and n reals, min(m, n) pairs share no face. If all of them show the
same where a pair shows it with probability p, that had the probability p^min(m, n); so p is at
least (alpha / 2)^(1 / min(m, n)), which is the bound of Clopper and Pearson, Biometrika 26 (1934),
for as many successes as trials, and about 1 - 3.7 / min(m, n) at 95 % (the "rule of three" of
Hanley and Lippman-Hand, JAMA 249 (1983), two-sided). It holds for every distribution, and is
reached where what may go wrong are single faces. Newcombe's interval, Statistics in Medicine 25
(2006), is half as wide at an AUC of 1, but rests on a model of the scores.
"""

from __future__ import annotations


def unvaried(
    value: float, pairs: int, confidence: float, least: float, greatest: float
) -> tuple[float, float]:
    """The interval of a mean over pairs of a fake and a real, all of which show the same.

    Args:
        value: What they show: the estimate.
        pairs: Pairs that share nothing: as many as the smaller class has; 0 bounds nothing.
        confidence: The interval's coverage, in (0, 1).
        least: What a pair may show at least: 0 for an AUC, -1 for a difference of two.
        greatest: What it may show at most.
    """
    share = ((1.0 - confidence) / 2) ** (1 / pairs) if pairs else 0.0
    return share * value + (1.0 - share) * least, share * value + (1.0 - share) * greatest
