"""Calibrate a trained detector on validation faces: temperature first, then threshold."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lpx.metrics import threshold_at_fpr
from lpx.models.aggregates import aggregate
from lpx.models.detector import LocalPredictionDetector

CLAMP = 1e-6


def score_loss(score: Tensor, label: Tensor) -> Tensor:
    """Return the binary cross-entropy of scores clamped to [1e-6, 1 - 1e-6], in float32."""
    # Not torch's own function, which raises on NaN: training has a better error for that.
    p = score.float().clamp(CLAMP, 1 - CLAMP)
    y = label.float()
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


def fit_temperature(detector: LocalPredictionDetector, logits: Tensor, labels: Tensor) -> float:
    """Find the temperature T that minimises the cross-entropy of scores aggregated from logits / T.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, applied before the aggregate,
    so that the map is scaled with the score.

    Args:
        detector: Detector whose aggregate is used.
        logits: Unit logits [N, h, w] of validation faces.
        labels: Labels [N], 1 = fake.

    Returns:
        T in [1, 20].
    """

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        score = aggregate(detector.aggregate, scaled, detector.aggregate_parameter)
        return float(score_loss(score, labels))

    # Never below 1: multiplying logits by 8 multiplies the rounding error of every engine of low
    # precision by 8 too, and does not change a rank.
    low, high = 0.0, np.log(20.0)
    # A logarithmic grid, refined around its minimum: 4 rounds of 21 points give T to 0.02 %.
    for _ in range(4):
        grid = np.linspace(low, high, 21)
        best = int(np.argmin([loss(float(np.exp(t))) for t in grid]))
        low, high = grid[max(0, best - 1)], grid[min(20, best + 1)]
    return float(np.exp(grid[best]))


@torch.no_grad()
def apply_temperature(detector: LocalPredictionDetector, temperature: float) -> None:
    """Divide every unit logit by `temperature`, by scaling the classifier in place."""
    classifier = detector.head.classifier
    classifier.weight.div_(temperature)
    assert classifier.bias is not None
    classifier.bias.div_(temperature)


def choose_threshold(scores: Tensor, labels: Tensor, fpr: float) -> float:
    """Return the threshold at which a share `fpr` of real validation faces is called fake.

    Args:
        scores: Scores [N], in [0, 1].
        labels: Labels [N], 1 = fake.
        fpr: False-positive rate.
    """
    return float(threshold_at_fpr(labels.numpy().astype(np.int64), scores.numpy(), fpr))
