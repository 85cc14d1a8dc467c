"""Everything that decides a training's result, in one place that can be compared and stored."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lpx.arguments import check_fields
from lpx.data.pseudo_fakes.blend import KINDS
from lpx.errors import LpxError
from lpx.models.aggregates import check_aggregate
from lpx.training.local_diversity import LocalDiversity

Supervision = Literal["indirect", "direct"]


@dataclass(frozen=True)
class Recipe:
    """What is trained, on what, and for how long.

    Attributes:
        backbone: A key of `lpx.models.backbones.BACKBONES`.
        cut: Stage to cut after, or "whole".
        aggregate: How unit logits become a score.
        aggregate_parameter: r of `lse`, k/N of `topk`; None for the default.
        bottleneck: Channels of the head's bottleneck, 0 for none.
        input_size: Side of the face crop, pixels.
        supervision: "indirect" gives the image's label to the score alone, "direct" to every unit
            (as patch-based detectors before did).
        diversity: The local-diversity loss.
        pseudo_fakes: Kinds made from real faces, drawn in turn; empty where fakes are on disk.
        steps: Optimiser steps.
        steps_per_epoch: Steps between validations (and between points to resume from).
        pairs: Pairs of real and fake per step.
        learning_rate: Of the backbone; the head, which starts from nothing, takes three times that.
        weight_decay: AdamW's.
        ema: Decay of the weight average that is validated and kept.
        patience: Validations without a better AUC before training stops; 0 never stops.
        validation_pairs: Pairs of real and fake per validation.
        held_out_pairs: Pairs per kind of pseudo-fake for the final measurement.
        seed: Of weights, order, augmentation and pseudo-fakes.
        fpr: False-positive rate on the validation split at which the threshold is set.
        initial_weights_sha256: Of the file that the backbone starts from; "" for random.
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
        check_fields(self)
        check_aggregate(self.aggregate, self.aggregate_parameter)
        if unknown := set(self.pseudo_fakes) - set(KINDS):
            raise LpxError(
                f"unknown pseudo-fakes: {', '.join(sorted(unknown))}",
                f"known kinds: {', '.join(KINDS)}",
                "name some of these with --pseudo-fakes",
            )
        if min(self.steps, self.steps_per_epoch, self.pairs, self.validation_pairs) < 1:
            raise LpxError("steps, pairs and validation pairs must be 1 or more")
        if not 0 < self.fpr < 1:
            raise LpxError(f"a false-positive rate of {self.fpr:g}", "it lies between 0 and 1")

    @property
    def epochs(self) -> int:
        """Number of stretches between validations."""
        return -(-self.steps // self.steps_per_epoch)

    def command(self) -> str:
        """The command line that trains this, with placeholders for the user's own paths."""
        ld = self.diversity
        options = {
            "--data": "FACES",
            "--out": "ckpt.pt",
            "--pseudo-fakes": ",".join(self.pseudo_fakes),
            "--weights": "FILE" if self.initial_weights_sha256 else "",
            "--backbone": self.backbone,
            "--cut": self.cut,
            "--bottleneck": self.bottleneck,
            "--aggregate": self.aggregate,
            "--aggregate-parameter": self.aggregate_parameter,
            "--supervision": self.supervision,
            "--input-size": self.input_size,
            "--ld": ld.weight,
            "--ld-form": ld.form,
            "--ld-on": ld.on,
            "--ld-grid": ld.grid,
            "--ld-margin": ld.margin,
            "--steps": self.steps,
            "--steps-per-epoch": self.steps_per_epoch,
            "--pairs": self.pairs,
            "--lr": self.learning_rate,
            "--patience": self.patience,
            "--validation-pairs": self.validation_pairs,
            "--fpr": self.fpr,
            "--seed": self.seed,
        }
        parts = [f"{name} {value}" for name, value in options.items() if value not in ("", None)]
        return " ".join(["lpx train", *parts, *(["--ld-plain"] if not ld.evidence else [])])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Names of the settings in which a stored recipe differs from this one."""
        mine = _flat(self.to_dict())
        theirs = _flat(other)
        names = sorted(mine.keys() | theirs.keys())
        return [
            f"{name} is {mine.get(name)!r}, was {theirs.get(name)!r}"
            for name in names
            if mine.get(name) != theirs.get(name)
        ]


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            out |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            out[name] = list(value) if isinstance(value, tuple) else value
    return out
