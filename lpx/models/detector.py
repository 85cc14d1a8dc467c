"""The local-prediction detector: truncated backbone, one logit per unit, an aggregate."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn

from lpx.card import ModelCard
from lpx.models.aggregates import aggregate, check_aggregate
from lpx.models.backbones import IMAGENET, NORMALISATION, build_backbone
from lpx.models.receptive_field import ReceptiveField, analyse

DROPOUT = 0.2
# Receptive fields by backbone, cut, bottleneck and input size: tracing takes seconds, and a grid of
# trainings makes the same architecture many times.
_FIELDS: dict[tuple[str, str, int, int], ReceptiveField] = {}


class LocalHead(nn.Module):
    """A classifier shared by all units: dropout, optional 1x1 bottleneck, 1x1 to one logit.

    Args:
        inputs: Channels C of the backbone.
        bottleneck: Channels D of the bottleneck, 0 for none. It does not enlarge the receptive
            field, and makes features non-negative.
    """

    def __init__(self, inputs: int, bottleneck: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(DROPOUT)
        self.bottleneck = nn.Sequential()
        if bottleneck:
            self.bottleneck = nn.Sequential(
                nn.Conv2d(inputs, bottleneck, 1, bias=False),
                nn.BatchNorm2d(bottleneck),
                nn.ReLU(inplace=True),
            )
        self.classifier = nn.Conv2d(bottleneck or inputs, 1, 1)
        # Small weights: every unit starts near a probability of 0.5.
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def features(self, z: Tensor) -> Tensor:
        """Return the unit features [B, D, h, w] of backbone output [B, C, h, w]."""
        return self.bottleneck(self.dropout(z))  # type: ignore[no-any-return]

    def forward(self, z: Tensor) -> Tensor:
        """Return the unit logits [B, h, w] of backbone output [B, C, h, w]."""
        return self.classifier(self.features(z)).squeeze(1)  # type: ignore[no-any-return]


class LocalPredictionDetector(nn.Module):
    """Normalised faces float32 [B, 3, H, W] -> (score [B], patch_map [B, h, w]), both in [0, 1]."""

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        self.backbone = build_backbone(card.architecture, card.cut)
        self.head = LocalHead(self.backbone.out_channels, card.bottleneck)
        self.aggregate = card.aggregate
        self.aggregate_parameter = card.aggregate_parameter

    def logits(self, x: Tensor) -> Tensor:
        """Return the unit logits [B, h, w], positive for fake, of faces [B, 3, H, W]."""
        return self.head(self.backbone(x))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores [B] and patch maps [B, h, w] of faces [B, 3, H, W]."""
        logits = self.logits(x)
        return aggregate(self.aggregate, logits, self.aggregate_parameter), logits.sigmoid()


class _Units(nn.Module):
    """The part of a detector that must be local: everything before the aggregate."""

    def __init__(self, detector: LocalPredictionDetector) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))  # type: ignore[no-any-return]


def analyse_detector(detector: LocalPredictionDetector, input_size: int) -> ReceptiveField:
    """Compute the receptive field of a detector's units, and its cost."""
    return analyse(_Units(detector), input_size)


class NewDetector(NamedTuple):
    """A detector with fresh weights, and its card."""

    detector: LocalPredictionDetector
    card: ModelCard


def new_detector(
    backbone: str,
    cut: str,
    *,
    input_size: int,
    aggregate_name: str = "mean_prob",
    aggregate_parameter: float | None = None,
    bottleneck: int = 128,
) -> NewDetector:
    """Make a detector with fresh weights, and a card with everything that follows from its shape.

    Args:
        backbone: A key of `lpx.models.backbones.BACKBONES`.
        cut: Stage to cut after, or "whole".
        input_size: Side of the face crop, pixels.
        aggregate_name: A key of `lpx.models.aggregates.AGGREGATES`.
        aggregate_parameter: r of `lse`, k/N of `topk`; None for the default.
        bottleneck: Channels of the head's bottleneck, 0 for none.

    Raises:
        InvalidArgumentError: Unknown backbone, cut or aggregate.
        LpxError: The crop is too small for a single unit.
    """
    mean, std = NORMALISATION.get(backbone, IMAGENET)
    card = ModelCard(
        architecture=backbone,
        mean=mean,
        std=std,
        cut=cut,
        aggregate=aggregate_name,
        aggregate_parameter=check_aggregate(aggregate_name, aggregate_parameter),
        bottleneck=bottleneck,
        input_size=input_size,
    )
    detector = LocalPredictionDetector(card)
    key = (backbone, cut, bottleneck, input_size)
    if key not in _FIELDS:
        _FIELDS[key] = analyse_detector(detector, input_size)
    field = _FIELDS[key]
    card = replace(
        card,
        grid=field.grid,
        receptive_field=field.size,
        stride=field.stride,
        strictly_local=field.strictly_local,
    )
    return NewDetector(detector, card)
