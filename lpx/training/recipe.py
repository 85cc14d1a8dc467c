"""Settings that decide a training's result, in one place that can be compared and stored."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lpx.arguments import check_at_least, check_choice, check_fields, check_number, several
from lpx.data.pseudo_fakes.blend import KINDS
from lpx.models.aggregates import check_aggregate
from lpx.models.backbones import BACKBONES
from lpx.training.local_diversity import LocalDiversity

Supervision = Literal["indirect", "direct"]
# Differing settings that an error names.
_NAMED = 4


# The fields are not grouped although there are many: model cards, training states and result.json
# hold a recipe as one flat object, and a resumed training is compared with it name by name. Groups
# would need a second, flat description of the same settings for those files.
@dataclass(frozen=True)
class Recipe:
    """Settings of a training that decide its result.

    Attributes:
        backbone: A key of `lpx.models.backbones.BACKBONES`.
        cut: Stage to cut after, or "whole".
        aggregate: Function from unit logits to a score: a key of
            `lpx.models.aggregates.AGGREGATES`.
        aggregate_parameter: r of `lse`, k/N of `topk`; None for the default.
        bottleneck: Channels of the head's bottleneck, 0 for none.
        input_size: Side of the face crop, pixels.
        supervision: "indirect" gives the image's label to the score alone, "direct" to every unit
            (as earlier patch-based detectors did).
        diversity: The local-diversity loss.
        pseudo_fakes: Kinds made from real faces, one or several of "sbi", "alpha" and "poisson",
            drawn in turn; empty if the fakes are on disk.
        steps: Optimiser steps.
        steps_per_epoch: Steps between validations (and between points to resume from).
        pairs: Pairs of real and fake per step.
        learning_rate: Learning rate of the backbone; the head, which starts from random weights,
            gets three times as much.
        weight_decay: Weight decay of AdamW.
        ema: Decay per step of the weights' moving average, which is validated and kept.
        patience: Validations without a better AUC before training stops; 0 never stops.
        validation_pairs: Pairs of real and fake per validation.
        held_out_pairs: Pairs per kind of pseudo-fake for the final measurement.
        seed: Random seed of weights, order, augmentation and pseudo-fakes.
        fpr: False-positive rate on the validation split at which the threshold is set.
        initial_weights_sha256: SHA-256 of the file that the backbone starts from; "" for random
            weights. `train` fills it in.

    Raises:
        InvalidArgumentError: A field has a value that it cannot have.
    """

    backbone: str = "tf_efficientnet_lite0"
    cut: str = "stage3"
    aggregate: str = "mean_prob"
    aggregate_parameter: float | None = None
    bottleneck: int = 128
    input_size: int = 160
    supervision: Supervision = "indirect"
    diversity: LocalDiversity = field(default_factory=LocalDiversity)
    pseudo_fakes: tuple[str, ...] = ()
    steps: int = 1500
    steps_per_epoch: int = 150
    pairs: int = 12
    learning_rate: float = 5e-4
    weight_decay: float = 1e-2
    ema: float = 0.998
    patience: int = 0
    validation_pairs: int = 100
    held_out_pairs: int = 300
    seed: int = 0
    fpr: float = 0.1
    initial_weights_sha256: str = ""

    def __post_init__(self) -> None:
        # A single kind may come as text.
        object.__setattr__(self, "pseudo_fakes", several("pseudo_fakes", self.pseudo_fakes))
        check_fields(self)
        # Stages depend on the backbone: `build_backbone` checks `cut`.
        check_choice("backbone", self.backbone, BACKBONES)
        check_aggregate(self.aggregate, self.aggregate_parameter)
        for kind in self.pseudo_fakes:
            check_choice("pseudo_fakes", kind, KINDS)
        positive = (
            "input_size",
            "steps",
            "steps_per_epoch",
            "pairs",
            "validation_pairs",
            "held_out_pairs",
        )
        for name in positive:
            check_at_least(name, getattr(self, name), 1)
        for name in ("bottleneck", "patience", "seed"):
            check_at_least(name, getattr(self, name), 0)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("weight_decay", self.weight_decay, least=0)
        check_number("ema", self.ema, least=0, most=1)
        check_number("fpr", self.fpr, above=0, below=1)

    @property
    def epochs(self) -> int:
        """Number of epochs: stretches of training between validations."""
        # Rounded up: the last epoch may be shorter.
        return -(-self.steps // self.steps_per_epoch)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def differences(self, other: dict[str, Any]) -> str:
        """Name the first few settings in which a stored recipe differs from this one; "" if none.

        Args:
            other: The stored recipe, as `to_dict` made it.
        """
        mine = _flat(self.to_dict())
        theirs = _flat(other)
        different = []
        for name in sorted(mine.keys() | theirs.keys()):
            now, before = mine.get(name), theirs.get(name)
            if now != before:
                different.append(f"{name} is {now!r}, was {before!r}")
        return "; ".join(different[:_NAMED])


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings by name, those of local diversity as "diversity.weight" and so on."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": inner_value for inner, inner_value in value.items()}
        elif isinstance(value, tuple):
            # JSON has lists only.
            flat[name] = list(value)
        else:
            flat[name] = value
    return flat
