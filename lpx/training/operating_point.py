"""From a trained detector to a calibrated one: temperature, then threshold, on validation faces."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lpx.metrics import threshold_at_fpr
from lpx.models.aggregates import aggregate
from lpx.models.detector import LocalPredictionDetector

CLAMP = 1e-6


def score_loss(score: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of aggregated scores, clamped to [1e-6, 1 - 1e-6], in float32."""
    # torch's own function raises on NaN; here a diverged training shall reach its own error.
    p = score.float().clamp(CLAMP, 1 - CLAMP)
    y = label.float()
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


def fit_temperature(detector: LocalPredictionDetector, logits: Tensor, labels: Tensor) -> float:
    """The T that minimises the cross-entropy of scores aggregated from logits / T.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, applied before the aggregate,
    so that the map is scaled with the score.

    Args:
        detector: Names the aggregate.
        logits: Unit logits [N, h, w] of validation faces.
        labels: [N], 1 = fake.

    Returns:
        T in [1, 20], found on a logarithmic grid and refined. It never sharpens: logits times 8
        are 8 times the rounding error of every engine of low precision, and ranks gain nothing.
    """

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        score = aggregate(detector.aggregate, scaled, detector.aggregate_parameter)
        return float(score_loss(score, labels))

    low, high = 0.0, np.log(20.0)
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
    """The threshold at which `fpr` of the real validation faces are called fake.

    Args:
        scores: [N] in [0, 1].
        labels: [N], 1 = fake.
        fpr: False-positive rate.
    """
    return float(threshold_at_fpr(labels.numpy().astype(np.int64), scores.numpy(), fpr))
