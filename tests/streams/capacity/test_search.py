from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lpx.streams.capacity.judge import judge
from lpx.streams.capacity.search import find_most_streams
from tests.streams.capacity.test_judge import BUDGET, samples

HOLDS = judge(samples(np.full(400, 10.0)), BUDGET)
FAILS = replace(HOLDS, verdict="fails", reason="p99 is over 100 ms", late=300)
BARELY = replace(HOLDS, verdict="fails", reason="p99 is over 100 ms", late=5)


class Machine:
    """Carries a number of streams, and may be disturbed in some of its trials."""

    def __init__(self, capacity, disturbed=()):
        self.capacity, self.disturbed = capacity, disturbed
        self.asked = []

    def __call__(self, streams, *, scout):
        number = len(self.asked)
        self.asked.append((streams, scout))
        if number in self.disturbed:
            return replace(BARELY, streams=streams)
        trial = replace(HOLDS if streams <= self.capacity else FAILS, streams=streams)
        if scout and trial.verdict == "holds":
            trial = replace(trial, verdict="undecided")
        return trial


def find(machine, limit=256):
    return find_most_streams(machine, limit, lambda text: None)


@pytest.mark.parametrize("capacity", [*range(20), 31, 32, 33, 63, 100, 255])
def test_the_most_streams(capacity):
    machine = Machine(capacity)
    found = find(machine)
    assert (found.streams, found.reached_limit) == (capacity, False)
    assert found.best.streams == max(capacity, 1)
    assert found.best.verdict == ("holds" if capacity else "fails")
    assert len(found.trials) == len(machine.asked) < 30


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 8, 100])
def test_the_limit(limit):
    machine = Machine(10_000)
    found = find(machine, limit)
    assert (found.streams, found.reached_limit) == (limit, True)
    assert max(streams for streams, _ in machine.asked) == limit


def test_what_was_found_was_confirmed_in_full_trials():
    machine = Machine(6)
    find(machine)
    assert machine.asked.count((6, False)) >= 3


@pytest.mark.parametrize("disturbed", range(16))
def test_one_disturbance_changes_nothing(disturbed):
    assert find(Machine(11, [disturbed])).streams == 11


def test_a_scout_that_is_disturbed_twice_is_not_the_end():
    # Both short trials of two streams.
    assert find(Machine(11, [1, 2])).streams == 11


class Lucky(Machine):
    """The first full trial of some numbers of streams holds, although they are too many."""

    def __init__(self, capacity, *lucky):
        super().__init__(capacity)
        self.lucky = lucky

    def __call__(self, streams, *, scout):
        trial = super().__call__(streams, scout=scout)
        if not scout and streams in self.lucky and self.asked.count((streams, False)) == 1:
            return replace(HOLDS, streams=streams)
        return trial


def test_what_is_not_confirmed_is_not_found():
    assert find(Lucky(8, 9)).streams == 8


def test_every_number_has_to_hold_three_times():
    """Also one that the search comes to only because larger ones were not confirmed."""
    machine = Lucky(9, 10, 11, 12)
    assert find(machine).streams == 9
    assert machine.asked.count((9, False)) == 3


def test_without_a_stream_that_holds_the_best_trial_says_what_is_wrong():
    """Not the lucky one, which has no reason to show."""
    found = find(Lucky(0, 1))
    assert found.streams == 0
    assert (found.best.verdict, found.best.reason) == ("fails", "p99 is over 100 ms")
