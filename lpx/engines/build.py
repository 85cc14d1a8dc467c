"""Build one engine: the graph of its dialect, the engine, the manifest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx_ir as ir

import lpx
from lpx.calibration.cache import header_version, write_cache
from lpx.calibration.methods import LEVELS
from lpx.calibration.scales import Scales
from lpx.card import ModelCard
from lpx.engines.machine import Machine
from lpx.engines.manifest import EngineManifest, Precision, Target, write_manifest
from lpx.engines.onnxruntime_engine import count_convolutions
from lpx.engines.onnxruntime_gpu import PROVIDERS, provider_options
from lpx.engines.repeat import build_repeatedly, measured
from lpx.engines.tensorrt import (
    Batches,
    BatchRange,
    Flavour,
    Plan,
    build_plan,
    capabilities_of,
    spans_of_batches,
)
from lpx.engines.tensorrt import load as load_library
from lpx.engines.timing_cache import read_timing_cache, timing_cache_path
from lpx.errors import LpxError
from lpx.graph.insert_qdq import DLA, ONNXRUNTIME, TENSORRT, activation_scales, insert_qdq
from lpx.graph.lower_opset import OLDEST, lower_opset
from lpx.graph.model_io import name_nodes, parse, serialise
from lpx.graph.placement import Placement, place
from lpx.graph.placement_dla import place_dla
from lpx.graph.prepare import prepare
from lpx.graph.to_fp16 import to_fp16
from lpx.graph.weights import DEFAULT_WEIGHTS, WeightOptions
from lpx.workspace import write_bytes

DEFAULT_BATCHES = BatchRange(1, 8, 32)
Progress = Callable[[str, int, int], None]
_STYLES = {
    "onnxruntime": ONNXRUNTIME,
    "strongly-typed": TENSORRT,
    "weakly-typed": TENSORRT,
    "dla-explicit": DLA,
}
DIALECTS = (*_STYLES, "calibration-cache")
_LOWERED = ("weakly-typed", "calibration-cache")
"""Dialects of releases that know no newer opset than 17."""
_HALF_SCALES_FROM = 19
"""Opset from which the scale of a QuantizeLinear may be float16."""


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

    @property
    def name(self) -> str:
        """Name of the engine and of its folder."""
        core = "" if self.dla_core is None else f"-dla{self.dla_core}"
        return f"{self.target}-{self.precision}{core}"


def build_engine(
    model: bytes, card: ModelCard, request: BuildRequest, folder: Path, machine: Machine,
    progress: Progress | None = None, timing_caches: Path | None = None,
) -> EngineManifest:  # fmt: skip
    """Build an engine into `folder`.

    Args:
        model: The exported ONNX model, float32.
        card: Its card.
        request: What to build.
        folder: Receives the engine file, for TensorRT the graph it was built from, the manifest.
        machine: Recorded in the manifest.
        progress: Told of TensorRT's phases.
        timing_caches: Folder where TensorRT's timing caches lie between builds; None keeps none.

    Raises:
        LpxError: The library refuses, or the engine does not compute in the precision asked for.
    """
    dialect = _dialect(request)
    graph, placement = make_graph(model, request, dialect)
    if request.target == "onnxruntime":
        made = _onnxruntime(graph, request)
    elif request.target in PROVIDERS:
        made = _onnxruntime_gpu(graph, request, card.input_size)
    else:
        cache = None
        if dialect == "calibration-cache":
            cache = _calibration_cache(model, request)
            write_bytes(folder / "calibration.cache", cache)
        made = _tensorrt(graph, request, machine, cache, progress, timing_caches)
        write_bytes(folder / "graph.onnx", graph)
    write_bytes(folder / made.file, made.data)
    calibration = None
    warnings = made.warnings
    if request.precision == "int8" and request.scales is not None:
        calibration = {
            "method": request.method,
            **request.scales.summary(),
            "weights": asdict(request.weights),
        }
        warnings = (*warnings, *([request.scales.warning] if request.scales.warning else []))
    manifest = EngineManifest(
        name=request.name,
        target=request.target,
        precision=request.precision,
        dialect=dialect,
        file=made.file,
        engine_sha256=hashlib.sha256(made.data).hexdigest(),
        model_sha256=hashlib.sha256(model).hexdigest(),
        card=card.to_dict(),
        batches=made.batches,
        compute_capabilities=request.compute_capabilities,
        calibration=calibration,
        placement=tuple(asdict(d) for d in placement.decisions) if placement else (),
        convolutions=made.convolutions,
        versions=made.versions,
        machine=asdict(machine),
        warnings=warnings,
        options={"requantised": request.requantise, **made.options},
    )
    write_manifest(folder, manifest)
    return manifest


def make_graph(model: bytes, request: BuildRequest, dialect: str) -> tuple[bytes, Placement | None]:
    """The graph of a precision in a dialect, and where it is quantised.

    Int8 in the dialect "calibration-cache" is the plain float32 graph; `cache_scales` makes the
    scales that go beside it.

    Args:
        model: Float32 ONNX.
        request: Precision, scales and target. The scales are those of
            `prepare(model, equalised=request.weights.equalise)`.
        dialect: One of `DIALECTS`.

    Raises:
        LpxError: The model is quantised already, its opset is too old for the dialect, or the
            scales are of another model.
    """
    int8 = request.precision == "int8"
    model, _ = prepare(
        model, "the exported model",
        equalised=int8 and request.weights.equalise, requantise=request.requantise,
    )  # fmt: skip
    if request.precision == "fp32" and dialect not in _LOWERED:
        return model, None
    graph = parse(model, "the exported model")
    name_nodes(graph)
    placement = placement_of(graph, request.target, dialect) if int8 else None
    if _is_half(dialect, request.precision):
        _check_opset(graph, dialect)
        to_fp16(graph)
    if placement is not None and dialect != "calibration-cache":
        ranges = _scales_of(model, request).ranges(request.method)
        insert_qdq(graph, placement, ranges, _STYLES[dialect], request.weights)
    if dialect in _LOWERED:
        lower_opset(graph, OLDEST)
    return serialise(graph), placement


def cache_scales(model: bytes, request: BuildRequest) -> dict[str, float]:
    """Scale of every tensor of a TensorRT calibration cache, for `make_graph`'s plain graph.

    Args:
        model: Float32 ONNX.
        request: Scales, method and weights.

    Raises:
        LpxError: As `make_graph`.
    """
    model, _ = prepare(
        model, "the exported model",
        equalised=request.weights.equalise, requantise=request.requantise,
    )  # fmt: skip
    graph = parse(model, "the exported model")
    name_nodes(graph)
    return activation_scales(place_dla(graph), _scales_of(model, request).ranges(request.method))


def placement_of(graph: ir.Model, target: Target, dialect: str) -> Placement:
    """Where a dialect quantises a float graph, and why.

    Args:
        graph: With every node named.
        target: What will run the engine.
        dialect: One of `DIALECTS`.
    """
    if dialect in ("dla-explicit", "calibration-cache"):
        return place_dla(graph)
    # TensorRT for RTX pads a depthwise convolution's channels fourfold in INT8 (seen in its plans).
    depthwise = target != "tensorrt-rtx"
    return place(graph, depthwise=depthwise, integer_outputs=dialect == "onnxruntime")


def _is_half(dialect: str, precision: Precision) -> bool:
    """Whether float16 stands in the graph; where not, it comes from a builder flag."""
    typed = dialect in ("strongly-typed", "dla-explicit")
    return typed or (dialect == "onnxruntime" and precision == "fp16")


def _check_opset(graph: ir.Model, dialect: str) -> None:
    opset = graph.graph.opset_imports[""]
    if dialect != "onnxruntime" and opset < _HALF_SCALES_FROM:
        raise LpxError(
            f"the model is of opset {opset}",
            f"a {dialect} graph needs {_HALF_SCALES_FROM}: before, Q/DQ scales cannot be float16",
            "run `lpx export` again without --opset",
        )


def _scales_of(model: bytes, request: BuildRequest) -> Scales:
    """The request's scales, after checking that they were made from this very model."""
    assert request.scales is not None, "int8 is built from scales"
    digest = hashlib.sha256(model).hexdigest()
    if request.scales.model_sha256 != digest:
        raise LpxError(
            f"the scales were calibrated on model {request.scales.model_sha256[:12]}, this is "
            f"{digest[:12]}",
            "ranges of another model, or of this one before equalisation, do not fit",
            "calibrate again",
        )
    return request.scales


def _dialect(request: BuildRequest) -> str:
    if request.target == "onnxruntime" or request.target == "onnxruntime-cuda":
        return "onnxruntime"
    if request.target == "onnxruntime-tensorrt":
        return "strongly-typed"
    flavour = _flavour(request.target)
    capabilities = capabilities_of(load_library(flavour), flavour)
    if request.dla_core is None or capabilities.dla_dialect is None:
        return capabilities.dialect  # a core that is asked of a library without DLA, it refuses
    if request.precision == "int8":
        return capabilities.dla_dialect
    return "strongly-typed" if capabilities.strongly_typed_only else "weakly-typed"


@dataclass(frozen=True)
class _Made:
    """An engine, before its manifest."""

    data: bytes
    file: str
    convolutions: dict[str, int]
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def _onnxruntime(graph: bytes, request: BuildRequest) -> _Made:
    counts = count_convolutions(graph)
    if request.precision == "int8" and not counts["int8"]:
        raise LpxError(
            "ONNX Runtime runs no convolution of this INT8 engine in integers",
            f"{counts['fp32']} convolutions run in float32 between Q/DQ pairs",
            "please report this with the checkpoint's backbone and cut",
        )
    warnings: tuple[str, ...] = ()
    if request.precision == "fp16":
        warnings = (
            "ONNX Runtime's CPU computes float16 graphs in float32 with extra casts: this engine "
            "shows FP16's rounding of weights and activations, not its speed",
        )
    versions = _versions("onnx", "onnxruntime")
    return _Made(graph, "engine.onnx", counts, versions, warnings)


def _onnxruntime_gpu(graph: bytes, request: BuildRequest, size: int) -> _Made:
    if request.target == "onnxruntime-cuda" and request.precision == "int8":
        raise LpxError(
            "INT8 with target onnxruntime-cuda",
            "ONNX Runtime's CUDA provider has no integer convolutions: it would compute in floats "
            "between Q/DQ pairs, slower than FP16",
            "build --fp16 for it, or --int8 for onnxruntime-tensorrt, tensorrt or onnxruntime",
        )
    spans = spans_of_batches(request.batches)
    if len(spans) > 1:
        raise LpxError(
            f"{len(spans)} batch sizes with target {request.target}",
            "ONNX Runtime takes one range",
            "give --batch-range MIN:BEST:MAX",
        )
    provider = provider_options(
        request.target, request.precision, spans[0], size, request.workspace_mib,
        request.optimisation_level,
    )  # fmt: skip
    warnings: tuple[str, ...] = ()
    counts: dict[str, int] = {}
    if request.target == "onnxruntime-cuda":
        # Its kernels compute in the type of their tensors.
        nodes = parse(graph, "the graph").graph
        counts = {request.precision: sum(node.op_type == "Conv" for node in nodes)}
    else:
        warnings = (
            "ONNX Runtime builds TensorRT's engine when this one is first run, which takes "
            "minutes, and does not tell which precision its layers got: --target tensorrt does",
        )
    return _Made(
        graph,
        "engine.onnx",
        counts,
        {**_versions("onnx"), "onnxruntime": _onnxruntime_version()},
        warnings,
        (spans[0].maximum,),
        {"profiles": [asdict(spans[0])], "provider": provider},
    )


def _flavour(target: Target) -> Flavour:
    """The library of a target that is TensorRT's."""
    assert target == "tensorrt" or target == "tensorrt-rtx"
    return target


def _onnxruntime_version() -> str:
    import onnxruntime

    # The distribution may be onnxruntime, onnxruntime-gpu or a vendor's.
    return str(onnxruntime.__version__)


def _tensorrt(
    graph: bytes, request: BuildRequest, machine: Machine, calibration_cache: bytes | None,
    progress: Progress | None, timing_caches: Path | None,
) -> _Made:  # fmt: skip
    flavour = _flavour(request.target)
    capabilities = capabilities_of(load_library(flavour), flavour)
    version = ".".join(map(str, capabilities.version))
    path = None
    if timing_caches is not None and capabilities.timing_cache:
        path = timing_cache_path(timing_caches, version, machine)
    used = read_timing_cache(path, frozen=request.frozen_timing_cache) if path else None

    def make() -> Plan:
        return build_plan(
            graph,
            flavour=flavour,
            precision=request.precision,
            batches=request.batches,
            compute_capabilities=request.compute_capabilities,
            workspace_mib=request.workspace_mib,
            optimisation_level=request.optimisation_level,
            timing_cache=used,
            calibration_cache=calibration_cache,
            progress=progress,
            version_compatible=request.version_compatible,
            hardware_compatible=request.hardware_compatible,
            dla_core=request.dla_core,
            frozen_timing_cache=request.frozen_timing_cache,
        )

    spans = spans_of_batches(request.batches)
    measure = partial(
        measured, span=spans[-1], allow_host_code=request.version_compatible,
        dla_core=request.dla_core,
    )  # fmt: skip
    plan, spread = build_repeatedly(make, request.builds, measure if machine.gpus else None)
    if path and plan.timing_cache is not None and not request.frozen_timing_cache:
        write_bytes(path, plan.timing_cache)
    counts: Counter[str] = Counter()
    if plan.layers is not None:
        counts.update(layer.precision for layer in plan.layers.convolutions)
    options = {
        "profiles": [asdict(span) for span in spans],
        "workspace_mib": request.workspace_mib,
        "optimisation_level": request.optimisation_level,
        "version_compatible": request.version_compatible,
        "hardware_compatible": request.hardware_compatible,
        "dla_core": request.dla_core,
        "gpu_fallback": _beside_dla(plan, request),
        "layers": plan.layers.share_of_layers() if plan.layers else {},
        "timing_cache": path and _timing_cache(path, used, plan, request.frozen_timing_cache),
        "builds": asdict(spread),
    }
    return _Made(
        plan.data,
        "engine.plan",
        dict(counts),
        {**_versions("onnx"), request.target: plan.version},
        (*plan.log, *_notes(request)),
        tuple(span.maximum for span in spans),
        options,
    )


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
    left = used if frozen else plan.timing_cache
    return {
        "file": path.name,
        "frozen": frozen,
        "used_sha256": used and hashlib.sha256(used).hexdigest(),
        "left_sha256": left and hashlib.sha256(left).hexdigest(),
    }


def _calibration_cache(model: bytes, request: BuildRequest) -> bytes:
    """The text of a calibration cache for the release at hand, which refuses another one's."""
    version = capabilities_of(load_library("tensorrt"), "tensorrt").version
    scales = cache_scales(model, request)
    peaks = {name: scale * LEVELS for name, scale in scales.items()}
    return write_cache(peaks, header_version(version)).encode()


def _versions(*packages: str) -> dict[str, str]:
    known: dict[str, Any] = {"lpx": lpx.__version__}
    for package in packages:
        known[package] = metadata.version(package)
    return known
