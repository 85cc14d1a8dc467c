from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.calibration import selection

FACES = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from("abc"), st.integers(0, 6), st.integers(0, 12)),
    min_size=1,
    max_size=60,
)


def pick(faces, count, seed=0):
    strata = [(label, method) for label, method, _, _ in faces]
    return selection.stratified(strata, [f[2] for f in faces], [f[3] for f in faces], count, seed)


@given(FACES, st.integers(1, 60), st.integers(0, 3))
def test_strata_and_identities_are_as_even_as_the_set_allows(faces, count, seed):
    chosen = pick(faces, count, seed)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, len(faces))
    assert (np.diff(chosen) > 0).all()
    assert (chosen == pick(faces, count, seed)).all()
    available = Counter(f[:2] for f in faces)
    taken = Counter(faces[i][:2] for i in chosen)
    most = max(taken.values())
    assert all(taken[s] == available[s] or taken[s] >= most - 1 for s in available)
    people, got = (Counter(f[:3] for f in fs) for fs in (faces, [faces[i] for i in chosen]))
    for person, number in people.items():
        rivals = [got[p] for p in people if p[:2] == person[:2]]
        assert got[person] == number or got[person] >= max(rivals) - 1


@given(st.integers(0, 50), st.integers(1, 60))
def test_random_takes_different_faces_that_exist(faces, count):
    chosen = selection.random(count, faces)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, faces)
    assert all(0 <= i < faces for i in chosen)


@given(st.lists(st.integers(0, 9), max_size=80), st.integers(0, 5))
def test_held_out_groups_are_whole_and_never_all(groups, seed):
    held = set(selection.hold_out(groups, 0.25, 100, seed).tolist())
    for group in set(groups):
        members = {i for i, g in enumerate(groups) if g == group}
        assert members <= held or not members & held
    assert len(set(groups)) < 2 or 0 < len(held) < len(groups)
    assert len(set(groups)) >= 2 or not held


def test_hold_out_keeps_to_its_share():
    assert 230 <= len(selection.hold_out(list(range(1000)), 0.25, 999)) <= 250
    assert len(selection.hold_out(list(range(1000)), 0.25, 100)) == 100


def test_linked_follows_chains():
    groups = selection.linked([["a", 1], ["b", 2], ["c", 3], ["a", "b", 4], [5], [3]])
    assert groups[0] == groups[1] == groups[3]
    assert groups[2] == groups[5]
    assert len({groups[0], groups[2], groups[4]}) == 3


def test_coverage_takes_the_faces_that_extend_the_ranges():
    lows = np.array([[-1, 0], [-1, 0], [-9, 0], [-2, 0], [-3, 0]], np.float32)
    highs = np.array([[1, 1], [1, 50], [1, 1], [2, 2], [7, 1]], np.float32)
    assert selection.coverage(lows, highs, 3).tolist() == [1, 2, 4]
    assert selection.coverage(lows, highs, 99).tolist() == [0, 1, 2, 3, 4]


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.lists(
            st.tuples(st.floats(-100, 0, width=32), st.floats(0, 100, width=32)),
            min_size=3 * n,
            max_size=3 * n,
        )
    ),
    st.integers(1, 12),
)
def test_coverage_is_no_worse_than_one_face_and_reaches_all_in_the_end(pairs, count):
    values = np.array(pairs, np.float32).reshape(-1, 3, 2)
    lows, highs = values[..., 0], values[..., 1]
    chosen = selection.coverage(lows, highs, count)
    assert len(set(chosen.tolist())) == min(count, len(lows))
    if count >= 6:  # two ends of three tensors need six faces at most
        assert (lows[chosen].min(axis=0) == lows.min(axis=0)).all() or len(lows) > count


@pytest.mark.parametrize("count", [1, 5])
def test_coverage_of_faces_without_any_range(count):
    nothing = np.zeros((5, 2), np.float32)
    assert selection.coverage(nothing, nothing, count).tolist() == list(range(count))
