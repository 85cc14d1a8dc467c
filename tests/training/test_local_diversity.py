from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpx.errors import LpxError
from lpx.training.local_diversity import CONTRAST, LocalDiversity, similarity

LABELS = torch.tensor([0.0, 1.0, 1.0])


def features(seed, channels=32, side=8, faces=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(faces, channels, side, side, generator=generator, dtype=torch.float64)


def classifier(seed, channels=32):
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(1, channels, 1, 1, generator=generator, dtype=torch.float64)


@given(seed=st.integers(0, 10_000), evidence=st.booleans())
@settings(max_examples=25, deadline=None)
def test_closed_form_equals_the_sum_over_pairs(seed, evidence):
    z, w = features(seed), classifier(seed)
    loss = LocalDiversity(form="closed", evidence=evidence)
    matrix = similarity(loss.regions(z, w))
    count = matrix.shape[1]
    pairs = [matrix[:, r, q] for r in range(count) for q in range(r + 1, count)]
    expected = torch.stack(pairs).mean()
    assert torch.allclose(loss(z, LABELS, w), expected, atol=1e-12)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_hinge_equals_closed_on_features_that_are_never_negative(seed):
    z, w = features(seed), classifier(seed).abs()
    values = [LocalDiversity(form=form)(z, LABELS, w) for form in ("hinge", "closed")]
    assert torch.allclose(*values, atol=1e-12)


@pytest.mark.parametrize("form", ["hinge", "closed", "gram"])
def test_disjoint_channels_give_zero(form):
    z = torch.zeros(1, 16, 8, 8, dtype=torch.float64)
    for region in range(16):
        row, column = divmod(region, 4)
        z[0, region, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 1 + region
    loss = LocalDiversity(form=form)(z, LABELS[:1], torch.ones(1, 16, 1, 1))
    assert loss.item() == pytest.approx(0, abs=1e-12)


def test_identical_regions_give_one_and_no_distance():
    z = torch.ones(2, 8, 8, 8, dtype=torch.float64)
    w = torch.ones(1, 8, 1, 1)
    for form in ("hinge", "closed"):
        assert LocalDiversity(form=form)(z, LABELS[:2], w).item() == pytest.approx(1)
    # (1 - 0)^2 off the diagonal, 0 on it: 240 of 256 entries.
    assert LocalDiversity(form="gram")(z, LABELS[:2], w).item() == pytest.approx(240 / 256)
    apart = LocalDiversity(form="margin_l2", margin=1.0)(z, LABELS[:2], w)
    assert apart.item() == pytest.approx(1, abs=1e-5)


@given(
    seed=st.integers(0, 1000),
    factor=st.floats(1e-2, 1e2),
    form=st.sampled_from(["hinge", "closed", "gram", "margin_l2"]),
)
@settings(max_examples=25, deadline=None)
def test_scale_of_the_features_does_not_matter(seed, factor, form):
    z, w = features(seed), classifier(seed)
    loss = LocalDiversity(form=form, margin=0.2)
    assert torch.allclose(loss(z, LABELS, w), loss(factor * z, LABELS, w), atol=1e-9)


def test_random_features_start_near_two_over_pi():
    # Half-normal features: E[x]^2 / E[x^2] = 2 / pi, in many channels and one unit a region.
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, 4096, 4, 4, generator=generator, dtype=torch.float64).abs()
    loss = LocalDiversity(evidence=False)(z, torch.ones(4), torch.ones(1, 4096, 1, 1))
    assert loss.item() == pytest.approx(2 / math.pi, abs=0.02)


def test_classifier_gets_no_gradient():
    z = features(0).requires_grad_()
    w = classifier(0).requires_grad_()
    LocalDiversity()(z, LABELS, w).backward()
    assert w.grad is None
    assert z.grad is not None
    assert z.grad.abs().sum() > 0


@pytest.mark.parametrize("form", ["hinge", "closed", "gram", "margin_l2"])
@pytest.mark.parametrize("evidence", [True, False])
def test_gradient_equals_finite_differences(form, evidence):
    generator = torch.Generator().manual_seed(3)
    z = torch.rand(1, 6, 4, 4, generator=generator, dtype=torch.float64) + 0.1
    w = classifier(1, 6).abs()
    loss = LocalDiversity(form=form, evidence=evidence, margin=0.3, grid=2)
    assert torch.autograd.gradcheck(lambda x: loss(x, LABELS[:1], w), z.requires_grad_())


def test_which_faces_count():
    z, w = features(5), classifier(5)
    each = [LocalDiversity()(z[i : i + 1], LABELS[i : i + 1], w) for i in range(3)]
    fake = LocalDiversity(on="fake")(z, LABELS, w)
    assert fake.item() == pytest.approx((each[1] + each[2]).item() / 2)
    contrast = LocalDiversity(on="contrast")(z, LABELS, w)
    expected = (each[1] + each[2] - CONTRAST * each[0]).item() / 3
    assert contrast.item() == pytest.approx(expected)
    assert LocalDiversity(on="fake")(z, torch.zeros(3), w).item() == 0


def test_warm_up_is_linear():
    loss = LocalDiversity(weight=0.2, warm_up=0.1)
    assert [loss.factor(p) for p in (0, 0.05, 0.1, 0.9)] == pytest.approx([0, 0.1, 0.2, 0.2])
    assert LocalDiversity(weight=0.2, warm_up=0).factor(0) == 0.2


@pytest.mark.parametrize(
    "settings",
    [{"form": "cubic"}, {"on": "real"}, {"weight": -1.0}, {"grid": 1}, {"grid": 9}],
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(LpxError):
        LocalDiversity(**settings).check((8, 8))
