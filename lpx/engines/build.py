"""Build one engine: the graph of its dialect, the engine, the manifest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import onnx_ir as ir

from lpx.calibration.cache import header_version, write_cache
from lpx.calibration.methods import LEVELS
from lpx.calibration.scales import IMPORTED, Scales
from lpx.card import ModelCard
from lpx.engines.load import GRAPH
from lpx.engines.manifest import EngineManifest, Precision, Target, write_manifest
from lpx.engines.onnxruntime.cpu import precision_of_nodes
from lpx.engines.onnxruntime.gpu import PROVIDERS, check_int8
from lpx.engines.onnxruntime.make import make_for_cpu, make_for_gpu
from lpx.engines.request import BuildRequest
from lpx.engines.targets import ResolvedTarget
from lpx.engines.tensorrt import PhaseProgress, Plan, TensorRTLibrary
from lpx.engines.tensorrt.building.make import make_for_tensorrt
from lpx.engines.tensorrt.building.repeat import measure_latency
from lpx.engines.tensorrt_options import TensorRTOptions
from lpx.engines.work import by_precision, multiply_accumulates, warning_of_share
from lpx.errors import LpxError, NotAsAskedError
from lpx.graph.lower_opset import OLDEST, lower_opset
from lpx.graph.model_io import name_nodes, parse, serialise
from lpx.graph.nodes import COMPUTE
from lpx.graph.qdq.apply_plan import check_float32_layers, check_plan, tensor_methods
from lpx.graph.qdq.insert_qdq import (
    DLA,
    ONNXRUNTIME,
    TENSORRT,
    Range,
    Style,
    activation_scales,
    insert_qdq,
)
from lpx.graph.qdq.placement import MIN_CHANNELS, Placement, narrowest, place
from lpx.graph.qdq.placement_dla import place_dla
from lpx.graph.qdq.plan import NO_PLAN, PrecisionPlan
from lpx.graph.qdq.prepare import prepare_model
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
# Dialects of TensorRT releases that support no opset beyond 17.
_LOWERED = ("weakly-typed", "calibration-cache")
# Opset from which the scale of a QuantizeLinear may be float16.
_HALF_SCALES_FROM = 19


def build_engine(
    model: bytes,
    card: ModelCard,
    request: BuildRequest,
    target: ResolvedTarget,
    folder: Path,
    machine: Machine,
    *,
    progress: PhaseProgress | None = None,
    timing_caches: Path | None = None,
    graph: bytes | None = None,
    measure: Callable[[Plan, TensorRTLibrary, TensorRTOptions], float] = measure_latency,
) -> EngineManifest:
    """Build an engine into `folder`.

    Args:
        model: The exported ONNX model, float32.
        card: Its model card.
        request: The engine to build.
        target: The request's target, resolved for this machine.
        folder: Folder for the engine file and the manifest; for TensorRT also for the graph.
        machine: This machine, which the manifest records.
        progress: Receives TensorRT's phases.
        timing_caches: Folder of TensorRT's timing caches; None for builds without one.
        graph: Graph of the model in the target's dialect, if it was made before; None to make it
            here, which dialect "calibration-cache" requires.
        measure: Function that returns the latency of a TensorRT plan, ms.

    Raises:
        LpxError: The library refuses, or the engine does not compute in the precision asked for.
    """
    dialect = target.dialect(request.precision, request.tensorrt.dla_core)
    if graph is None:
        graph, placement = make_graph(model, request, dialect)
    else:
        placement = _placement_in(model, request, dialect)
    noted: dict[str, Any] = {"requantised": request.weights.requantise}
    if request.target == "onnxruntime":
        built = make_for_cpu(graph, request)
    elif request.target in PROVIDERS:
        built = make_for_gpu(graph, request, card.input_size)
    else:
        cache = None
        if dialect == "calibration-cache":
            cache = _calibration_cache(model, request, target.tensorrt)
            # Written before the build, so that it can be inspected if the build fails.
            write_bytes(folder / "calibration.cache", cache)
        built = make_for_tensorrt(
            graph,
            request,
            target.tensorrt,
            machine,
            calibration_cache=cache,
            progress=progress,
            timing_caches=timing_caches,
            measure=measure,
        )
        # Stored beside the plan, since `lpx debug` compares the layers of a plan with their graph.
        write_bytes(folder / GRAPH, graph)
        noted["graph_sha256"] = hashlib.sha256(graph).hexdigest()
    write_bytes(folder / built.file, built.data)
    warnings = [*built.warnings]
    if request.calibration is not None and request.scales is not None:
        warnings.append(request.scales.warning)
    work: dict[str, int] = {}
    # Only if the runtime reports in which precision it computes each node.
    if placement is not None and built.computed_in:
        prepared, _ = prepare_model(
            model, "the exported model", requantise=request.weights.requantise
        )
        work = multiply_accumulates(prepared)
        warnings.append(warning_of_share(work, built.computed_in, placement.decisions))
    decisions: tuple[dict[str, Any], ...] = ()
    if placement is not None:
        decisions = tuple(map(asdict, placement.decisions))
    plan = request.plan.to_dict() if request.follows_plan else None
    manifest = EngineManifest(
        name=request.name,
        target=request.target,
        precision=request.precision,
        dialect=dialect,
        file=built.file,
        engine_sha256=hashlib.sha256(built.data).hexdigest(),
        # Of the exported model, not of the prepared one, so that users can check it.
        model_sha256=hashlib.sha256(model).hexdigest(),
        card=card.to_dict(),
        calibration=request.calibration,
        placement=decisions,
        convolutions=built.convolutions,
        multiply_accumulates=by_precision(work, built.computed_in),
        versions=built.versions,
        machine=asdict(machine),
        warnings=tuple(filter(None, warnings)),
        options={**noted, **built.options},
        plan=plan,
    )
    # Last: a folder with a manifest is complete.
    write_manifest(folder, manifest)
    return manifest


def style_of(dialect: str) -> Style:
    """Return the form of the Q/DQ pairs in a dialect of `DIALECTS`."""
    # A calibration cache has scales for the tensors of a DLA, and no pairs.
    return _STYLES.get(dialect, DLA)


class LoweredGraph(NamedTuple):
    """A graph of some precision and dialect.

    Attributes:
        data: ONNX.
        placement: Placement of its Q/DQ pairs; None for float precisions.
    """

    data: bytes
    placement: Placement | None


def make_graph(model: bytes, request: BuildRequest, dialect: str) -> LoweredGraph:
    """Lower a model to the precision and dialect of an engine.

    For INT8 in dialect "calibration-cache" this is the plain float32 graph; its scales come from
    `cache_scales`.

    Args:
        model: Float32 ONNX.
        request: Precision, scales, target and plan. The scales belong to the result of
            `prepare_model(model, equalised=request.weights.equalise)`.
        dialect: One of `DIALECTS`.

    Raises:
        NotAsAskedError: The plan keeps every layer of an FP16 engine in float32.
        LpxError: The model is quantised already, its opset is too old for the dialect, or the
            scales or the plan are of another model.
    """
    int8 = request.precision == "int8"
    digest = hashlib.sha256(model).hexdigest()
    # In a float engine, equalisation would only change rounding errors.
    model, _ = prepare_model(
        model,
        "the exported model",
        equalised=int8 and request.weights.equalise,
        requantise=request.weights.requantise,
    )
    # Old dialects are lowered even in float32, as their parsers do not support newer opsets.
    if request.precision == "fp32" and dialect not in _LOWERED:
        return LoweredGraph(model, None)
    graph = parse(model, "the exported model")
    name_nodes(graph)
    if request.follows_plan:
        _check_plan(graph, request, dialect, digest)
    placement = None
    # Placed in the float32 graph: casts to float16 would hide the patterns that the rules match.
    if int8:
        placement = placement_of(
            graph, request.target, dialect, request.weights.min_channels, request.plan
        )
    if _is_half(dialect, request.precision):
        _check_opset(graph, dialect)
        to_fp16(graph, request.plan.float32_layers)
    # A calibration cache is used with the plain graph: with pairs it would be quantised twice.
    if placement is not None and dialect != "calibration-cache":
        scales = _scales_of(model, request)
        ranges = _ranges(scales, request, placement)
        if scales.method == IMPORTED:
            # An imported calibration cache has scales for the tensors that TensorRT or a DLA
            # quantises. ONNX Runtime would quantise more; it computes those in float.
            known = tuple(name for name in placement.outputs if name in ranges)
            placement = replace(placement, outputs=known)
        insert_qdq(graph, placement, ranges, _STYLES[dialect], request.weights, request.plan)
    # Last, as the steps before expect the opset that lpx exports.
    if dialect in _LOWERED:
        lower_opset(graph, OLDEST)
    return LoweredGraph(serialise(graph), placement)


def require_int8(model: bytes, request: BuildRequest, dialect: str) -> Placement:
    """Check, before calibration, that a target computes some of a model in INT8.

    Args:
        model: Float32 ONNX.
        request: Target and weights; its scales are not read.
        dialect: One of `DIALECTS`.

    Returns:
        Placement of the Q/DQ pairs.

    Raises:
        NotAsAskedError: lpx's rules, or the plan, leave every convolution in float; says which
            rules, and which option overrides them.
        LpxError: The model is quantised already, the target has no INT8, or the plan does not fit
            the model, the dialect, or its placement.
    """
    check_int8(request.target)
    prepared, _ = prepare_model(model, "the exported model", requantise=request.weights.requantise)
    graph = parse(prepared, "the exported model")
    name_nodes(graph)
    if request.follows_plan:
        _check_plan(graph, request, dialect, hashlib.sha256(model).hexdigest())
    placement = placement_of(
        graph, request.target, dialect, request.weights.min_channels, request.plan
    )
    require_quantised(graph, placement, request.weights.min_channels, request.plan)
    # Conflicts are found here, before faces are observed.
    tensor_methods(placement, request.plan)
    # Some convolutions compute in float, although their weights are stored as integers.
    running = set(placement.convolutions) - placement.stored
    if dialect == "onnxruntime" and not running:
        names = ", ".join(placement.convolutions[:3])
        fix = (
            'build FP32 for this target, or INT8 for `target="tensorrt"` or '
            '`target="tensorrt-rtx"`: TensorRT\'s integer convolutions return floats'
        )
        if request.follows_plan:
            fix = f"quantise the layers after these in the precision plan too; or {fix}"
        raise NotAsAskedError(
            f"ONNX Runtime would run none of this model's convolutions in integers: float nodes "
            f"read the results of those that lpx would quantise ({names})",
            "its integer convolutions return 8-bit integers, and lpx keeps floats before the "
            "classifier, where one logit decides, and before operators that it cannot run after "
            "such a convolution",
            fix,
        )
    return placement


def require_quantised(
    graph: ir.Model, placement: Placement, min_channels: int, plan: PrecisionPlan = NO_PLAN
) -> None:
    """Check that a placement quantises at least one convolution.

    Args:
        graph: The float graph that it was made from.
        placement: Placement of its Q/DQ pairs.
        min_channels: The `min_channels` of the placement.
        plan: The plan of the placement.

    Raises:
        NotAsAskedError: It quantises none; says why, and which option overrides that.
    """
    if placement.convolutions:
        return
    left = [d for d in placement.decisions if d.op_type in COMPUTE]
    planned = sum(d.reason == plan.float_reason(d.node) for d in left)
    if planned:
        raise NotAsAskedError(
            "the precision plan leaves no layer in INT8",
            f"of {len(left)} convolutions and matrix products it keeps {planned} in float that the "
            "target would quantise, and the target's rules keep the others there",
            'set the "precision" of some of them to "int8" in the plan, or build without `plan`',
        )
    reasons = Counter(d.reason for d in left)
    # Narrow layers are the only reason that an option overrides.
    narrow = []
    for node in graph.graph:
        width = narrowest(node)
        if width is not None and width < min_channels:
            narrow.append(width)
    fix = "build FP32 or FP16"
    if narrow:
        fix = (
            f"use `min_channels={min(narrow)}` to quantise them nevertheless (for `lpx calibrate` "
            f"too; kernels pad them, so bench the engine beside a float one), or {fix}"
        )
    raise NotAsAskedError(
        f"lpx leaves all {len(left)} convolutions and matrix products of this model in float, so "
        "there is nothing to build in INT8",
        "its rules: " + "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common()),
        fix,
    )


def expected_work(graph: ir.Model, placement: Placement, dialect: str) -> dict[str, int]:
    """Count multiply-accumulates of a face by precision, as far as known before calibration.

    For ONNX Runtime's dialect they are counted in the optimised graph, which needs no measured
    ranges. For TensorRT they are those that Q/DQ pairs allow in INT8: only a build shows which of
    them TensorRT computes in it.

    Args:
        graph: The float graph that the placement was made from; Q/DQ pairs are inserted in it.
        placement: Placement of the Q/DQ pairs.
        dialect: One of `DIALECTS`.

    Returns:
        Counts for "int8" and "float"; empty if the graph does not run with a batch of one.
    """
    work = multiply_accumulates(serialise(graph))
    if dialect == "onnxruntime":
        # The range does not matter: which nodes ONNX Runtime fuses depends on the pairs, not on
        # their scales.
        ranges = dict.fromkeys(placement.observed, Range(-1.0, 1.0, ()))
        insert_qdq(graph, placement, ranges, ONNXRUNTIME)
        precisions = precision_of_nodes(serialise(graph))
    else:
        precisions = dict.fromkeys(placement.convolutions, "int8")
    computed_in = dict.fromkeys(work, "float")
    for name, precision in precisions.items():
        # All other precisions count as floats: which of them is known only after the build.
        if precision == "int8":
            computed_in[name] = "int8"
    return by_precision(work, computed_in)


def cache_scales(model: bytes, request: BuildRequest) -> dict[str, float]:
    """Return the scale of every tensor of a TensorRT calibration cache, for the plain graph.

    Args:
        model: Float32 ONNX.
        request: Scales, method, weights and plan.

    Raises:
        LpxError: As `make_graph`.
    """
    digest = hashlib.sha256(model).hexdigest()
    model, _ = prepare_model(
        model,
        "the exported model",
        equalised=request.weights.equalise,
        requantise=request.weights.requantise,
    )
    graph = parse(model, "the exported model")
    name_nodes(graph)
    check_plan(request.plan, graph, digest)
    placement = place_dla(graph, request.plan)
    return activation_scales(placement, _ranges(_scales_of(model, request), request, placement))


def placement_of(
    graph: ir.Model,
    target: Target,
    dialect: str,
    min_channels: int = MIN_CHANNELS,
    plan: PrecisionPlan = NO_PLAN,
) -> Placement:
    """Place the Q/DQ pairs of a dialect in a float graph.

    Args:
        graph: Float graph, with every node named.
        target: Runtime of the engine.
        dialect: One of `DIALECTS`.
        min_channels: Convolutions with fewer channels stay in float, except for a DLA.
        plan: Keeps further convolutions in float.
    """
    if dialect in ("dla-explicit", "calibration-cache"):
        return place_dla(graph, plan)
    # TensorRT for RTX pads a depthwise convolution's channels fourfold in INT8 (seen in its plans).
    depthwise = not target.endswith("tensorrt-rtx")
    return place(
        graph,
        depthwise=depthwise,
        integer_outputs=dialect == "onnxruntime",
        min_channels=min_channels,
        plan=plan,
    )


def _placement_in(model: bytes, request: BuildRequest, dialect: str) -> Placement | None:
    """Place the Q/DQ pairs of a request, without its scales; None for float precisions."""
    if request.precision != "int8":
        return None
    model, _ = prepare_model(model, "the exported model", requantise=request.weights.requantise)
    graph = parse(model, "the exported model")
    name_nodes(graph)
    return placement_of(graph, request.target, dialect, request.weights.min_channels, request.plan)


def _is_half(dialect: str, precision: Precision) -> bool:
    """Return True if the graph has float16 tensors, False if a builder flag allows float16."""
    typed = dialect in ("strongly-typed", "dla-explicit")
    return typed or (dialect == "onnxruntime" and precision == "fp16")


def _check_plan(graph: ir.Model, request: BuildRequest, dialect: str, model_sha256: str) -> None:
    check_plan(request.plan, graph, model_sha256)
    check_float32_layers(
        request.plan, graph, typed=dialect not in _LOWERED, fp16=request.precision == "fp16"
    )


def _ranges(scales: Scales, request: BuildRequest, placement: Placement) -> dict[str, Range]:
    """Return the range of each tensor by the request's method, or by that of its plan."""
    ranges = scales.ranges(request.method)
    for name, method in tensor_methods(placement, request.plan).items():
        if scales.method == IMPORTED:
            raise LpxError(
                f"the precision plan asks for calibration method {method} for {name}",
                "the ranges were imported, and are known by one method only",
                'leave "method" out of the plan, or calibrate on `faces`',
            )
        # A tensor whose scale is derived from another's need not have been observed.
        if name in ranges:
            ranges[name] = scales.ranges(method)[name]
    return ranges


def _check_opset(graph: ir.Model, dialect: str) -> None:
    opset = graph.graph.opset_imports[""]
    if dialect != "onnxruntime" and opset < _HALF_SCALES_FROM:
        raise LpxError(
            f"the model has opset {opset}",
            f"a {dialect} graph needs opset {_HALF_SCALES_FROM} or later, in which Q/DQ scales can "
            "be float16",
            "run `lpx export` again with the default opset",
        )


def _scales_of(model: bytes, request: BuildRequest) -> Scales:
    """Return the request's scales, after checking that they were made from this model."""
    assert request.scales is not None, "int8 is built from scales"
    digest = hashlib.sha256(model).hexdigest()
    if request.scales.model_sha256 != digest:
        raise LpxError(
            f"the scales were calibrated on model {request.scales.model_sha256[:12]}, and this is "
            f"{digest[:12]}",
            "ranges of another model, or of this one before equalisation, do not fit",
            "calibrate again",
        )
    return request.scales


def _calibration_cache(model: bytes, request: BuildRequest, library: TensorRTLibrary) -> bytes:
    """Return a calibration cache for a release, which refuses the cache of another release."""
    scales = cache_scales(model, request)
    peaks = {name: scale * LEVELS for name, scale in scales.items()}
    return write_cache(peaks, header_version(library.capabilities.version)).encode()
