"""Cutting a batch into runs: all faces once, in order, each run within its profile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.engines.tensorrt.profiles import chunks
from lpx.engines.tensorrt_options import BatchRange

ranges = st.tuples(*[st.integers(1, 40)] * 3).map(lambda sizes: BatchRange(*sorted(sizes)))


@given(faces=st.integers(0, 300), spans=st.lists(ranges, min_size=1, max_size=4).map(tuple))
def test_every_face_runs_once_in_order_within_a_profile(
    faces: int, spans: tuple[BatchRange, ...]
) -> None:
    start = 0
    for chunk in chunks(faces, spans):
        assert chunk.start == start
        start += chunk.faces
        assert 1 <= chunk.faces <= chunk.batch
        assert spans[chunk.profile].minimum <= chunk.batch <= spans[chunk.profile].maximum
    assert start == faces


STATIC = (BatchRange(1, 1, 1), BatchRange(8, 8, 8), BatchRange(32, 32, 32))


@pytest.mark.parametrize(
    ("faces", "spans", "batches"),
    [
        (1, STATIC, [1]),
        (8, STATIC, [8]),
        (4, STATIC, [8]),  # padding doubles the batch: still one run, not four
        (3, STATIC, [1, 1, 1]),
        (9, STATIC, [8, 1]),
        (17, STATIC, [32]),
        (100, STATIC, [32, 32, 32, 8]),
        (5, (BatchRange(1, 4, 8),), [5]),
        (20, (BatchRange(1, 4, 8),), [8, 8, 4]),
        (8, (BatchRange(1, 4, 8), BatchRange(8, 16, 32)), [8]),
        (9, (BatchRange(1, 4, 8), BatchRange(8, 16, 32)), [9]),
        (3, (BatchRange(8, 16, 32),), [8]),
        (0, STATIC, []),
    ],
)
def test_the_profile_that_wastes_least_runs(
    faces: int, spans: tuple[BatchRange, ...], batches: list[int]
) -> None:
    assert [chunk.batch for chunk in chunks(faces, spans)] == batches
