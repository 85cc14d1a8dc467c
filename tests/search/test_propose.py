"""The knapsack and the local search, on costs that are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lpx.metrics import Interval
from lpx.search.propose import Judge, knapsack, propose


def judge_of(loss, saved, *, pairs=()):
    """Losses and savings that add up, and extra losses of pairs."""

    def difference(int8):
        total = -sum(loss[name] for name in int8)
        for one, other, extra in pairs:
            if one in int8 and other in int8:
                total -= extra
        return Interval.about(total, 0.001)

    def latency(int8):
        return 10.0 - sum(saved[name] for name in int8)

    return Judge(difference, latency)


def best_of(names, judge, margin):
    """The fastest of all plans that hold, by trying all."""
    plans = []
    for count in range(len(names) + 1):
        for chosen in itertools.combinations(names, count):
            candidate = judge.candidate(chosen)
            if candidate.difference.low > -margin:
                plans.append(candidate)
    return min(plans, key=lambda one: one.latency_ms)


@pytest.mark.parametrize("seed", range(12))
def test_proposals_are_as_fast_as_the_best_of_all_plans(seed):
    random = np.random.default_rng(seed)
    names = [f"g{number}" for number in range(9)]
    loss = dict(zip(names, random.exponential(0.001, 9), strict=True))
    saved = dict(zip(names, random.uniform(-0.05, 1.0, 9), strict=True))
    pairs = [(names[1], names[4], 0.002), (names[2], names[3], -0.0005)]
    judge = judge_of(loss, saved, pairs=pairs)
    (found,) = propose(names, judge, [0.004])
    best = best_of(names, judge, 0.004)
    assert found.difference.low > -0.004
    assert found.latency_ms <= best.latency_ms + 0.05


def test_groups_that_cost_time_in_int8_stay_in_float():
    judge = judge_of({"a": 0.0, "b": 0.0}, {"a": 1.0, "b": -0.5})
    (found,) = propose(["a", "b"], judge, [0.005])
    assert found.int8 == {"a"}


def test_nothing_is_proposed_if_nothing_holds():
    judge = judge_of({"a": 0.1, "b": 0.1}, {"a": 1.0, "b": 1.0})
    assert propose(["a", "b"], judge, [0.005]) == ()


def test_smaller_margins_give_safer_plans():
    names = ["a", "b", "c"]
    judge = judge_of({"a": 0.0005, "b": 0.001, "c": 0.002}, dict.fromkeys(names, 1.0))
    plans = propose(names, judge, [0.005, 0.002, 0.003])
    assert [len(plan.int8) for plan in plans] == sorted(len(plan.int8) for plan in plans)
    assert len(plans) == 3


def test_fixed_groups_stay_in_float():
    judge = judge_of({"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 1.0})
    (found,) = propose(["a", "b"], judge, [0.005], fixed=["a"])
    assert found.int8 == {"b"}


def test_the_knapsack_takes_what_saves_most_within_the_loss():
    saved = {"a": 3.0, "b": 2.0, "c": 2.0, "free": 1.0, "slow": 0.0}
    lost = {"a": 0.003, "b": 0.002, "c": 0.002, "free": 0.0, "slow": 0.0}
    assert knapsack(saved, lost, 0.0041) == {"b", "c", "free"}
    assert knapsack(saved, lost, 0.0) == {"free"}


def test_the_search_stays_short_with_many_groups():
    """Exchanges of all pairs of 120 groups would be 3,600 plans at each step."""
    random = np.random.default_rng(0)
    names = [f"g{number}" for number in range(120)]
    loss = dict(zip(names, random.exponential(0.0003, 120), strict=True))
    saved = dict(zip(names, random.uniform(0.0, 0.1, 120), strict=True))
    plain = judge_of(loss, saved)
    judged = []

    def difference(int8):
        judged.append(int8)
        return plain.difference(int8)

    (found,) = propose(names, Judge(difference, plain.latency), [0.01])
    assert found.difference.low > -0.01
    assert len(judged) < 12_000
    # A relaxed knapsack, which may split a group, saves at least as much as any plan.
    order = sorted(names, key=lambda name: -saved[name] / loss[name])
    left, most = 0.009, 0.0
    for name in order:
        share = min(1.0, left / loss[name])
        most += share * saved[name]
        left -= share * loss[name]
    assert 10.0 - found.latency_ms > 0.97 * most
