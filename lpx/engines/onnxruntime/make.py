"""Make engines that ONNX Runtime runs, on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata

from lpx.engines.built_engine import BuiltEngine, tf32_switched_off, versions_of
from lpx.engines.onnxruntime.cpu import convolutions_of, nodes_as_run
from lpx.engines.onnxruntime.gpu import PLUGIN_PACKAGES, check_int8, provider_options
from lpx.engines.request import BuildRequest
from lpx.engines.tensorrt_options import BatchRange
from lpx.errors import LpxError, NotAsAskedError
from lpx.graph.model_io import parse

PROVIDER_TF32 = (
    "TF32 is on, and ONNX Runtime's provider has no option to switch it off: float32 convolutions "
    "round their inputs and weights to 10 bits of mantissa, as many as FP16 has; "
    "NVIDIA_TF32_OVERRIDE=0 in the environment switches it off"
)


def make_for_cpu(graph: bytes, request: BuildRequest) -> BuiltEngine:
    """Make an engine for ONNX Runtime's CPU provider: the graph, and the precision of its nodes.

    Raises:
        NotAsAskedError: No convolution of an INT8 graph runs in integers.
    """
    nodes = nodes_as_run(graph)
    counts = convolutions_of(nodes)
    int8 = request.precision == "int8"
    if int8 and not counts["int8"]:
        raise NotAsAskedError(
            "ONNX Runtime runs no convolution of this INT8 engine in integers",
            f"its optimiser recognises none of the {counts['fp32']} convolutions, with the Q/DQ "
            "pairs around them, as a pattern that it has an integer kernel for",
            "bench a float engine, or build for another `target`; and please report this with the "
            "output of `lpx explain-graph --target onnxruntime`",
        )
    warnings: tuple[str, ...] = ()
    if request.precision == "fp16":
        warnings = (
            "ONNX Runtime's CPU computes float16 graphs in float32 with extra casts: this engine "
            "shows FP16's rounding of weights and activations, not its speed",
        )
    computed_in = {}
    if int8:
        computed_in = {name: precision for name, (_, precision) in nodes.items()}
    return BuiltEngine(
        graph,
        "engine.onnx",
        counts,
        versions_of("onnx", "onnxruntime"),
        warnings,
        computed_in=computed_in,
    )


def make_for_gpu(
    graph: bytes,
    request: BuildRequest,
    size: int,
    plugin_packages: Sequence[str] = PLUGIN_PACKAGES,
) -> BuiltEngine:
    """Make an engine for one of ONNX Runtime's GPU providers: the graph and its options.

    Args:
        graph: ONNX, in the request's dialect.
        request: The engine to build.
        size: Side of a face, pixels.
        plugin_packages: Packages of which one may hold the plugin of TensorRT for RTX.

    Raises:
        LpxError: The provider does not support what the request asks for.
    """
    if request.precision == "int8":
        # Here as well, for callers that did not check it before calibration.
        check_int8(request.target)
    span = _one_profile(request)
    warnings: tuple[str, ...] = ()
    counts: dict[str, int] = {}
    if request.target == "onnxruntime-cuda":
        # Its kernels compute in the type of their tensors.
        nodes = parse(graph, "the graph").graph
        counts = {request.precision: sum(node.op_type == "Conv" for node in nodes)}
    elif request.target == "onnxruntime-tensorrt":
        warnings = (
            "ONNX Runtime builds TensorRT's engine when this one is first loaded, which takes "
            "minutes, and does not report the precision of its layers: target tensorrt does",
        )
    else:
        warnings = (
            "ONNX Runtime builds the plan of TensorRT for RTX when it loads this engine, and does "
            "not report the precision of its layers: target tensorrt-rtx does",
        )
    # lpx switches TF32 off in the CUDA provider: see `provider_options`.
    tf32 = request.target != "onnxruntime-cuda" and not tf32_switched_off()
    if tf32 and request.precision == "fp32":
        warnings += (PROVIDER_TF32,)
    versions = {**versions_of("onnx"), "onnxruntime": _onnxruntime_version()}
    if request.target == "onnxruntime-tensorrt-rtx":
        # The plugin has a version of its own, which decides its kernels.
        versions |= _plugin_version(plugin_packages)
    options = {
        "tensorrt": request.tensorrt.to_dict(),
        "provider": provider_options(
            request.target, request.precision, span, size, request.tensorrt
        ),
        "tf32": tf32,
    }
    return BuiltEngine(graph, "engine.onnx", counts, versions, warnings, options)


def _one_profile(request: BuildRequest) -> BatchRange:
    profiles = request.tensorrt.profiles
    if len(profiles) > 1:
        raise LpxError(
            f"{len(profiles)} batch sizes with target {request.target}",
            "ONNX Runtime takes one range",
            "use one range, such as `batches=BatchRange(1, 8, 32)`",
        )
    return profiles[0]


def _onnxruntime_version() -> str:
    import onnxruntime

    # The distribution may be onnxruntime, onnxruntime-gpu or a vendor's.
    return str(onnxruntime.__version__)


def _plugin_version(packages: Sequence[str]) -> dict[str, str]:
    """Return the version of the plugin's package; empty if it is not known."""
    versions = {}
    for package in packages:
        # One of several packages has the module, so a missing one is not an error.
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
