"""Plans that are predicted to hold, the fastest first: a knapsack, then a local search.

Each group in INT8 saves time and costs AUC. The knapsack takes both as sums, and keeps for every
loss the plan that saves most (dynamic programming over losses in steps). Its plans are starting
points: the local search moves single groups and exchanges pairs of them, and judges every plan by
its predicted scores.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lpx.metrics import Interval

# Resolution of predicted losses in the knapsack: the allowed loss has this many steps.
_STEPS = 400
# Sweeps of the local search; usually a few until no move is better.
_SWEEPS = 20
# Groups on either side of an exchange: their number of pairs grows with its square.
_EXCHANGED = 20

Groups = frozenset[str]


@dataclass(frozen=True)
class Candidate:
    """A plan with its predictions.

    Attributes:
        int8: Names of the groups in INT8.
        difference: Predicted AUC(plan) - AUC(float), with its 95 % interval.
        latency_ms: Predicted latency, ms per face.
    """

    int8: Groups
    difference: Interval
    latency_ms: float


@dataclass(frozen=True)
class Judge:
    """How plans are judged.

    Attributes:
        difference: Predicts AUC(plan) - AUC(float).
        latency: Predicts latency, ms per face.
    """

    difference: Callable[[Collection[str]], Interval]
    latency: Callable[[Collection[str]], float]

    def candidate(self, int8: Iterable[str]) -> Candidate:
        """Return a plan with its predictions."""
        groups = frozenset(int8)
        return Candidate(groups, self.difference(groups), self.latency(groups))


def propose(
    names: Sequence[str], judge: Judge, margins: Sequence[float], fixed: Collection[str] = ()
) -> tuple[Candidate, ...]:
    """Return the fastest plan whose predicted interval is above each -margin.

    Args:
        names: Groups that may be in INT8.
        judge: Predictions.
        margins: Losses of AUC that are tolerated, in any order.
        fixed: Groups of `names` that stay in float.

    Returns:
        Plans without repetition, from the smallest margin on; a margin that only float meets gives
        no plan.
    """
    free = [name for name in names if name not in fixed]
    seen: dict[Groups, Candidate] = {}

    def judged(int8: Iterable[str]) -> Candidate:
        groups = frozenset(int8)
        if groups not in seen:
            seen[groups] = judge.candidate(groups)
        return seen[groups]

    proposals: dict[Groups, Candidate] = {}
    for margin in sorted(margins):
        best = _search(free, judged, margin)
        if best is not None and best.int8:
            proposals[best.int8] = best
    return tuple(proposals.values())


def _search(
    free: Sequence[str], judged: Callable[[Iterable[str]], Candidate], margin: float
) -> Candidate | None:
    """Return the fastest plan that is predicted to hold; None if no plan with INT8 is."""
    best: Candidate | None = None
    for start in _starts(free, judged, margin):
        found = _climb(free, judged, start, margin)
        if found is not None and (best is None or found.latency_ms < best.latency_ms):
            best = found
    return best


def _starts(
    free: Sequence[str], judged: Callable[[Iterable[str]], Candidate], margin: float
) -> Iterator[Groups]:
    everything = judged(free)
    yield everything.int8
    if everything.difference.low > -margin:
        return
    nothing = judged(())
    saved, lost = {}, {}
    for name in free:
        # Against all others in INT8: borders between INT8 and float cost time of their own.
        without = judged(everything.int8 - {name})
        alone = judged((name,))
        saved[name] = max(without.latency_ms - everything.latency_ms, 0.0) + max(
            nothing.latency_ms - alone.latency_ms, 0.0
        )
        # Both ways too: alone, and what it adds to the others.
        lost[name] = max(
            -alone.difference.estimate,
            without.difference.estimate - everything.difference.estimate,
            0.0,
        )
    for share in (1.0, 0.7, 0.4, 0.2):
        yield knapsack(saved, lost, share * margin)
    yield frozenset()


def knapsack(saved: Mapping[str, float], lost: Mapping[str, float], most: float) -> Groups:
    """Return the groups that save most, with a sum of losses of at most `most`.

    Args:
        saved: Time that each group saves, >= 0.
        lost: AUC that each group loses, >= 0.
        most: Largest sum of losses.
    """
    step = most / _STEPS if most > 0 else 1.0
    best = np.zeros(_STEPS + 1)
    taken = np.zeros((len(saved), _STEPS + 1), bool)
    names = list(saved)
    weights = [int(np.ceil(lost[name] / step)) for name in names]
    for row, name in enumerate(names):
        weight = weights[row]
        if weight > _STEPS or saved[name] <= 0:
            continue
        moved = np.full_like(best, -np.inf)
        moved[weight:] = best[: _STEPS + 1 - weight] + saved[name]
        taken[row] = moved > best
        best = np.maximum(best, moved)
    chosen, left = set(), _STEPS if most > 0 else 0
    for row in reversed(range(len(names))):
        if taken[row, left]:
            chosen.add(names[row])
            left -= weights[row]
    return frozenset(chosen)


def _climb(
    free: Sequence[str],
    judged: Callable[[Iterable[str]], Candidate],
    start: Groups,
    margin: float,
) -> Candidate | None:
    """Move and exchange groups while that helps: first until the plan holds, then for time."""
    now = judged(start)
    for _ in range(_SWEEPS):
        better = _best_move(free, judged, now, margin)
        if better is None:
            break
        now = better
    return now if _holds(now, margin) and now.int8 else None


def _best_move(
    free: Sequence[str], judged: Callable[[Iterable[str]], Candidate], now: Candidate, margin: float
) -> Candidate | None:
    moves = {name: judged(now.int8 ^ {name}) for name in free}
    best = min((now, *moves.values()), key=lambda one: _rank(one, margin, now))
    if best is not now:
        return best
    # Exchanges only where no single move helps: there are many more of them. Those groups are
    # tried whose move alone gains most AUC, or saves most time.
    inside = [name for name in free if name in now.int8]
    inside.sort(key=lambda name: -moves[name].difference.low)
    outside = [name for name in free if name not in now.int8]
    outside.sort(key=lambda name: moves[name].latency_ms)
    inside, outside = inside[:_EXCHANGED], outside[:_EXCHANGED]
    exchanges = []
    for name in inside:
        for other in outside:
            exchanges.append(judged((now.int8 - {name}) | {other}))
    best = min((now, *exchanges), key=lambda one: _rank(one, margin, now))
    return None if best is now else best


def _rank(candidate: Candidate, margin: float, now: Candidate) -> tuple[bool, float]:
    """Order plans that hold by latency, and those that do not by AUC gained per time lost."""
    if _holds(candidate, margin):
        return False, candidate.latency_ms
    gained = candidate.difference.low - now.difference.low
    slower = max(candidate.latency_ms - now.latency_ms, 1e-9)
    return True, -gained / slower if candidate is not now else 0.0


def _holds(candidate: Candidate, margin: float) -> bool:
    return candidate.difference.low > -margin
