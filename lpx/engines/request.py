"""What is asked of a build."""

from __future__ import annotations

from dataclasses import dataclass

from lpx.arguments import check_fields
from lpx.calibration.scales import Scales
from lpx.engines.manifest import Precision, Target
from lpx.engines.tensorrt import Batches, BatchRange, check_batches
from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions

DEFAULT_BATCHES = BatchRange(1, 8, 32)


def default_batches(dla_core: int | None) -> Batches:
    """Batch sizes where none are named: 1 to 32, but 1 for a DLA core, which takes no range."""
    return DEFAULT_BATCHES if dla_core is None else (1,)


@dataclass(frozen=True)
class BuildRequest:
    """What to build.

    Attributes:
        target: What will run the engine.
        precision: What its convolutions compute in.
        scales: Calibrated ranges, needed for int8.
        method: Calibration method, for int8.
        compute_capabilities: GPUs to build for, "8.6"; tensorrt-rtx only.
        batches: Batch sizes of TensorRT's profiles: a range, or sizes that get a profile each.
        workspace_mib: Cap on TensorRT's scratch memory, MiB; None for its default.
        weights: What is done to weights, for int8.
        requantise: Take out the Q/DQ pairs that the model has, instead of refusing it.
        optimisation_level: TensorRT's search, 0 (fast build) to 5 (long); None for its default.
        version_compatible: Let later TensorRT releases load the plan; it then carries host code.
        hardware_compatible: Let other GPU models, Ampere and later, load the plan.
        dla_core: DLA core that shall run it, with the GPU for what it cannot do.
        frozen_timing_cache: Take no kernel times but those of an earlier build.
        builds: Build this often, keep a typical plan, and record the spread.
        tf32: Let TensorRT multiply float32 tensors in TF32, with 10 bits of mantissa.
    """

    target: Target
    precision: Precision
    scales: Scales | None = None
    method: str = ""
    compute_capabilities: tuple[str, ...] = ()
    batches: Batches = DEFAULT_BATCHES
    workspace_mib: int | None = None
    weights: WeightOptions = DEFAULT_WEIGHTS
    requantise: bool = False
    optimisation_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla_core: int | None = None
    frozen_timing_cache: bool = False
    builds: int = 1
    tf32: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        check_batches(self.batches)

    @property
    def name(self) -> str:
        """Name of the engine and of its folder."""
        core = "" if self.dla_core is None else f"-dla{self.dla_core}"
        return f"{self.target}-{self.precision}{core}"
