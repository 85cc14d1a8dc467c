from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.calibration.methods import LEVELS, METHODS, PEAKS, _divergences, entropy, mse
from lpx.calibration.observer import Observer


def histogram(values):
    seen = Observer(1)
    assert seen.add(np.asarray(values, np.float32).reshape(1, 1, -1))
    return seen.histogram


def error(values, peak):
    step = peak / LEVELS
    levels = np.clip(np.rint(values / step), -LEVELS, LEVELS)
    return np.mean((values - levels * step) ** 2)


def samples(kind):
    rng = np.random.default_rng(3)
    draw = {
        "normal": rng.standard_normal,
        "laplace": lambda n: rng.laplace(size=n),
        "heavy": lambda n: rng.standard_t(3, n),
        "relu": lambda n: np.maximum(rng.standard_normal(n), 0),
        "uniform": lambda n: rng.uniform(-1, 1, n),
    }[kind]
    return draw(50_000)


@pytest.mark.parametrize("kind", ["normal", "laplace", "heavy", "relu", "uniform"])
@pytest.mark.parametrize("scale", [1e-12, 1e9])
def test_mse_is_near_the_best_clip_there_is(kind, scale):
    values = samples(kind) * scale
    best = min(error(values, np.abs(values).max() * s) for s in np.geomspace(1 / 64, 1, 150))
    assert error(values, mse(histogram(values))) <= best * 1.01


def test_mse_keeps_all_of_what_is_uniform_and_clips_an_outlier():
    values = samples("uniform")
    assert mse(histogram(values)) == pytest.approx(1, rel=0.02)
    assert mse(histogram(np.append(np.tile(values, 8), 30))) < 2


@pytest.mark.parametrize("kind", ["normal", "relu"])
def test_entropy_clips_a_far_outlier_and_keeps_the_bulk(kind):
    values = np.append(samples(kind), 40.0)
    assert 2.5 < entropy(histogram(values)) < 10


def test_entropy_does_not_mind_how_many_zeros_there_are():
    values = samples("relu")
    more = np.append(values, np.zeros(300_000))
    assert entropy(histogram(more)) == entropy(histogram(values))


def textbook_divergence(counts, size):
    """Of the first bins from themselves at 128 levels, bin by bin."""
    p = counts[:size].copy()
    p[-1] += counts[size:].sum()
    q = np.zeros(size)
    for level in range(128):
        part = slice(level * size // 128, (level + 1) * size // 128)
        used = counts[part] > 0
        if used.any():
            q[part][used] = counts[part].sum() / used.sum()
    if not q.any():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    where = p > 0
    return (p[where] * np.log(p[where] / np.maximum(q[where], 1e-12))).sum()


def reference_entropy(values):
    """The textbook loop, on a linear histogram of the values themselves."""
    magnitudes = np.abs(values)
    counts = np.histogram(magnitudes, 2048, (0, magnitudes.max()))[0].astype(float)
    counts[0] = counts[1]
    best = min((textbook_divergence(counts, size), size) for size in range(128, 2049, 16))
    return magnitudes.max() * best[1] / 2048


@given(
    seed=st.integers(0, 1000),
    filled=st.sampled_from([0.001, 0.05, 0.5, 1.0]),
    spread=st.floats(0, 6),
)
def test_divergences_are_the_textbooks(seed, filled, spread):
    rng = np.random.default_rng(seed)
    counts = 10.0 ** rng.uniform(0, spread, 2048) * (rng.uniform(size=2048) < filled)
    counts[-1] += 1  # the largest value has its bin
    wanted = [textbook_divergence(counts, size) for size in range(128, 2049, 16)]
    assert _divergences(counts) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", ["normal", "laplace", "relu"])
def test_entropy_is_near_the_textbooks(kind):
    values = samples(kind)
    assert entropy(histogram(values)) == pytest.approx(reference_entropy(values), rel=0.25)


@pytest.mark.parametrize("method", METHODS)
@given(values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=50))
def test_peak_is_finite_positive_and_within_the_maximum(method, values):
    seen = histogram(values)
    found = PEAKS[method](seen)
    assert 0 <= found <= seen.peak
    assert (found > 0) == (seen.peak > 0) or method.startswith("percentile")
