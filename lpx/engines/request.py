"""Description of one engine to build."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lpx.arguments import check_fields
from lpx.calibration.scales import Scales
from lpx.engines.manifest import Precision, Target
from lpx.engines.tensorrt_options import DEFAULT_TENSORRT, TensorRTOptions
from lpx.graph.qdq.plan import NO_PLAN, PrecisionPlan
from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions


@dataclass(frozen=True)
class BuildRequest:
    """One engine to build.

    Attributes:
        target: Runtime of the engine.
        precision: Precision of its convolutions.
        scales: Calibrated ranges, needed for int8.
        method: Calibration method, for int8.
        weights: Quantisation of weights, for int8.
        tensorrt: Options of TensorRT's builder.
        plan: Precision of single layers, for int8; for fp16 only its layers in float32 count.

    Raises:
        InvalidArgumentError: An unknown target or precision.
    """

    target: Target
    precision: Precision
    scales: Scales | None = None
    method: str = ""
    weights: WeightOptions = DEFAULT_WEIGHTS
    tensorrt: TensorRTOptions = DEFAULT_TENSORRT
    plan: PrecisionPlan = NO_PLAN

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """Return the name of the engine and of its folder."""
        name = f"{self.target}-{self.precision}"
        if self.tensorrt.dla_core is not None:
            name += f"-dla{self.tensorrt.dla_core}"
        return name

    @property
    def follows_plan(self) -> bool:
        """Return whether the plan says anything about an engine of this precision."""
        if self.precision == "int8":
            return bool(self.plan.layers)
        return self.precision == "fp16" and bool(self.plan.float32_layers)

    @property
    def calibration(self) -> dict[str, Any] | None:
        """Return the record of the calibration for the manifest; None for float precisions."""
        # Float precisions may come with scales, and do not use them.
        if self.precision != "int8" or self.scales is None:
            return None
        weights = asdict(self.weights)
        return {"method": self.method, **self.scales.summary(), "weights": weights}
