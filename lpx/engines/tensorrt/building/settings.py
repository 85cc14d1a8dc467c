"""Create the builder configuration of one attempt at a build."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lpx.engines.tensorrt.building.plan_request import PlanRequest
from lpx.engines.tensorrt.capabilities import Capabilities
from lpx.engines.tensorrt.logger import Recorder
from lpx.engines.tensorrt_options import TensorRTOptions
from lpx.errors import LpxError

MIB = 1 << 20
# In all messages with which TensorRT ignores a timing cache.
_OF_THE_CACHE = "timing cache"


@dataclass(frozen=True)
class Effort:
    """Limits of memory and search for a build; None for TensorRT's default.

    Attributes:
        workspace_bytes: Limit of the memory that a kernel may use in addition to its tensors.
        level: Builder optimisation level, 0 to 5.
    """

    workspace_bytes: int | None
    level: int | None


def make_config(
    trt: Any, builder: Any, capabilities: Capabilities, request: PlanRequest, effort: Effort
) -> Any:
    """Create a builder configuration, without profiles, timing cache and callbacks."""
    config = builder.create_builder_config()
    # Otherwise the inspector does not show the precision of layers.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if effort.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, effort.workspace_bytes)
    if effort.level is not None:
        config.builder_optimization_level = effort.level
    if not request.options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, in all releases
    if not request.strongly_typed(capabilities):
        _set_precision(trt, config, capabilities, request)
    _set_reach(trt, config, capabilities, request.options)
    if capabilities.set_compute_capability and request.options.gpus:
        _set_compute_capabilities(trt, config, request.options.gpus)
    if request.options.dla_core is not None:
        largest = request.options.profiles[-1].maximum
        _set_dla(trt, builder, config, request.options.dla_core, largest)
    if capabilities.error_on_timing_cache_miss and request.options.frozen_timing_cache:
        config.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
    return config


def effort_used(trt: Any, config: Any) -> Effort:
    """Return the limits of a configuration, including TensorRT's defaults."""
    return Effort(
        workspace_bytes=config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
        level=config.builder_optimization_level,
    )


def set_timing_cache(config: Any, request: PlanRequest, recorder: Recorder) -> bool:
    """Set the timing cache of a request, or an empty one.

    TensorRT stores the times of a build only if a cache was set before.

    Args:
        config: The builder configuration.
        request: The request; its timing cache may be None.
        recorder: Receives TensorRT's messages, and decisions of lpx.

    Returns:
        True if the build uses the times in the request's cache.

    Raises:
        LpxError: The cache is frozen, and TensorRT does not use it.
    """
    start = len(recorder.messages)
    if request.timing_cache and _takes(config, request.timing_cache, recorder, start):
        return True
    if request.options.frozen_timing_cache:
        why = "; ".join(recorder.said("error", "warning", start=start))
        if not why:
            why = "it belongs to another GPU" if request.timing_cache else "it is empty"
        raise LpxError(
            "TensorRT does not use the timing cache",
            why=why,
            fix="build once without `frozen_timing_cache`, which fills it",
        )
    if request.timing_cache:
        recorder.note(
            "the timing cache is damaged or belongs to another GPU: all kernels are timed again"
        )
    if not _takes(config, b"", recorder, len(recorder.messages)):
        recorder.note("TensorRT accepts no timing cache: the next build times all kernels again")
    return False


def _takes(config: Any, data: bytes, recorder: Recorder, start: int) -> bool:
    """Set a timing cache; return False if TensorRT refuses it, or takes it for an empty one."""
    cache = config.create_timing_cache(data)
    # TensorRT returns False for the cache of another device, and only warns if it is damaged.
    if cache is None or not config.set_timing_cache(cache, False):
        return False
    said = recorder.said("error", "warning", start=start)
    return not any(_OF_THE_CACHE in text.lower() for text in said)


def timing_cache_of(config: Any, capabilities: Capabilities) -> bytes | None:
    """Return the timing cache after a build, serialized; None if the release has none."""
    if not capabilities.timing_cache:
        return None
    cache = config.get_timing_cache()
    if cache is None:
        return None
    return bytes(cache.serialize())


def _set_precision(trt: Any, config: Any, capabilities: Capabilities, request: PlanRequest) -> None:
    """Allow precisions other than FP32 in a weakly typed network."""
    if capabilities.fp16_flag and request.precision in ("fp16", "int8"):
        config.set_flag(trt.BuilderFlag.FP16)
    if capabilities.int8_flag and request.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)


def _set_reach(trt: Any, config: Any, capabilities: Capabilities, options: TensorRTOptions) -> None:
    """Let the plan run with other releases and on other GPUs."""
    if capabilities.version_compatible and options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if capabilities.hardware_compatibility and options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS


def _set_compute_capabilities(trt: Any, config: Any, asked: tuple[str, ...]) -> None:
    known = {}
    for name in dir(trt.ComputeCapability):
        if name.startswith("SM"):
            known[_dotted(name)] = getattr(trt.ComputeCapability, name)
    unknown = [text for text in asked if text not in known]
    if unknown:
        raise LpxError(
            f"compute capability {', '.join(unknown)} is not supported",
            why=f"TensorRT for RTX builds for {', '.join(sorted(known, key=float))}",
            fix="for another GPU, build for target tensorrt on a machine with that GPU",
        )
    config.num_compute_capabilities = len(asked)
    for index, text in enumerate(asked):
        if config.set_compute_capability(known[text], index) is False:
            raise LpxError(
                f"TensorRT for RTX does not build for compute capability {text} here",
                fix="use other GPUs in `compute_capabilities`",
            )


def _dotted(name: str) -> str:
    """Return a capability as users write it: SM89 is "8.9", SM120 is "12.0"."""
    digits = name.removeprefix("SM")
    return f"{digits[:-1]}.{digits[-1]}"


def _set_dla(trt: Any, builder: Any, config: Any, core: int, largest_batch: int) -> None:
    if core not in range(builder.num_DLA_cores):
        raise LpxError(
            f"DLA core {core} does not exist",
            why=f"this machine has {builder.num_DLA_cores} DLA cores",
            fix="count from 0, or build for the GPU",
        )
    if largest_batch > builder.max_DLA_batch_size:
        raise LpxError(
            f"batch {largest_batch} is too large for DLA core {core}",
            why=f"its largest batch is {builder.max_DLA_batch_size}",
            fix="use smaller batch sizes",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
