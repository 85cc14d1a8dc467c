"""A plan to build, checked against what the library can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from lpx.arguments import check_choice
from lpx.engines.manifest import Precision
from lpx.engines.tensorrt.capabilities import Capabilities
from lpx.engines.tensorrt_options import DEFAULT_TENSORRT, BatchRange, TensorRTOptions
from lpx.errors import LpxError


@dataclass(frozen=True)
class PlanRequest:
    """A plan to build.

    Attributes:
        onnx_model: Serialized ONNX model, below 2 GiB.
        precision: Precision of the graph, which the plan is checked for.
        options: Options of the builder. `builds` is not read: `build_plan` builds once.
        input_name: Name of the input, [N, H, W, 3].
        timing_cache: Timing cache of an earlier build with the same release, device and power mode.
        calibration_cache: EntropyCalibration2 cache for a plain graph; up to TensorRT 10.
        watch: Tensors between the layers that `TensorRTTensors` returns. They may change the
            layers of the plan, so the precision of such a plan is not checked.
    """

    onnx_model: bytes
    precision: Precision
    options: TensorRTOptions = DEFAULT_TENSORRT
    input_name: str = "faces"
    timing_cache: bytes | None = None
    calibration_cache: bytes | None = None
    watch: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, get_args(Precision))

    def strongly_typed(self, capabilities: Capabilities) -> bool:
        """Return True if the network is strongly typed.

        Before TensorRT 11 a DLA core does not support strongly typed networks, and a calibration
        cache never does.
        """
        if capabilities.strongly_typed_only:
            return True
        implicit = self.options.dla_core is not None or self.calibration_cache is not None
        return capabilities.dialect == "strongly-typed" and not implicit


def check_supported(request: PlanRequest, capabilities: Capabilities) -> None:
    """Refuse options that the library does not support or would silently ignore.

    Raises:
        LpxError: There is such an option.
    """
    options = request.options
    name = f"{capabilities.flavour} {'.'.join(map(str, capabilities.version))}"
    rtx = capabilities.flavour == "tensorrt-rtx"
    if options.gpus and not capabilities.set_compute_capability:
        raise LpxError(
            f"{name} cannot build for compute capability {', '.join(options.gpus)}",
            why="it builds for the GPU of this machine only",
            fix='leave out `compute_capabilities`, or use `target="tensorrt-rtx"`',
            code="unsupported",
        )
    if options.version_compatible and not capabilities.version_compatible:
        raise LpxError(f"{name} builds no version-compatible plans", code="unsupported")
    if options.hardware_compatible and not capabilities.hardware_compatibility:
        fix = ""
        if rtx:
            fix = "use `compute_capabilities` with several GPUs instead"
        raise LpxError(f"{name} builds no hardware-compatible plans", fix=fix, code="unsupported")
    if options.dla_core is not None and not capabilities.dla:
        why = "TensorRT supports DLA up to 10.7 and from 11.4.1 on"
        if rtx:
            why = "it would ignore the option and build for the GPU"
        raise LpxError(
            f"{name} cannot build for DLA core {options.dla_core}", why=why, code="unsupported"
        )
    if options.frozen_timing_cache and not capabilities.error_on_timing_cache_miss:
        why = "only TensorRT 10 and later can fail when a kernel's time is missing"
        if rtx:
            why = "it keeps no timing cache"
        raise LpxError(
            f"{name} cannot use a frozen timing cache",
            why=why,
            fix="leave out `frozen_timing_cache`",
            code="unsupported",
        )
    if request.calibration_cache is not None and not capabilities.calibrators:
        raise LpxError(
            f"{name} does not support calibration caches",
            why="it supports INT8 only by Q/DQ nodes in the graph",
            fix=f"build the {capabilities.dialect} graph",
            code="unsupported",
        )
    if options.dla_core is not None:
        check_dla(options.dla_core, request.precision, options.profiles)


def check_dla(core: int, precision: Precision, profiles: tuple[BatchRange, ...]) -> None:
    """Refuse engines that TensorRT would silently run on the GPU in place of a DLA core.

    Args:
        core: Number of the DLA core.
        precision: Precision of the engine.
        profiles: Its batch sizes.

    Raises:
        LpxError: FP32, or a range of batch sizes.
    """
    if precision == "fp32":
        raise LpxError("a DLA core cannot run FP32", why="it computes in FP16 and INT8 only")
    ranges = [span for span in profiles if span.minimum != span.maximum]
    if not ranges:
        return
    span = ranges[0]
    sizes = tuple(sorted({span.minimum, span.optimum}))
    raise LpxError(
        f"batch sizes {span.minimum} to {span.maximum} in one profile for DLA core {core}",
        why="a DLA core computes a fixed batch size: TensorRT would run all layers on the GPU",
        fix=f"use fixed batch sizes, which get a profile each: `batches={sizes}`",
    )
