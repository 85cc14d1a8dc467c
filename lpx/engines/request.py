"""What is asked of a build."""

from __future__ import annotations

from dataclasses import dataclass

from lpx.arguments import check_at_least, check_fields
from lpx.calibration.scales import Scales
from lpx.engines.manifest import Precision, Target
from lpx.engines.tensorrt import Batches, BatchRange, check_batches
from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions

DEFAULT_BATCHES = BatchRange(1, 8, 32)


def default_batches(dla_core: int | None) -> Batches:
    """Batch sizes where none are named: 1 to 32, but 1 for a DLA core, which takes no range."""
    return DEFAULT_BATCHES if dla_core is None else (1,)


@dataclass(frozen=True)
class TensorRTOptions:
    """Options of TensorRT's builder. ONNX Runtime's TensorRT providers take some of them.

    Attributes:
        batches: Batch sizes of the profiles: a `BatchRange`, or sizes that get a profile each. None
            for 1 to 32 tuned for 8, and for 1 on a DLA core, which takes no range.
        compute_capabilities: GPUs to build for, such as "8.6"; target tensorrt-rtx only. Empty for
            its default set.
        workspace_mib: Maximum scratch memory, MiB; None for the library's default.
        optimisation_level: Search for kernels, 0 (fast build) to 5 (long); None for the default.
        version_compatible: Let later TensorRT releases load the plan, which then contains host
            code.
        hardware_compatible: Let other GPU models, Ampere and later, load the plan.
        dla_core: DLA core to run on, with the GPU for layers that it does not support.
        frozen_timing_cache: Use kernel times from an earlier build only, and fail without them.
        builds: Number of builds; the most typical plan is kept, and the spread recorded.
        tf32: Multiply float32 tensors in TF32, with 10 bits of mantissa.
    """

    batches: Batches | None = None
    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int | None = None
    optimisation_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla_core: int | None = None
    frozen_timing_cache: bool = False
    builds: int = 1
    tf32: bool = True

    def __post_init__(self) -> None:
        check_at_least("workspace_mib", self.workspace_mib, 1)
        check_at_least("builds", self.builds, 1)
        check_at_least("dla_core", self.dla_core, 0)
        if self.batches is not None:
            check_batches(self.batches)


DEFAULT_TENSORRT = TensorRTOptions()


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

    @classmethod
    def of(
        cls,
        target: Target,
        precision: Precision,
        tensorrt: TensorRTOptions,
        *,
        weights: WeightOptions = DEFAULT_WEIGHTS,
    ) -> BuildRequest:
        """A request with TensorRT's options."""
        options = {**tensorrt.__dict__}
        options["batches"] = tensorrt.batches or default_batches(tensorrt.dla_core)
        return cls(target, precision, weights=weights, **options)

    @property
    def name(self) -> str:
        """Name of the engine and of its folder."""
        core = "" if self.dla_core is None else f"-dla{self.dla_core}"
        return f"{self.target}-{self.precision}{core}"
