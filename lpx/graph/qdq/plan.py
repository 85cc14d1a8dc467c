"""Precision plans: which layers an INT8 engine leaves in float, and how it quantises the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lpx.arguments import check_fields

LayerPrecision = Literal["int8", "float", "fp32"]
"""Precision of a layer in a plan.

"int8" where the rules of the target allow it; "float" for the engine's float type; "fp32" for
float32 even where the others are float16.
"""


@dataclass(frozen=True)
class LayerPlan:
    """What a plan says about one convolution or matrix product.

    Attributes:
        precision: Its precision.
        reason: Reason, for the manifest and for people; "" if none is given.
        method: Calibration method of its input; None for that of the build.
        clip: As `WeightOptions.clip`; None for that of the build.
        rounding: As `WeightOptions.rounding`; None for that of the build.
    """

    precision: LayerPrecision
    reason: str = ""
    method: str | None = None
    clip: Literal["max", "mse"] | None = None
    rounding: Literal["squant", "nearest"] | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class PrecisionPlan:
    """A plan for the layers of one model.

    Attributes:
        layers: By the name of the node. What is not named follows the rules of the target.
        model_sha256: SHA-256 of the exported model that it was made for; "" for any model that has
            these layers.
        origin: How it was found: faces, prediction and verification, as plain values; empty if it
            was written by hand.
    """

    layers: Mapping[str, LayerPlan] = field(default_factory=dict)
    model_sha256: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)

    def float_reason(self, node: str) -> str | None:
        """Return why a node stays in float; None if the plan leaves it to the target's rules."""
        layer = self.layers.get(node)
        if layer is None or layer.precision == "int8":
            return None
        return (
            f"the plan keeps it in float: {layer.reason}" if layer.reason else "the plan's choice"
        )


NO_PLAN = PrecisionPlan()
