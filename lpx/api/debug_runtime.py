"""The runtime that computes an engine's tensors: its own, or ONNX Runtime with its graph."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import Literal, NamedTuple

from lpx.api.build import TIMING_CACHES, outermost
from lpx.engines.base import Availability
from lpx.engines.load import load
from lpx.engines.manifest import EngineManifest
from lpx.engines.targets import can_run
from lpx.engines.tensorrt import available
from lpx.errors import LpxError
from lpx.layerwise.compare import Inside, tensors_to_watch
from lpx.layerwise.rebuild import build_watched, open_watched
from lpx.machine.machine import read_machine
from lpx.reporter import Reporter
from lpx.workspace import WorkspaceFolder

Runtime = Literal["onnxruntime", "tensorrt"]
NAMES: dict[Runtime, str] = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}


class RuntimeChoice(NamedTuple):
    """The runtime for an engine's tensors.

    Attributes:
        runtime: The runtime.
        note: What the reader must know of the choice; "" for nothing.
    """

    runtime: Runtime
    note: str = ""


def choose_runtime(manifest: EngineManifest, asked: Runtime | None) -> RuntimeChoice:
    """Choose the runtime for an engine's tensors.

    Args:
        manifest: The engine's.
        asked: None for the engine's own runtime if it can be used, else ONNX Runtime.

    Raises:
        LpxError: TensorRT is requested, and cannot be used.
    """
    plan = manifest.target in ("tensorrt", "tensorrt-rtx")
    if asked == "tensorrt" and not plan:
        raise LpxError(
            f"engine {manifest.name} cannot be inspected with TensorRT",
            f"{manifest.target} runs it",
            "choose an engine of target tensorrt or tensorrt-rtx, or leave out `runtime`",
        )
    if manifest.target == "onnxruntime":
        return RuntimeChoice("onnxruntime")
    reason = ""
    if plan and asked != "onnxruntime":
        usable, reason = _can_rebuild(manifest)
        if usable:
            return RuntimeChoice("tensorrt", _beside_the_graph(manifest))
    if asked == "tensorrt":
        raise LpxError(
            f"cannot inspect engine {manifest.name} with TensorRT on this machine",
            reason,
            "run this on the target device, or leave out `runtime` to inspect its ONNX graph "
            "instead",
            code="unsupported",
        )
    note = (
        f"this ran the graph that {manifest.target} built {manifest.name} from, in ONNX Runtime: "
        "rounding of weights and activations shows, faults of kernels of its own runtime do not; "
        "`lpx bench` measures those by the score"
    )
    if reason:
        note += f" (TensorRT cannot show them here: {reason})"
    return RuntimeChoice("onnxruntime", note)


def _can_rebuild(manifest: EngineManifest) -> Availability:
    if "tensorrt" not in manifest.options:
        reason = "its manifest does not say how it was built: build it again"
        return Availability(False, reason)
    usable, reason = can_run(manifest, read_machine())
    target = manifest.target
    if usable and manifest.tensorrt.version_compatible:
        assert target == "tensorrt" or target == "tensorrt-rtx"
        # The lean runtime may be what runs it, and it builds nothing.
        return available(target)
    return Availability(usable, reason)


def _beside_the_graph(manifest: EngineManifest) -> str:
    """Return a note for engines whose precision is a builder flag, which ONNX Runtime ignores."""
    if manifest.precision == "fp32" or manifest.dialect not in (
        "weakly-typed",
        "calibration-cache",
    ):
        return ""
    int8 = manifest.dialect == "calibration-cache" and manifest.precision == "int8"
    return (
        f"this engine takes {'INT8' if int8 else 'FP16'} from a flag and not from its graph, so "
        "the errors shown for TensorRT include that rounding"
    )


def open_inside(
    workspace: WorkspaceFolder,
    manifest: EngineManifest,
    model: bytes,
    graph: bytes,
    held: ExitStack,
    *,
    allow_host_code: bool,
    reporter: Reporter,
) -> Inside:
    """Build a TensorRT engine again, watched, and load it beside the engine itself.

    Args:
        workspace: Holds the engine.
        manifest: The engine's.
        model: The float32 graph that it was lowered from.
        graph: The engine's graph.
        held: Closes both.
        allow_host_code: Load a version-compatible engine, which contains host code.
        reporter: Receives progress and warnings.

    Raises:
        LpxError: The engine does not load, or TensorRT refuses.
    """
    folder = workspace.engines / manifest.name
    # First what may be refused at once: the build takes minutes.
    plain = held.enter_context(closing(load(folder, allow_host_code=allow_host_code)))
    names = tensors_to_watch(graph, model)
    reporter.say(
        f"rebuilding {manifest.name} with {len(names)} intermediate tensors exposed; the engine "
        "itself is not changed"
    )
    try:
        plan = build_watched(
            folder,
            manifest,
            names,
            workspace.root / TIMING_CACHES,
            outermost(reporter.progress(f"rebuilding {manifest.name}")),
        )
    except LpxError as error:
        raise LpxError(
            f"{manifest.name} cannot be rebuilt with its tensors exposed: {error.what}",
            error.why,
            'inspect its graph instead, with `runtime="onnxruntime"`',
            code=error.code,
        ) from error
    watched = held.enter_context(closing(open_watched(plan, manifest, names)))
    unwatched_count = manifest.convolutions.get("int8", 0)
    watched_count = unwatched_count
    if plan.layers is not None:
        watched_count = plan.layers.count_convolutions().get("int8", 0)
    return Inside(watched, plain, watched_count, unwatched_count)
