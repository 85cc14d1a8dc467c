"""Build one engine: the graph of its dialect, the engine, the manifest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx_ir as ir

import lpx
from lpx.calibration.scales import Scales
from lpx.card import ModelCard
from lpx.engines.machine import Machine
from lpx.engines.manifest import EngineManifest, Precision, Target, write_manifest
from lpx.engines.onnxruntime_engine import count_convolutions
from lpx.engines.tensorrt import BatchRange, build_plan, capabilities_of
from lpx.engines.tensorrt import load as load_library
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
        batches: Batch sizes of the TensorRT profile.
        workspace_mib: Cap on TensorRT's scratch memory, MiB; None for its default.
        weights: What is done to weights, for int8.
        requantise: Take out the Q/DQ pairs that the model has, instead of refusing it.
    """

    target: Target
    precision: Precision
    scales: Scales | None = None
    method: str = ""
    compute_capabilities: tuple[str, ...] = ()
    batches: BatchRange = DEFAULT_BATCHES
    workspace_mib: int | None = None
    weights: WeightOptions = DEFAULT_WEIGHTS
    requantise: bool = False

    @property
    def name(self) -> str:
        """Name of the engine and of its folder."""
        return f"{self.target}-{self.precision}"


def build_engine(
    model: bytes, card: ModelCard, request: BuildRequest, folder: Path, machine: Machine,
    progress: Progress | None = None,
) -> EngineManifest:  # fmt: skip
    """Build an engine into `folder`.

    Args:
        model: The exported ONNX model, float32.
        card: Its card.
        request: What to build.
        folder: Receives the engine file, for TensorRT the graph it was built from, the manifest.
        machine: Recorded in the manifest.
        progress: Told of TensorRT's phases.

    Raises:
        LpxError: The library refuses, or the engine does not compute in the precision asked for.
    """
    dialect = _dialect(request)
    graph, placement = make_graph(model, request, dialect)
    if request.target == "onnxruntime":
        made = _onnxruntime(graph, request)
    else:
        made = _tensorrt(graph, request, progress)
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
        batches=() if request.target == "onnxruntime" else (request.batches.maximum,),
        compute_capabilities=request.compute_capabilities,
        calibration=calibration,
        placement=tuple(asdict(d) for d in placement.decisions) if placement else (),
        convolutions=made.convolutions,
        versions=made.versions,
        machine=asdict(machine),
        warnings=warnings,
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
    if request.precision == "fp32":
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
    if dialect in ("weakly-typed", "calibration-cache"):
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
    if request.target == "onnxruntime":
        return "onnxruntime"
    trt = load_library(request.target)
    return str(capabilities_of(trt, request.target).dialect)


@dataclass(frozen=True)
class _Made:
    """An engine, before its manifest."""

    data: bytes
    file: str
    convolutions: dict[str, int]
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()


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


def _tensorrt(graph: bytes, request: BuildRequest, progress: Progress | None) -> _Made:
    assert request.target != "onnxruntime"
    plan = build_plan(
        graph,
        flavour=request.target,
        precision=request.precision,
        batches=request.batches,
        compute_capabilities=request.compute_capabilities,
        workspace_mib=request.workspace_mib,
        progress=progress,
    )
    counts: Counter[str] = Counter()
    if plan.layers is not None:
        counts.update(layer.precision for layer in plan.layers.convolutions)
    versions = {**_versions("onnx"), request.target: plan.version}
    return _Made(plan.data, "engine.plan", dict(counts), versions, plan.log)


def _versions(*packages: str) -> dict[str, str]:
    known: dict[str, Any] = {"lpx": lpx.__version__}
    for package in packages:
        known[package] = metadata.version(package)
    return known
