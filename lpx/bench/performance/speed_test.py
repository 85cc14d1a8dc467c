"""Whether one engine is faster than another: a paired test over the rounds that both took part in.

Calls within a round share the machine's state, and calls in a row resemble each other: so the
evidence is one ratio of medians per round, not thousands of calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lpx.bench.performance.latency import Samples

ALPHA = 0.05
_EXACT_UP_TO = 60
"""Rounds up to which the signed-rank statistic's distribution is computed exactly."""


@dataclass(frozen=True)
class Comparison:
    """Time of A / time of B, paired by round: below 1 where A is faster.

    Attributes:
        ratio: Hodges-Lehmann estimate (the pseudo-median over rounds).
        low: Lower end of the ratio's 95 % interval; None with fewer than six rounds.
        high: Its upper end.
        p_value: Wilcoxon's signed-rank test of "neither is faster", two-sided.
        rounds: Pairs.
        verdict: "faster" or "slower" (A than B) where the interval leaves out 1, else
            "inconclusive"; None with fewer than six rounds, which cannot reject anything.
    """

    ratio: float
    low: float | None
    high: float | None
    p_value: float
    rounds: int
    verdict: Literal["faster", "slower", "inconclusive"] | None


def compare_speed(a: Samples, b: Samples) -> Comparison:
    """Compare two engines that were timed in one run of `lpx.bench.performance.latency.sample`.

    Args:
        a: Calls of one engine.
        b: Calls of the other.

    Raises:
        ValueError: They share no round.
    """
    ours, theirs = _medians(a), _medians(b)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise ValueError("the engines were not timed in the same rounds")
    logs = np.log([ours[number] / theirs[number] for number in shared])
    return signed_rank(logs)


def signed_rank(logs: NDArray[np.float64]) -> Comparison:
    """Estimate, interval and test from the logarithms of paired ratios.

    The interval holds every ratio that the test would not reject: its ends are order statistics of
    the Walsh averages (Hollander, Wolfe and Chicken, "Nonparametric Statistical Methods", 3.2-3.3).

    Args:
        logs: One per pair, float64 [N].
    """
    count = len(logs)
    rows, columns = np.triu_indices(count)
    walsh = np.sort((logs[rows] + logs[columns]) / 2)
    cumulative = _cumulative(count)
    # Ties with 0 count half to either side.
    statistic = float((walsh > 0).sum() + (walsh == 0).sum() / 2)
    smaller = math.floor(min(statistic, len(walsh) - statistic))
    p_value = min(1.0, 2 * float(cumulative[smaller]))
    outside = int(np.searchsorted(cumulative, ALPHA / 2, side="right")) - 1
    low = high = None
    if outside >= 0:
        low = math.exp(walsh[outside])
        high = math.exp(walsh[len(walsh) - 1 - outside])
    verdict: Literal["faster", "slower", "inconclusive"] | None = None
    if low is not None and high is not None:
        verdict = "faster" if high < 1 else "slower" if low > 1 else "inconclusive"
    return Comparison(math.exp(float(np.median(walsh))), low, high, p_value, count, verdict)


@lru_cache
def _cumulative(count: int) -> NDArray[np.float64]:
    """P(T <= t) of the signed-rank statistic T of `count` pairs, for t from 0 to its largest."""
    most = count * (count + 1) // 2
    if count > _EXACT_UP_TO:
        spread = math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
        cumulative: NDArray[np.float64] = stats.norm.cdf(
            (np.arange(most + 1) + 0.5 - most / 2) / spread
        )
        return cumulative
    chances = np.zeros(most + 1)
    chances[0] = 1.0
    for rank in range(1, count + 1):
        # Each rank is on the positive side or not, with equal chance.
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[:-rank]
        chances = (chances + shifted) / 2
    return np.cumsum(chances)


def _medians(samples: Samples) -> dict[int, float]:
    edges = np.flatnonzero(np.diff(samples.rounds)) + 1
    parts = np.split(samples.times_ms, edges)
    numbers = samples.rounds[np.concatenate([[0], edges]).astype(np.int64)]
    return {int(n): float(np.median(part)) for n, part in zip(numbers, parts, strict=True)}
