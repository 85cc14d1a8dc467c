"""Make engines of TensorRT and TensorRT for RTX: a plan, and the record of its build."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lpx.engines.built_engine import BuiltEngine, tf32_switched_off, versions_of
from lpx.engines.request import BuildRequest
from lpx.engines.tensorrt.building.plan import Plan, build_plan
from lpx.engines.tensorrt.building.plan_request import PlanRequest, check_supported
from lpx.engines.tensorrt.building.progress import PhaseProgress
from lpx.engines.tensorrt.building.repeat import build_repeatedly, measure_latency
from lpx.engines.tensorrt.building.timing_cache import read_timing_cache, timing_cache_path
from lpx.engines.tensorrt.capabilities import TensorRTLibrary
from lpx.engines.tensorrt_options import TensorRTOptions
from lpx.errors import LpxError
from lpx.machine.machine import Machine, available_memory_mib
from lpx.workspace import write_bytes

# The first compute capability with TF32, and the first that hardware-compatible plans run on.
_AMPERE = 8.0
TF32 = (
    "TF32 is on: float32 convolutions round their inputs and weights to 10 bits of mantissa, as "
    "many as FP16 has; an engine that is built without TF32 keeps all 23"
)


@dataclass(frozen=True)
class Workspace:
    """Limit of TensorRT's scratch memory.

    Attributes:
        mib: The limit, MiB; None for TensorRT's default.
        source: Origin of the limit, for the manifest.
    """

    mib: int | None
    source: str


def check_for_tensorrt(request: BuildRequest, library: TensorRTLibrary, machine: Machine) -> None:
    """Check, before calibration, that the library and the machine support a build.

    Args:
        request: The engine to build, for target tensorrt or tensorrt-rtx.
        library: The target's library.
        machine: This machine.

    Raises:
        LpxError: The engine cannot be built on this machine.
    """
    plan_request = PlanRequest(b"", request.precision, request.tensorrt)
    check_supported(plan_request, library.capabilities)
    if request.tensorrt.hardware_compatible:
        _check_reach(machine)


def _check_reach(machine: Machine) -> None:
    """Refuse plans for other GPU models where TensorRT does not support them."""
    if machine.jetson is not None:
        raise LpxError(
            "hardware-compatible plans are not supported on a Jetson",
            "TensorRT does not support them with JetPack",
            "leave out `hardware_compatible`, and build on each model of board",
            code="unsupported",
        )
    capability = None
    if machine.gpus:
        capability = machine.gpus[0].compute_capability
    if capability is not None and float(capability) < _AMPERE:
        raise LpxError(
            f"{machine.gpus[0].name} does not support hardware-compatible plans",
            f"they need compute capability {_AMPERE} (Ampere) or later, and this GPU has "
            f"{capability}",
            "leave out `hardware_compatible`, or build on a newer GPU",
            code="unsupported",
        )


def make_for_tensorrt(
    graph: bytes,
    request: BuildRequest,
    library: TensorRTLibrary,
    machine: Machine,
    *,
    calibration_cache: bytes | None = None,
    progress: PhaseProgress | None = None,
    timing_caches: Path | None = None,
    free_memory_mib: Callable[[], int | None] = available_memory_mib,
    measure: Callable[[Plan, TensorRTLibrary, TensorRTOptions], float] = measure_latency,
) -> BuiltEngine:
    """Build a plan of TensorRT or TensorRT for RTX, and verify it.

    Args:
        graph: ONNX, in the request's dialect.
        request: The engine to build.
        library: The target's library.
        machine: This machine.
        calibration_cache: Scales of a plain graph; None for all other graphs.
        progress: Receives TensorRT's phases.
        timing_caches: Folder of timing caches; None for builds without one.
        free_memory_mib: Function that returns the free memory of the system, MiB.
        measure: Function that returns the latency of a plan, ms.

    Raises:
        NotAsAskedError: The plan does not compute in the requested precision.
        LpxError: TensorRT refuses.
    """
    check_for_tensorrt(request, library, machine)
    options = request.tensorrt
    # TensorRT for RTX ignores timing caches, as it compiles kernels where a plan runs.
    path = None
    if timing_caches is not None and library.capabilities.timing_cache:
        path = timing_cache_path(timing_caches, _version(library), machine)
    used = None
    if path is not None:
        used = read_timing_cache(path, frozen=options.frozen_timing_cache)
    workspace = _workspace(request, machine, free_memory_mib)
    plan_request = PlanRequest(
        graph,
        request.precision,
        replace(options, workspace_mib=workspace.mib),
        timing_cache=used,
        calibration_cache=calibration_cache,
    )

    def latency(plan: Plan) -> float:
        return measure(plan, library, options)

    plan, spread = build_repeatedly(
        lambda: build_plan(plan_request, library, progress),
        options.builds,
        latency if machine.gpus else None,
    )
    # A frozen cache remains unchanged, so that the next build uses the same times.
    if path is not None and plan.timing_cache is not None and not options.frozen_timing_cache:
        write_bytes(path, plan.timing_cache, durable=False)
    tf32 = _tf32(request, machine, plan)
    warnings = [*plan.log, *_notes(options)]
    if tf32 and request.precision == "fp32":
        warnings.append(TF32)
    outcome: dict[str, Any] = {
        "tensorrt": plan_request.options.to_dict(),
        "workspace_from": workspace.source,
        "tf32": tf32,
        "gpu_fallback": _beside_dla(plan, options),
        "layers": {},
        "timing_cache": None,
        "builds": asdict(spread),
    }
    if path is not None:
        outcome["timing_cache"] = _timing_cache(
            path, used, plan, frozen=options.frozen_timing_cache
        )
    convolutions: dict[str, int] = {}
    computed_in: dict[str, str] = {}
    if plan.layers is not None:
        outcome["layers"] = plan.layers.share_of_layers()
        convolutions = plan.layers.count_convolutions()
        computed_in = plan.layers.precision_of_nodes()
    return BuiltEngine(
        plan.data,
        "engine.plan",
        convolutions,
        {**versions_of("onnx"), request.target: plan.version},
        tuple(warnings),
        outcome,
        computed_in,
    )


def _version(library: TensorRTLibrary) -> str:
    """Return the version without its suffix, which is the same release."""
    return ".".join(map(str, library.capabilities.version))


def _tf32(request: BuildRequest, machine: Machine, plan: Plan) -> bool:
    """Return True if float32 tensors of a plan may be multiplied in TF32."""
    # The flag only permits it: the environment may switch TF32 off, and GPUs before Ampere have
    # none, which TensorRT may log.
    if not request.tensorrt.tf32 or tf32_switched_off():
        return False
    if any("Disabling TF32" in line for line in plan.log):
        return False
    known = request.tensorrt.gpus
    if not known and request.target == "tensorrt":
        known = machine.compute_capabilities
    return not known or any(float(capability) >= _AMPERE for capability in known)


def _workspace(
    request: BuildRequest, machine: Machine, free_memory_mib: Callable[[], int | None]
) -> Workspace:
    """Return the limit of TensorRT's scratch memory."""
    # By default TensorRT may use all memory of the device. On a Jetson that is the memory of the
    # system: Linux would end the process when it runs out, without an error after which lpx could
    # try a smaller limit.
    if request.tensorrt.workspace_mib is not None:
        return Workspace(request.tensorrt.workspace_mib, "as asked for")
    free = None
    if machine.jetson and request.target == "tensorrt":
        free = free_memory_mib()
    if free is None:
        return Workspace(None, "TensorRT's default")
    return Workspace(max(free // 2, 1), f"half of the {free} MiB that were free on the board")


def _notes(options: TensorRTOptions) -> list[str]:
    """Return notes on plans for other GPUs and releases."""
    notes = []
    if options.version_compatible:
        notes.append(
            "version-compatible: the plan contains code that runs in the process that loads it, so "
            "load it only if you trust who built it (lpx does so only on request)"
        )
    if options.hardware_compatible:
        notes.append(
            "hardware-compatible: the plan runs on other GPUs from Ampere on, and may be slower "
            "than one that is built for a single GPU"
        )
    return notes


def _beside_dla(plan: Plan, options: TensorRTOptions) -> list[str]:
    if options.dla_core is None or plan.layers is None:
        return []
    return list(plan.layers.beside_dla)


def _timing_cache(path: Path, used: bytes | None, plan: Plan, *, frozen: bool) -> dict[str, Any]:
    """Return the record for the manifest: the file, and its contents before and after the build."""
    taken, left = None, plan.timing_cache
    if plan.timing_cache_used:
        taken = used
    if frozen:
        left = used
    return {
        "file": path.name,
        "used_sha256": taken and hashlib.sha256(taken).hexdigest(),
        "left_sha256": left and hashlib.sha256(left).hexdigest(),
    }
