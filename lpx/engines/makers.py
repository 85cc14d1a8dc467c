"""Graph to engine, for each target."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import lpx
from lpx.engines.manifest import Target
from lpx.engines.onnxruntime.cpu import convolutions_of, nodes_as_run
from lpx.engines.onnxruntime.gpu import PLUGIN_PACKAGES, check_int8, provider_options
from lpx.engines.request import BuildRequest
from lpx.engines.tensorrt import (
    Flavour,
    Plan,
    Progress,
    Request,
    build_plan,
    capabilities_of,
    check,
    spans_of_batches,
)
from lpx.engines.tensorrt import load as load_library
from lpx.engines.tensorrt.building.repeat import build_repeatedly, measured
from lpx.engines.tensorrt.building.timing_cache import read_timing_cache, timing_cache_path
from lpx.errors import LpxError, NotAsAskedError
from lpx.graph.model_io import parse
from lpx.machine.machine import Machine, available_memory_mib
from lpx.workspace import write_bytes

_AMPERE = 8.0
"""The first compute capability with TF32, and the first that hardware-compatible plans run on."""
TF32 = (
    "TF32 is on: float32 convolutions round what they multiply to 10 bits of mantissa, as many as "
    "FP16 has; --no-tf32 keeps all 23"
)
_TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"
PROVIDER_TF32 = (
    "TF32 is on, and ONNX Runtime's provider has no option against it: float32 convolutions round "
    "what they multiply to 10 bits of mantissa, as many as FP16 has; NVIDIA_TF32_OVERRIDE=0 in the "
    "environment switches it off"
)


@dataclass(frozen=True)
class Made:
    """An engine, before its manifest.

    Attributes:
        computed_in: Precision by name of the node, for INT8: of the convolutions and matrix
            products that the runtime accounts for; empty where it reports nothing.
    """

    data: bytes
    file: str
    convolutions: dict[str, int]
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    computed_in: dict[str, str] = field(default_factory=dict)


def make_for_onnxruntime(graph: bytes, request: BuildRequest) -> Made:
    """An engine for ONNX Runtime's CPU provider: the graph, and how its convolutions run.

    Raises:
        NotAsAskedError: None of an INT8 graph's convolutions runs in integers.
    """
    nodes = nodes_as_run(graph)
    counts = convolutions_of(nodes)
    if request.precision == "int8" and not counts["int8"]:
        raise NotAsAskedError(
            "ONNX Runtime runs no convolution of this INT8 engine in integers",
            f"its optimiser recognises none of the {counts['fp32']} convolutions, with the Q/DQ "
            "pairs around them, as a pattern that it has an integer kernel for",
            "bench a float engine (--fp32), or build for another --target; and please report this "
            "with what `lpx explain-graph --target onnxruntime` prints",
        )
    warnings: tuple[str, ...] = ()
    if request.precision == "fp16":
        warnings = (
            "ONNX Runtime's CPU computes float16 graphs in float32 with extra casts: this engine "
            "shows FP16's rounding of weights and activations, not its speed",
        )
    versions = _versions("onnx", "onnxruntime")
    int8 = request.precision == "int8"
    computed_in = {name: precision for name, (_, precision) in nodes.items()} if int8 else {}
    return Made(graph, "engine.onnx", counts, versions, warnings, computed_in=computed_in)


def make_for_gpu_provider(graph: bytes, request: BuildRequest, size: int) -> Made:
    """An engine for one of ONNX Runtime's GPU providers: the graph and its options.

    Args:
        graph: ONNX, in the request's dialect.
        request: What to build.
        size: Side of a face, pixels.

    Raises:
        LpxError: The provider cannot do what is asked.
    """
    if request.precision == "int8":
        check_int8(request.target)
    spans = spans_of_batches(request.batches)
    if len(spans) > 1:
        raise LpxError(
            f"{len(spans)} batch sizes with target {request.target}",
            "ONNX Runtime takes one range",
            "give --batch-range MIN:BEST:MAX",
        )
    provider = provider_options(
        request.target,
        request.precision,
        spans[0],
        size,
        request.workspace_mib,
        request.optimisation_level,
    )
    warnings: tuple[str, ...] = ()
    counts: dict[str, int] = {}
    if request.target == "onnxruntime-cuda":
        # Its kernels compute in the type of their tensors.
        nodes = parse(graph, "the graph").graph
        counts = {request.precision: sum(node.op_type == "Conv" for node in nodes)}
    elif request.target == "onnxruntime-tensorrt":
        warnings = (
            "ONNX Runtime builds TensorRT's engine when this one is first run, which takes "
            "minutes, and does not tell which precision its layers got: --target tensorrt does",
        )
    else:
        warnings = (
            "ONNX Runtime builds the plan of TensorRT for RTX when it loads this engine, and does "
            "not report which precision its layers got: --target tensorrt-rtx does",
        )
    # Its CUDA provider is run without.
    tf32 = request.target != "onnxruntime-cuda" and os.environ.get(_TF32_OVERRIDE) != "0"
    if tf32 and request.precision == "fp32":
        warnings += (PROVIDER_TF32,)
    return Made(
        graph,
        "engine.onnx",
        counts,
        {**_versions("onnx"), "onnxruntime": _onnxruntime_version(), **_plugin_version(request)},
        warnings,
        (spans[0].maximum,),
        {"profiles": [asdict(spans[0])], "provider": provider, "tf32": tf32},
    )


def flavour_of(target: Target) -> Flavour:
    """The library of a target that is TensorRT's."""
    assert target == "tensorrt" or target == "tensorrt-rtx"
    return target


def _onnxruntime_version() -> str:
    import onnxruntime

    # The distribution may be onnxruntime, onnxruntime-gpu or a vendor's.
    return str(onnxruntime.__version__)


def check_for_tensorrt(request: BuildRequest, machine: Machine) -> None:
    """Refuse what the library or the machine at hand cannot build: before faces are calibrated on.

    Args:
        request: What to build, for a target that is TensorRT's.
        machine: The machine at hand.

    Raises:
        LpxError: It cannot be built here.
    """
    flavour = flavour_of(request.target)
    capabilities = capabilities_of(load_library(flavour), flavour)
    check(Request(onnx_model=b"", **_asked(request)), capabilities)
    if request.hardware_compatible:
        _check_reach(machine)


def _check_reach(machine: Machine) -> None:
    """Refuse plans for other GPU models where TensorRT does not support them."""
    if machine.jetson is not None:
        raise LpxError(
            "a hardware-compatible plan on a Jetson",
            "TensorRT does not support them with JetPack",
            "leave --hardware-compatible out, and build on each model of board",
        )
    oldest = machine.gpus[0].compute_capability if machine.gpus else None
    if oldest is not None and float(oldest) < _AMPERE:
        raise LpxError(
            f"a hardware-compatible plan on {machine.gpus[0].name}",
            f"such plans run on Ampere and later, compute capability {_AMPERE}; this GPU has "
            f"{oldest}",
            "leave --hardware-compatible out, or build on a newer GPU",
        )


def _asked(request: BuildRequest) -> dict[str, Any]:
    """The part of a request that `Request` and `build_plan` take as it is."""
    return {
        "precision": request.precision,
        "batches": request.batches,
        "compute_capabilities": request.compute_capabilities,
        "optimisation_level": request.optimisation_level,
        "version_compatible": request.version_compatible,
        "hardware_compatible": request.hardware_compatible,
        "dla_core": request.dla_core,
        "frozen_timing_cache": request.frozen_timing_cache,
        "tf32": request.tf32,
    }


def _plugin_version(request: BuildRequest) -> dict[str, str]:
    """Of the plugin that a target needs; none where it needs none, or its version is not known."""
    if request.target != "onnxruntime-tensorrt-rtx":
        return {}
    found = {name: _version(name) for name in PLUGIN_PACKAGES}
    return {name: version for name, version in found.items() if version}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def make_for_tensorrt(
    graph: bytes,
    request: BuildRequest,
    machine: Machine,
    calibration_cache: bytes | None,
    progress: Progress | None,
    timing_caches: Path | None,
) -> Made:
    """A plan of TensorRT or TensorRT for RTX, verified, and what its build did.

    Args:
        graph: ONNX, in the request's dialect.
        request: What to build.
        machine: The machine at hand.
        calibration_cache: Scales beside a plain graph; None for all other graphs.
        progress: Told of TensorRT's phases.
        timing_caches: Folder where timing caches lie between builds; None keeps none.

    Raises:
        NotAsAskedError: The plan does not compute in the precision asked for.
        LpxError: TensorRT refuses.
    """
    check_for_tensorrt(request, machine)
    flavour = flavour_of(request.target)
    capabilities = capabilities_of(load_library(flavour), flavour)
    version = ".".join(map(str, capabilities.version))
    path = None
    if timing_caches is not None and capabilities.timing_cache:
        path = timing_cache_path(timing_caches, version, machine)
    used = read_timing_cache(path, frozen=request.frozen_timing_cache) if path else None
    workspace_mib, workspace_from = _workspace(request, machine)

    def make() -> Plan:
        return build_plan(
            graph,
            flavour=flavour,
            workspace_mib=workspace_mib,
            timing_cache=used,
            calibration_cache=calibration_cache,
            progress=progress,
            **_asked(request),
        )

    spans = spans_of_batches(request.batches)
    measure = partial(
        measured,
        span=spans[-1],
        allow_host_code=request.version_compatible,
        dla_core=request.dla_core,
    )
    plan, spread = build_repeatedly(make, request.builds, measure if machine.gpus else None)
    if path and plan.timing_cache is not None and not request.frozen_timing_cache:
        write_bytes(path, plan.timing_cache, durable=False)
    tf32 = _tf32(request, machine, plan)
    options = {
        "profiles": [asdict(span) for span in spans],
        "workspace_mib": workspace_mib,
        "workspace_from": workspace_from,
        "optimisation_level": request.optimisation_level,
        "version_compatible": request.version_compatible,
        "hardware_compatible": request.hardware_compatible,
        "dla_core": request.dla_core,
        "tf32": tf32,
        "gpu_fallback": _beside_dla(plan, request),
        "layers": plan.layers.share_of_layers() if plan.layers else {},
        "timing_cache": path and _timing_cache(path, used, plan, request.frozen_timing_cache),
        "builds": asdict(spread),
    }
    return Made(
        plan.data,
        "engine.plan",
        plan.layers.count_convolutions() if plan.layers is not None else {},
        {**_versions("onnx"), request.target: plan.version},
        (*plan.log, *_notes(request), *([TF32] if tf32 and request.precision == "fp32" else [])),
        tuple(span.maximum for span in spans),
        options,
        plan.layers.precision_of_nodes() if plan.layers is not None else {},
    )


def _tf32(request: BuildRequest, machine: Machine, plan: Plan) -> bool:
    """Whether a plan's float32 tensors may be multiplied in TF32, which Ampere brought.

    TensorRT may by default. With NVIDIA_TF32_OVERRIDE=0 in the environment, or a GPU that has no
    TF32, it does not, and may say so in its log.
    """
    if not request.tf32 or os.environ.get(_TF32_OVERRIDE) == "0":
        return False
    if any("Disabling TF32" in line for line in plan.log):
        return False
    known = request.compute_capabilities
    if not known and request.target == "tensorrt":
        known = tuple(g.compute_capability for g in machine.gpus if g.compute_capability)
    return not known or any(float(capability) >= _AMPERE for capability in known)


def _workspace(request: BuildRequest, machine: Machine) -> tuple[int | None, str]:
    """Cap on TensorRT's scratch memory in MiB, None for its own, and where it comes from.

    TensorRT's own is all memory of the device. A Jetson's GPU shares the memory of the system, so
    that a build which takes it all ends with the kernel's out-of-memory killer, not with an error
    that the next lower step could answer.
    """
    if request.workspace_mib is not None:
        return request.workspace_mib, "as asked for"
    free = available_memory_mib() if machine.jetson and request.target == "tensorrt" else None
    if free is None:
        return None, "TensorRT's default"
    return max(free // 2, 1), f"half of the {free} MiB that were free on the board"


def _notes(request: BuildRequest) -> tuple[str, ...]:
    """What a user must know of options that reach beyond this GPU and release."""
    notes = []
    if request.version_compatible:
        notes.append(
            "version-compatible: the plan carries code that runs in the process that loads it, so "
            "load it only if you trust who built it (lpx does so only when told to)"
        )
    if request.hardware_compatible:
        notes.append(
            "hardware-compatible: it runs on other GPUs of Ampere and later, and may be slower "
            "than one that is built for the GPU"
        )
    return tuple(notes)


def _beside_dla(plan: Plan, request: BuildRequest) -> list[str]:
    if request.dla_core is None or plan.layers is None:
        return []
    return list(plan.layers.beside_dla)


def _timing_cache(path: Path, used: bytes | None, plan: Plan, frozen: bool) -> dict[str, Any]:
    """What the manifest says: the file, what was read from it, and what was left in it."""
    taken = used if plan.timing_cache_used else None
    left = used if frozen else plan.timing_cache
    return {
        "file": path.name,
        "frozen": frozen,
        "used_sha256": taken and hashlib.sha256(taken).hexdigest(),
        "left_sha256": left and hashlib.sha256(left).hexdigest(),
    }


def _versions(*packages: str) -> dict[str, str]:
    known: dict[str, Any] = {"lpx": lpx.__version__}
    for package in packages:
        known[package] = metadata.version(package)
    return known
