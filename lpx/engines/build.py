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
from lpx.graph.insert_qdq import ONNXRUNTIME, TENSORRT, insert_qdq
from lpx.graph.lower_opset import OLDEST, lower_opset
from lpx.graph.model_io import parse, serialise
from lpx.graph.placement import Placement, place
from lpx.graph.to_fp16 import to_fp16
from lpx.workspace import write_bytes

DEFAULT_BATCHES = BatchRange(1, 8, 32)
Progress = Callable[[str, int, int], None]


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
    """

    target: Target
    precision: Precision
    scales: Scales | None = None
    method: str = ""
    compute_capabilities: tuple[str, ...] = ()
    batches: BatchRange = DEFAULT_BATCHES
    workspace_mib: int | None = None

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
        calibration = {"method": request.method, **request.scales.summary()}
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

    Args:
        model: Float32 ONNX.
        request: Precision, scales and target.
        dialect: "onnxruntime", "strongly-typed" or "weakly-typed".
    """
    graph = parse(model, "the exported model")
    if request.precision == "fp32":
        return model, None
    # A weakly typed network gets its float16 from a builder flag, and is float32 in the graph.
    half = dialect == "strongly-typed" or (dialect == "onnxruntime" and request.precision == "fp16")
    placement = None
    if request.precision == "int8":
        placement = _placement(graph, request.target)
    if half:
        to_fp16(graph)
    if placement is not None:
        assert request.scales is not None, "int8 is built from scales"
        style = ONNXRUNTIME if dialect == "onnxruntime" else TENSORRT
        insert_qdq(graph, placement, request.scales.ranges(request.method), style)
    if dialect == "weakly-typed":
        lower_opset(graph, OLDEST)
    return serialise(graph), placement


def _placement(graph: ir.Model, target: Target) -> Placement:
    # TensorRT for RTX pads a depthwise convolution's channels fourfold in INT8 (seen in its plans).
    return place(graph, depthwise=target != "tensorrt-rtx", integer_outputs=target == "onnxruntime")


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
