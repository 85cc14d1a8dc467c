"""Batch sizes from measured latencies, and from what a plan's profiles serve."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.bench.performance.latency import LatencyResult, Percentiles
from lpx.deploy.triton.batching import Coverage, covered, default_batching, measured_batching
from lpx.engines.tensorrt_options import BatchRange
from lpx.metrics import Interval


def row(batch, per_face_ms, half=0.01):
    times = Interval.about(per_face_ms, half)
    return LatencyResult(
        batch=batch,
        iterations=100,
        per_face_ms=Percentiles(times, times, times, times),
        per_patch_p50_us=1.0,
        faces_per_second=1000 / per_face_ms,
        cov=0.01,
        device=None,
        warm_up_seconds=0.1,
        warnings=(),
    )


def fixed(*sizes):
    return [BatchRange(size, size, size) for size in sizes]


@pytest.mark.parametrize(
    ("profiles", "coverage"),
    [
        ([BatchRange(1, 8, 32)], Coverage(32, (0,))),
        (fixed(1), Coverage(1, (0,))),
        # Triton may form a batch of 2 to 7, which no profile takes.
        (fixed(1, 8), Coverage(1, (0,))),
        (fixed(1, 2, 3, 8), Coverage(3, (0, 1, 2))),
        (fixed(8), Coverage(0, ())),
        ([BatchRange(1, 1, 4), BatchRange(5, 8, 16)], Coverage(16, (0, 1))),
        ([BatchRange(1, 8, 32), BatchRange(1, 1, 1)], Coverage(32, (0, 1))),
        ([BatchRange(5, 8, 16), BatchRange(1, 1, 4)], Coverage(16, (0, 1))),
    ],
)
def test_profiles_serve_batches_without_a_gap(profiles, coverage):
    assert covered(profiles) == coverage


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6)), min_size=1, max_size=5))
def test_every_batch_up_to_the_largest_has_a_profile(ends):
    profiles = [BatchRange(low, low, low + more) for low, more in ends]
    coverage = covered(profiles)
    used = [profiles[number] for number in coverage.profiles]

    def served(batch, among):
        return any(one.minimum <= batch <= one.maximum for one in among)

    assert all(served(batch, used) for batch in range(1, coverage.largest + 1))
    # And not one more.
    assert not served(coverage.largest + 1, profiles)


def test_sizes_that_take_less_time_per_face_are_preferred():
    batching = measured_batching([row(1, 2.0), row(8, 0.5), row(32, 0.25)], 32)
    assert batching.preferred == (8, 32)
    # A tenth of 8 * 0.5 ms.
    assert batching.delay_us == 400
    assert batching.measured
    assert batching.warm_up == (1, 8, 32)


def test_a_difference_within_the_intervals_shows_nothing():
    batching = measured_batching([row(1, 2.0, 0.3), row(8, 1.8, 0.3), row(32, 1.0, 0.1)], 32)
    assert batching.preferred == (32,)
    batching = measured_batching([row(1, 2.0, 0.3), row(8, 1.8, 0.3)], 32)
    assert (batching.preferred, batching.delay_us, batching.measured) == ((), 0, True)
    # An end that is not bounded is infinite.
    assert measured_batching([row(1, 2.0), row(8, 0.1, math.inf)], 32).preferred == ()


def test_a_larger_batch_is_compared_with_the_best_smaller_one():
    assert measured_batching([row(1, 2.0), row(4, 0.5), row(8, 1.0)], 8).preferred == (4,)


def test_sizes_above_the_largest_profile_are_not_preferred():
    batching = measured_batching([row(1, 2.0), row(8, 0.5), row(64, 0.1)], 16)
    assert (batching.largest, batching.preferred) == (16, (8,))
    # Nothing was measured that the plan serves.
    batching = measured_batching([row(64, 0.1)], 16)
    assert (batching.largest, batching.preferred, batching.measured) == (16, (), False)


def test_without_a_largest_batch_the_largest_that_was_measured_counts():
    assert measured_batching([row(64, 0.1), row(1, 1.0)], None).largest == 64
    assert measured_batching([row(4, 0.1)], None).largest == 32
    assert measured_batching([], None) == default_batching(None)
    assert default_batching(None).warm_up == (1, 32)
    assert default_batching(1).warm_up == (1,)
