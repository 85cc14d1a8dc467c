"""Labelled scores for the tests of this folder: strategies, and a model whose AUC is known."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from hypothesis import strategies as st


@st.composite
def labelled(draw, vectors: int = 1, least_per_class: int = 1):
    """Labels with both classes, and `vectors` score vectors of float32 in which ties abound."""
    extra = draw(st.lists(st.integers(0, 1), max_size=30))
    labels = draw(st.permutations([0, 1] * least_per_class + extra))
    size = len(labels)
    grid = st.integers(-4, 4).map(lambda step: step / 4)
    wide = st.floats(-1e6, 1e6, width=32)
    scores = [
        np.array(
            draw(st.lists(draw(st.sampled_from([grid, wide])), min_size=size, max_size=size)),
            dtype=np.float32,
        )
        for _ in range(vectors)
    ]
    return np.array(labels), *scores


def binormal_auc(separation: float) -> float:
    """Return the true AUC of reals from N(0, 1) and fakes from N(separation, 1)."""
    return NormalDist().cdf(separation / math.sqrt(2))


def binormal_pair(rng, faces_per_class, separations=(1.2, 1.0), correlation=0.6):
    """Draw labels, reference scores and candidate scores, correlated within each class."""
    labels = np.repeat([0, 1], faces_per_class)
    shared = rng.standard_normal(2 * faces_per_class)
    scores = [
        math.sqrt(correlation) * shared
        + math.sqrt(1 - correlation) * rng.standard_normal(2 * faces_per_class)
        + separation * labels
        for separation in separations
    ]
    return labels, *scores
