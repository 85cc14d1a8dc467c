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
from lpx.metrics import Interval

ALPHA = 0.05
# The exact distribution of the signed-rank statistic costs N^3; beyond this many rounds the normal
# approximation is closer than anyone can read.
_EXACT_UP_TO = 60


SpeedVerdict = Literal["faster", "slower", "inconclusive"]


@dataclass(frozen=True)
class SpeedTest:
    """Time of A / time of B, paired by round: below 1 if A is faster.

    Attributes:
        ratio: Hodges-Lehmann estimate (the pseudo-median over rounds) with its 95 % interval;
            both ends are infinite with fewer than six rounds.
        p_value: Wilcoxon's signed-rank test of "neither is faster", two-sided.
        rounds: Number of pairs.
        verdict: "faster" or "slower" (A than B) if the interval excludes 1, else "inconclusive";
            None with fewer than six rounds, which cannot reject anything.
    """

    ratio: Interval
    p_value: float
    rounds: int
    verdict: SpeedVerdict | None


def compare_speed(a: Samples, b: Samples) -> SpeedTest:
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
    # Logarithms: a ratio and its inverse are equally far from 1.
    logs = np.log([ours[number] / theirs[number] for number in shared])
    return signed_rank(logs)


def signed_rank(logs: NDArray[np.float64]) -> SpeedTest:
    """Estimate, interval and test from the logarithms of paired ratios.

    The interval holds every ratio that the test would not reject: its ends are order statistics of
    the Walsh averages (Hollander, Wolfe and Chicken, "Nonparametric Statistical Methods", 3.2-3.3).

    Args:
        logs: One per pair, float64 [N].
    """
    count = len(logs)
    # Means of all pairs, each with itself too.
    rows, columns = np.triu_indices(count)
    walsh = np.sort((logs[rows] + logs[columns]) / 2)
    cumulative = _cumulative(count)
    # Ties with 0 count half to either side.
    statistic = float((walsh > 0).sum() + (walsh == 0).sum() / 2)
    smaller = math.floor(min(statistic, len(walsh) - statistic))
    p_value = min(1.0, 2 * float(cumulative[smaller]))
    outside = int(np.searchsorted(cumulative, ALPHA / 2, side="right")) - 1
    estimate = math.exp(float(np.median(walsh)))
    if outside < 0:
        # Fewer than six rounds: even if all agree, that happens by chance too often to bound it.
        return SpeedTest(Interval(estimate, -math.inf, math.inf), p_value, count, None)
    low = math.exp(walsh[outside])
    high = math.exp(walsh[len(walsh) - 1 - outside])
    verdict: SpeedVerdict = "inconclusive"
    if high < 1:
        verdict = "faster"
    elif low > 1:
        verdict = "slower"
    return SpeedTest(Interval(estimate, low, high), p_value, count, verdict)


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
