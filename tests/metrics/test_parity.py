from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import spearmanr

from lpx.errors import LpxError
from lpx.metrics import (
    Interval,
    auc_difference,
    faces_needed,
    flips,
    map_agreement,
    score_difference,
    verdict,
)
from tests.metrics.samples import binormal_pair


def difference(low, estimate, high):
    return Interval(estimate, low, high, method="delong")


@pytest.mark.parametrize(
    ("low", "estimate", "high", "expected"),
    [
        (-0.004, -0.001, 0.002, "holds"),
        (0.001, 0.002, 0.003, "holds"),
        (0.0, 0.0, 0.0, "holds"),
        (-0.009, -0.008, -0.006, "fails"),
        (-0.006, -0.001, 0.004, "undecided"),
        (-0.02, -0.01, 0.0, "undecided"),
        (-0.005, -0.001, 0.002, "undecided"),
        (-0.008, -0.006, -0.005, "undecided"),
    ],
)
def test_verdict_is_where_the_interval_lies(low, estimate, high, expected):
    assert verdict(difference(low, estimate, high)) == expected


def test_verdict_takes_its_margin():
    wide = difference(-0.009, -0.004, 0.001)
    assert verdict(wide, margin=0.01) == "holds"
    assert verdict(wide, margin=0.0) == "undecided"
    with pytest.raises(LpxError, match=r"margin must be between 0 and 1 \(got -0\.1\)"):
        verdict(wide, margin=-0.1)


def test_faces_needed_by_hand():
    # The lower end lies 0.01 below the estimate and may lie 0.005: half as far, 4 times as many.
    assert faces_needed(difference(-0.01, 0.0, 0.02), 1000) == 4001
    # The estimate is a loss beyond the margin: the upper end has to come down.
    assert faces_needed(difference(-0.03, -0.015, 0.005), 1000) == 4001
    assert faces_needed(difference(-0.001, 0.0, 0.001), 1000) == 1000
    assert faces_needed(difference(-0.02, -0.005, 0.01), 1000) is None
    assert faces_needed(difference(-0.02, 0.945 - 0.95, 0.01), 1000) is None
    with pytest.raises(LpxError, match="faces must be >= 1"):
        faces_needed(difference(-0.02, 0.0, 0.01), 0)


@given(
    st.floats(-0.05, 0.05),
    st.floats(0.0, 0.1),
    st.floats(0.0, 0.1),
    st.integers(1, 10**6),
    st.floats(0.0, 0.05),
)
def test_as_many_faces_as_needed_decide(estimate, below, above, faces, margin):
    measured = difference(estimate - below, estimate, estimate + above)
    needed = faces_needed(measured, faces, margin)
    if needed is None:
        assert estimate == pytest.approx(-margin, rel=1e-9, abs=1e-12)
        return
    assert needed >= faces
    # A hair more than needed, so that rounding cannot leave an end on the margin.
    shrunk = np.sqrt(faces / needed) * (1 - 1e-9)
    decided = difference(estimate - below * shrunk, estimate, estimate + above * shrunk)
    if abs(estimate + margin) > 1e-6:
        assert verdict(decided, margin) != "undecided"


def test_faces_needed_agrees_with_measuring_that_many():
    few = auc_difference(*binormal_pair(np.random.default_rng(13), 500, correlation=0.95))
    needed = faces_needed(few, 1000, margin=0.04)
    assert verdict(few, margin=0.04) == "undecided"
    many = auc_difference(*binormal_pair(np.random.default_rng(14), needed // 2, correlation=0.95))
    reach = abs(few.estimate + 0.04)
    assert (many.high - many.low) / 2 == pytest.approx(reach, rel=0.1)


def test_score_difference_by_hand():
    ref = np.zeros(101, dtype=np.float32)
    cand = np.linspace(0, -1, 101)
    result = score_difference(ref, cand)
    assert (result.max, result.p99) == (1.0, pytest.approx(0.99))
    assert result.mean == pytest.approx(0.5)


def test_flips_by_hand():
    result = flips([0.1, 0.6, 0.5, 0.4, 0.9], [0.5, 0.4, 0.49, 0.45, 0.8], 0.5)
    assert (result.real_to_fake, result.fake_to_real, result.total) == (1, 2, 3)


@pytest.mark.parametrize("compare", [score_difference, lambda ref, cand: flips(ref, cand, 0.5)])
def test_paired_scores_are_checked(compare):
    with pytest.raises(LpxError, match="cand has 1 values"):
        compare([0.1, 0.2], [0.1])
    with pytest.raises(LpxError, match=r"ref\[1\] is nan"):
        compare([0.1, np.nan], [0.1, 0.2])


maps = hnp.arrays(np.float32, (3, 2, 5), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))


@given(maps, maps)
def test_map_agreement_agrees_with_scipy_face_by_face(ref, cand):
    correlations = []
    for a, b in zip(ref.reshape(3, -1), cand.reshape(3, -1), strict=True):
        constant = np.ptp(a) == 0, np.ptp(b) == 0
        if any(constant):
            correlations.append(float(all(constant)))
        else:
            correlations.append(spearmanr(a, b).statistic)
    result = map_agreement(ref, cand)
    assert result.rank_correlation == pytest.approx(np.mean(correlations), abs=1e-12)
    assert result.mean_abs_difference == pytest.approx(np.abs(ref - cand).mean(), abs=1e-7)
    assert 0 <= result.top_decile_iou <= 1


def test_the_same_maps_agree_wholly():
    ref = np.random.default_rng(0).random((4, 7, 7), dtype=np.float32)
    result = map_agreement(ref, ref)
    assert result.mean_abs_difference == 0.0
    assert result.top_decile_iou == 1.0
    assert result.rank_correlation == pytest.approx(1.0)
    assert map_agreement(ref, 1 - ref).rank_correlation == pytest.approx(-1.0)


def test_constant_maps_give_no_nan():
    constant = np.full((2, 3, 3), 0.5)
    varying = np.arange(18.0).reshape(2, 3, 3)
    assert map_agreement(constant, constant).rank_correlation == 1.0
    assert map_agreement(constant, constant + 0.25).top_decile_iou == 1.0
    mixed = map_agreement(constant, varying)
    assert mixed.rank_correlation == 0.0
    assert mixed.top_decile_iou == pytest.approx(1 / 9)


def test_top_decile_by_hand():
    ref = np.arange(20.0).reshape(1, 4, 5)
    cand = ref.copy()
    cand[0, 3, 3], cand[0, 0, 0] = 0.0, 18.0  # of {18, 19} only 19 stays on top
    assert map_agreement(ref, cand).top_decile_iou == pytest.approx(1 / 3)


def test_map_agreement_does_not_depend_on_the_block():
    rng = np.random.default_rng(1)
    ref, cand = rng.random((2, 9, 3, 3))
    whole = map_agreement(ref, cand)
    blocks = map_agreement(ref, cand, block_patches=20)
    for name in ("mean_abs_difference", "top_decile_iou", "rank_correlation"):
        assert getattr(blocks, name) == pytest.approx(getattr(whole, name), rel=1e-14)


def test_maps_are_checked():
    good = np.zeros((2, 3, 3))
    with pytest.raises(LpxError, match=r"ref_maps has shape \[3, 3\]"):
        map_agreement(good[0], good[0])
    with pytest.raises(LpxError, match=r"cand_maps has shape \[0, 3, 3\]"):
        map_agreement(good, good[:0])
    with pytest.raises(LpxError, match=r"shape \[2, 3, 3\], cand_maps \[1, 3, 3\]"):
        map_agreement(good, good[:1])
    bad = good.copy()
    bad[1, 0, 2] = np.nan
    with pytest.raises(LpxError, match=r"cand_maps\[1, 0, 2\] is nan"):
        map_agreement(good, bad)
