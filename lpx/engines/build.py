"""Build one engine: the graph of its dialect, the engine, the manifest."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from lpx.calibration.cache import header_version, write_cache
from lpx.calibration.methods import LEVELS
from lpx.calibration.scales import IMPORTED, Scales
from lpx.card import ModelCard
from lpx.engines.load import GRAPH
from lpx.engines.makers import (
    flavour_of,
    make_for_gpu_provider,
    make_for_onnxruntime,
    make_for_tensorrt,
)
from lpx.engines.manifest import EngineManifest, Precision, Target, write_manifest
from lpx.engines.onnxruntime.cpu import precision_of_nodes
from lpx.engines.onnxruntime.gpu import PROVIDERS, check_int8
from lpx.engines.request import BuildRequest
from lpx.engines.tensorrt import (
    Progress,
    capabilities_of,
)
from lpx.engines.tensorrt import load as load_library
from lpx.engines.work import by_precision, multiply_accumulates, warning_of_share
from lpx.errors import LpxError, NotAsAskedError
from lpx.graph.lower_opset import OLDEST, lower_opset
from lpx.graph.model_io import name_nodes, parse, serialise
from lpx.graph.nodes import COMPUTE
from lpx.graph.qdq.insert_qdq import (
    DLA,
    ONNXRUNTIME,
    TENSORRT,
    Range,
    activation_scales,
    insert_qdq,
)
from lpx.graph.qdq.placement import MIN_CHANNELS, Placement, narrowest, place
from lpx.graph.qdq.placement_dla import place_dla
from lpx.graph.qdq.prepare import prepare
from lpx.graph.to_fp16 import to_fp16
from lpx.machine.machine import Machine
from lpx.workspace import write_bytes

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


def build_engine(
    model: bytes,
    card: ModelCard,
    request: BuildRequest,
    folder: Path,
    machine: Machine,
    progress: Progress | None = None,
    timing_caches: Path | None = None,
) -> EngineManifest:
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
    dialect = dialect_of(request)
    graph, placement = make_graph(model, request, dialect)
    noted: dict[str, Any] = {"requantised": request.weights.requantise}
    if request.target == "onnxruntime":
        made = make_for_onnxruntime(graph, request)
    elif request.target in PROVIDERS:
        made = make_for_gpu_provider(graph, request, card.input_size)
    else:
        cache = None
        if dialect == "calibration-cache":
            cache = _calibration_cache(model, request)
            write_bytes(folder / "calibration.cache", cache)
        made = make_for_tensorrt(graph, request, machine, cache, progress, timing_caches)
        write_bytes(folder / GRAPH, graph)
        noted["graph_sha256"] = hashlib.sha256(graph).hexdigest()
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
    work: dict[str, int] = {}
    if placement is not None and made.computed_in:
        prepared, _ = prepare(model, "the exported model", requantise=request.weights.requantise)
        work = multiply_accumulates(prepared)
        warning = warning_of_share(work, made.computed_in, placement.decisions)
        warnings = (*warnings, *([warning] if warning else []))
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
        multiply_accumulates=by_precision(work, made.computed_in),
        versions=made.versions,
        machine=asdict(machine),
        warnings=warnings,
        options={**noted, **made.options},
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
        model,
        "the exported model",
        equalised=int8 and request.weights.equalise,
        requantise=request.weights.requantise,
    )
    if request.precision == "fp32" and dialect not in _LOWERED:
        return model, None
    graph = parse(model, "the exported model")
    name_nodes(graph)
    placement = None
    if int8:
        placement = placement_of(graph, request.target, dialect, request.weights.min_channels)
    if _is_half(dialect, request.precision):
        _check_opset(graph, dialect)
        to_fp16(graph)
    if placement is not None and dialect != "calibration-cache":
        scales = _scales_of(model, request)
        ranges = scales.ranges(request.method)
        if scales.method == IMPORTED:
            # A calibration cache knows the tensors that TensorRT or a DLA quantises: where ONNX
            # Runtime would take more, it computes in float instead.
            known = tuple(name for name in placement.outputs if name in ranges)
            placement = replace(placement, outputs=known)
        insert_qdq(graph, placement, ranges, _STYLES[dialect], request.weights)
    if dialect in _LOWERED:
        lower_opset(graph, OLDEST)
    return serialise(graph), placement


def require_int8(model: bytes, request: BuildRequest) -> Placement:
    """Check, before calibration, that INT8 quantises anything of a model for a target.

    Args:
        model: Float32 ONNX.
        request: Target and weights; its scales are not read.

    Returns:
        Where it will be quantised.

    Raises:
        NotAsAskedError: lpx's rules leave every convolution in float; says which rules, and which
            option overrides them.
        LpxError: The model is quantised already, or the target has no INT8.
    """
    check_int8(request.target)
    dialect = dialect_of(request)
    prepared, _ = prepare(model, "the exported model", requantise=request.weights.requantise)
    graph = parse(prepared, "the exported model")
    name_nodes(graph)
    placement = placement_of(graph, request.target, dialect, request.weights.min_channels)
    require_quantised(graph, placement, request.weights.min_channels)
    running = set(placement.convolutions) - placement.stored
    if dialect == "onnxruntime" and not running:
        names = ", ".join(placement.convolutions[:3])
        raise NotAsAskedError(
            f"ONNX Runtime would run none of this model's convolutions in integers: float nodes "
            f"read the results of those that lpx would quantise ({names})",
            "its integer convolution gives 8-bit integers; in front of the classifier, where one "
            "logit decides, and of operators that it cannot run behind one, lpx keeps floats",
            "build --fp32 for this target; TensorRT's integer convolutions give floats "
            "(--target tensorrt or tensorrt-rtx)",
        )
    return placement


def require_quantised(graph: ir.Model, placement: Placement, min_channels: int) -> None:
    """Check that a placement quantises at least one convolution.

    Args:
        graph: The float graph that it was made from.
        placement: Where it is quantised.
        min_channels: As it was made with.

    Raises:
        NotAsAskedError: It quantises none; says why, and which option overrides that.
    """
    if placement.convolutions:
        return
    left = [d for d in placement.decisions if d.op_type in COMPUTE]
    reasons = Counter(d.reason for d in left)
    widths = [width for node in graph.graph if (width := narrowest(node)) is not None]
    narrow = [width for width in widths if width < min_channels]
    fix = "build --fp32 or --fp16"
    if narrow:
        fix = (
            f"give --min-channels {min(narrow)} to quantise them all the same (to `lpx calibrate` "
            f"too; kernels pad them, so bench the engine beside a float one), or {fix}"
        )
    raise NotAsAskedError(
        f"lpx leaves all {len(left)} convolutions and matrix products of this model in float, so "
        "there is nothing to build in INT8",
        "its rules: " + "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common()),
        fix,
    )


def expected_work(graph: ir.Model, placement: Placement, dialect: str) -> dict[str, int]:
    """Multiply-accumulates of a face by precision, as far as can be said before calibration.

    Of ONNX Runtime's dialect they are read off the graph as its optimiser leaves it, which takes
    no measured ranges. What TensorRT takes, only a build shows: here, what is offered to it.

    Args:
        graph: The float graph that the placement was made from; it gets Q/DQ pairs.
        placement: Where it is quantised.
        dialect: One of `DIALECTS`.

    Returns:
        Counts for "int8" and "float"; empty where the graph does not run with a batch of one.
    """
    work = multiply_accumulates(serialise(graph))
    if dialect == "onnxruntime":
        ranges = dict.fromkeys(placement.observed, Range(-1.0, 1.0, ()))
        insert_qdq(graph, placement, ranges, ONNXRUNTIME)
        found = precision_of_nodes(serialise(graph))
        integer = {name for name, precision in found.items() if precision == "int8"}
    else:
        integer = set(placement.convolutions)
    return by_precision(work, {name: "int8" if name in integer else "float" for name in work})


def cache_scales(model: bytes, request: BuildRequest) -> dict[str, float]:
    """Scale of every tensor of a TensorRT calibration cache, for `make_graph`'s plain graph.

    Args:
        model: Float32 ONNX.
        request: Scales, method and weights.

    Raises:
        LpxError: As `make_graph`.
    """
    model, _ = prepare(
        model,
        "the exported model",
        equalised=request.weights.equalise,
        requantise=request.weights.requantise,
    )
    graph = parse(model, "the exported model")
    name_nodes(graph)
    return activation_scales(place_dla(graph), _scales_of(model, request).ranges(request.method))


def placement_of(
    graph: ir.Model, target: Target, dialect: str, min_channels: int = MIN_CHANNELS
) -> Placement:
    """Where a dialect quantises a float graph, and why.

    Args:
        graph: With every node named.
        target: What will run the engine.
        dialect: One of `DIALECTS`.
        min_channels: Convolutions with fewer channels stay in float, except for a DLA.
    """
    if dialect in ("dla-explicit", "calibration-cache"):
        return place_dla(graph)
    # TensorRT for RTX pads a depthwise convolution's channels fourfold in INT8 (seen in its plans).
    depthwise = not target.endswith("tensorrt-rtx")
    return place(
        graph,
        depthwise=depthwise,
        integer_outputs=dialect == "onnxruntime",
        min_channels=min_channels,
    )


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


def dialect_of(request: BuildRequest) -> str:
    """The form of graph, one of `DIALECTS`, that a target takes, as installed here."""
    if request.target == "onnxruntime" or request.target == "onnxruntime-cuda":
        return "onnxruntime"
    if request.target in PROVIDERS:
        return "strongly-typed"
    flavour = flavour_of(request.target)
    capabilities = capabilities_of(load_library(flavour), flavour)
    if request.dla_core is None or capabilities.dla_dialect is None:
        return capabilities.dialect  # a core that is asked of a library without DLA, it refuses
    if request.precision == "int8":
        return capabilities.dla_dialect
    return "strongly-typed" if capabilities.strongly_typed_only else "weakly-typed"


def _calibration_cache(model: bytes, request: BuildRequest) -> bytes:
    """The text of a calibration cache for the release at hand, which refuses another one's."""
    version = capabilities_of(load_library("tensorrt"), "tensorrt").version
    scales = cache_scales(model, request)
    peaks = {name: scale * LEVELS for name, scale in scales.items()}
    return write_cache(peaks, header_version(version)).encode()
