"""Intervals for data whose estimated variance is 0.

If two engines both separate ten faces perfectly, that does not show that no face will ever be
ranked wrongly, but DeLong's variance is 0, and so is that of bootstrap resamples: Obuchowski and
Lieber, Academic Radiology 9 (2002), warn of this at an AUC of 1.

An AUC has an exact, distribution-free bound. Among m fakes and n reals there are min(m, n) pairs
that share no face. If each of them is ranked alike with probability p, all are with probability
p^min(m, n); so p is at least (alpha / 2)^(1 / min(m, n)). This is the bound of Clopper and Pearson,
Biometrika 26 (1934), for as many successes as trials, about 1 - 3.7 / min(m, n) at 95 % (the "rule
of three" of Hanley and Lippman-Hand, JAMA 249 (1983), two-sided).

For a difference of two AUCs that bound would be wider for two engines that rank all faces alike
than DeLong's interval is for two that rank a few differently. So the smallest observable change is
assumed, as Agresti and Min, Statistics in Medicine 24 (2005), add pseudo-observations to paired
proportions: one fake and one real that swap ranks, with DeLong's standard error sqrt(2) / (m n).
The interval widens as faces become fewer, so that ten faces give no verdict; like DeLong's, it
cannot account for failures that are rarer than one face in the set.
"""

from __future__ import annotations

import math

from lpx.metrics.intervals import Interval, normal_quantile


def exact_interval(auc: float, pairs: int, confidence: float) -> Interval:
    """Return the exact interval of an AUC if every fake/real pair is ranked alike.

    Args:
        auc: 1, 0, or 0.5 if all scores are equal.
        pairs: Number of pairs that share no face: that of the smaller class, at least 1.
        confidence: Coverage of the interval, in (0, 1).
    """
    # If all pairs are ranked alike, this is the smallest share that is still consistent with it
    # (Clopper and Pearson).
    share = ((1.0 - confidence) / 2) ** (1 / pairs)
    return Interval(auc, share * auc, 1.0 - share * (1.0 - auc), "exact")


def one_pair_half_width(fakes: int, reals: int, confidence: float) -> float:
    """Return the half-width of a difference's interval as if one fake/real pair had swapped ranks.

    Args:
        fakes: Number of fake faces, or of groups with fakes, at least 1.
        reals: Number of real faces, or of groups with reals, at least 1.
        confidence: Nominal coverage of the interval, in (0, 1).
    """
    return normal_quantile(confidence) * math.sqrt(2) / (fakes * reals)
