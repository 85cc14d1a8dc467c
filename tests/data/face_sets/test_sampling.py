from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpx.data.face_sets.columns import Columns, encode, encode_identities, pack
from lpx.data.face_sets.sampling import quotas, stratified
from lpx.errors import LpxError


def columns(rows):
    """Of rows (label, method, video, identities)."""
    labels, methods, videos, people = zip(*rows, strict=True)
    return Columns(
        np.array(labels, np.int8),
        encode(methods),
        encode(videos),
        encode("" for _ in rows),
        encode_identities(people),
    )


def ffpp(videos=20, frames=8):
    """Reals, and fakes of two methods with two identities each, as FaceForensics++ has them."""
    rows = []
    for method in ("real", "Deepfakes", "FaceSwap"):
        for v in range(videos):
            who = (f"{v:03d}",) if method == "real" else (f"{v:03d}", f"{(v + 1) % videos:03d}")
            rows += [(int(method != "real"), method, f"{method}/{v}", who)] * frames
    return rows


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.data())
def test_quotas_are_whole_shares(sizes, data):
    sizes = np.array(sizes, np.int64)
    count = data.draw(st.integers(1, int(sizes.sum())))
    shares = quotas(sizes, count)
    assert shares.sum() == count
    assert (shares <= sizes).all()
    if count < len(sizes):
        assert set(shares.tolist()) <= {0, 1}
        assert sizes[shares == 0].max() <= sizes[shares == 1].min()
        return
    assert (shares >= 1).all()
    # Nobody is above a whole share rounded up, except who is lifted to one.
    exact = count * sizes / sizes.sum()
    assert (shares <= np.maximum(1, np.ceil(exact))).all()
    # Among those not lifted, more of a stratum never gives less of the sample.
    order = np.argsort(sizes, kind="stable")
    assert (np.diff(shares[order]) >= -1).all()


def test_quotas_are_exact_where_they_can_be():
    assert quotas(np.array([10, 20, 70]), 10).tolist() == [1, 2, 7]
    assert quotas(np.array([1, 1, 998]), 10).tolist() == [1, 1, 8]
    assert quotas(np.array([5, 3, 9]), 2).tolist() == [1, 0, 1]
    assert quotas(np.array([4, 4]), 8).tolist() == [4, 4]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([-1, 0, 1]),
            st.sampled_from("abc"),
            st.sampled_from("vwxyz"),
            st.sampled_from([(), ("p",), ("q",), ("p", "q")]),
        ),
        min_size=1,
        max_size=60,
    ),
    st.integers(0, 3),
    st.data(),
)
def test_sample_is_ordered_distinct_and_proportional(rows, seed, data):
    table = columns(rows)
    count = data.draw(st.integers(1, len(rows)))
    chosen = stratified(table, count, ("method", "label"), seed)
    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, stratified(table, count, ("method", "label"), seed))
    sizes = Counter((r[1], r[0]) for r in rows)
    taken = Counter((rows[i][1], rows[i][0]) for i in chosen)
    if count >= len(sizes):
        assert set(taken) == set(sizes)
        for stratum, number in taken.items():
            assert number <= max(1, np.ceil(count * sizes[stratum] / len(rows)))


def test_every_video_comes_before_a_second_frame():
    table = columns(ffpp())
    chosen = stratified(table, 60, ("method", "label"), 0)
    assert max(Counter(table.video[i] for i in chosen).values()) == 1
    assert Counter(table.method[i] for i in chosen) == {"real": 20, "Deepfakes": 20, "FaceSwap": 20}
    more = stratified(table, 63, ("method", "label"), 0)
    assert Counter(Counter(table.video[i] for i in more).values()) == {1: 57, 2: 3}


def test_every_person_comes_before_a_second_video():
    rows = [(0, "real", f"{who}{v}", (who,)) for who in "abcde" for v in range(6) for _ in "123"]
    table = columns(rows)
    five = stratified(table, 5, ("method", "label"), 1)
    assert sorted(rows[i][3][0] for i in five) == list("abcde")
    ten = stratified(table, 10, ("method", "label"), 1)
    assert Counter(rows[i][3][0] for i in ten) == dict.fromkeys("abcde", 2)
    assert len({rows[i][2] for i in ten}) == 10


def test_people_who_are_not_known_are_told_by_their_video():
    rows = [(0, "real", f"v{v}", ()) for v in range(7) for _ in range(5)]
    chosen = stratified(columns(rows), 7, ("label",), 0)
    assert len({rows[i][2] for i in chosen}) == 7


def test_seed_changes_the_choice():
    table = columns(ffpp())
    a, b = (stratified(table, 30, ("method",), seed) for seed in (0, 1))
    assert not np.array_equal(a, b)


@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=20), st.data())
def test_texts_survive_packing_and_taking(texts, data):
    column = pack(texts)
    assert [column[i] for i in range(len(texts))] == texts
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=20)) if texts else []
    part = column.take(np.array(rows, np.int64))
    blob, offsets = part.packed()
    assert b"".join(part.chunks()) == blob.tobytes() == "".join(texts[i] for i in rows).encode()
    assert np.diff(offsets).tolist() == [len(texts[i].encode()) for i in rows]


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=3).map(tuple), max_size=15))
def test_identities_survive_coding(rows):
    column = encode_identities(rows)
    assert [column[i] for i in range(len(rows))] == rows
    assert set(column.present()) == {name for row in rows for name in row}
    names = [column.people[code] if code >= 0 else None for code in column.first().tolist()]
    assert names == [row[0] if row else None for row in rows]


def test_unknown_stratum():
    with pytest.raises(LpxError, match="by must be one of label, method, split"):
        stratified(columns(ffpp()), 3, ("colour",), 0)
