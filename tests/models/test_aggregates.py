from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lpx.errors import LpxError
from lpx.models.aggregates import AGGREGATES, DEFAULT_PARAMETER, aggregate, check_aggregate

SEEDS = st.integers(0, 2**32 - 1)
PARAMETERS = {
    "mean_prob": [0.0],
    "lse": [0.5, 1.0, 4.0],
    "topk": [0.1, 0.5, 1.0],
    "mean_logit": [0.0],
}
CASES = [(name, parameter) for name in AGGREGATES for parameter in PARAMETERS[name]]


def normal(seed, *shape, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * spread


@given(seed=SEEDS, channels=st.integers(1, 64), side=st.integers(1, 12))
def test_mean_logit_is_global_pooling_and_a_linear_layer(seed, channels, side):
    z = normal(seed, 2, channels, side, side).float()
    weight, bias = normal(seed + 1, 1, channels).float() / channels**0.5, torch.tensor([0.3])
    units = F.conv2d(z, weight[:, :, None, None], bias).squeeze(1)
    pooled = F.linear(z.mean(dim=(2, 3)), weight, bias).squeeze(1).sigmoid()
    assert torch.allclose(aggregate("mean_logit", units), pooled, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_gradient_equals_finite_differences(name, parameter):
    logits = normal(0, 3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: aggregate(name, s, parameter), logits)


def closed_form(name, parameter, logits, score, label):
    """dBCE/ds_i of one face, from the table of aggregates."""
    count = len(logits)
    if name == "mean_prob":
        p = logits.sigmoid()
        return (score - label) / (score * (1 - score)) * p * (1 - p) / count
    if name == "lse":
        return (score - label) * (parameter * logits).softmax(0)
    if name == "topk":
        k = math.ceil(parameter * count)
        chosen = torch.zeros_like(logits)
        chosen[logits.topk(k).indices] = 1 / k
        return (score - label) * chosen
    return (score - label) * torch.full_like(logits, 1 / count)


@pytest.mark.parametrize(("name", "parameter"), CASES)
@given(seed=SEEDS, label=st.sampled_from([0.0, 1.0]))
def test_gradient_of_the_loss_has_its_closed_form(name, parameter, seed, label):
    logits = normal(seed, 1, 4, 4).requires_grad_()
    score = aggregate(name, logits, parameter)
    F.binary_cross_entropy(score, torch.full_like(score, label)).backward()
    with torch.no_grad():
        expected = closed_form(name, parameter, logits.flatten(), score[0], label)
    assert torch.allclose(logits.grad.flatten(), expected, rtol=1e-7, atol=1e-12)


@given(seed=SEEDS, r=st.floats(0.01, 50), spread=st.floats(0, 20))
def test_lse_lies_between_mean_and_maximum(seed, r, spread):
    logits = normal(seed, 4, 3, 3, spread=spread)
    score = aggregate("lse", logits, r)
    flat = logits.flatten(1)
    assert (score >= flat.mean(1).sigmoid() - 1e-9).all()
    assert (score <= flat.amax(1).sigmoid() + 1e-9).all()


@given(seed=SEEDS)
def test_lse_goes_from_the_mean_to_the_maximum_as_r_grows(seed):
    logits = normal(seed, 1, 4, 4, spread=1.0)
    scores = [float(aggregate("lse", logits, r)) for r in (1e-6, 0.5, 1, 4, 1e4)]
    assert scores == sorted(scores)
    assert scores[0] == pytest.approx(float(logits.mean().sigmoid()), abs=1e-5)
    assert scores[-1] == pytest.approx(float(logits.amax().sigmoid()), abs=1e-3)


@pytest.mark.parametrize(("name", "parameter"), CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, -1.0, 1e4, -1e4])
def test_large_logits_do_not_overflow(name, parameter, dtype, scale):
    units = torch.tensor([[[1.0, 0.5], [0.0, -0.25]], [[1.0, 1.0], [1.0, 1.0]]])
    logits = (units * scale).to(dtype).requires_grad_()
    scores = aggregate(name, logits, parameter)
    scores.sum().backward()
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert scores.shape == (2,)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert logits.grad.isfinite().all()
    expected = torch.tensor(scale, dtype=dtype).double().sigmoid()
    assert scores[1].item() == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_half_precision_logits_are_pooled_in_float32(name, parameter, dtype):
    logits = normal(3, 2, 16, 16, spread=1.0).to(dtype)
    exact = aggregate(name, logits.double(), parameter)
    assert torch.allclose(aggregate(name, logits, parameter).double(), exact, rtol=0, atol=1e-6)


def units_used(parameter, count):
    """How many of `count` units `topk` pools: those with a gradient."""
    logits = torch.linspace(-1, 1, count, dtype=torch.float64).reshape(1, 1, count).requires_grad_()
    aggregate("topk", logits, parameter).backward()
    chosen = logits.grad.flatten() != 0
    assert chosen[count - int(chosen.sum()) :].all(), "not the largest"
    return int(chosen.sum())


@given(data=st.data())
def test_topk_of_a_fraction_k_over_n_takes_k(data):
    count = data.draw(st.integers(1, 4096))
    k = data.draw(st.integers(1, count))
    assert units_used(k / count, count) == k


@pytest.mark.parametrize(
    ("parameter", "count", "k"),
    [
        (0.15, 10, 2),
        (0.15, 256, 39),
        (1e-9, 10, 1),
        (0.01, 10, 1),
        (1.0, 7, 7),
        (0.101, 10, 2),
        # In binary these products lie a little over the whole number.
        (0.07, 100, 7),
        (0.14, 50, 7),
        (0.55, 100, 55),
        (0.1, 30, 3),
    ],
)
def test_topk_rounds_k_up(parameter, count, k):
    assert units_used(parameter, count) == k


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("lse", 0.0),
        ("lse", -1.0),
        ("lse", math.nan),
        ("lse", math.inf),
        ("topk", 0.0),
        ("topk", -0.1),
        ("topk", 1.01),
        ("topk", math.nan),
        ("median", None),
        ("", 1.0),
    ],
)
def test_bad_name_or_parameter(name, parameter):
    with pytest.raises(LpxError, match="aggregate"):
        check_aggregate(name, parameter)


@pytest.mark.parametrize("name", AGGREGATES)
def test_default_parameter_is_valid(name):
    assert check_aggregate(name, None) == DEFAULT_PARAMETER.get(name, 0.0)
    assert check_aggregate(name, 0.5) == 0.5
