"""Runtime in which an engine is inspected: its own, or ONNX Runtime for its graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lpx.engines.base import Availability, Engine
from lpx.engines.load import load
from lpx.engines.manifest import EngineManifest
from lpx.engines.targets import can_run
from lpx.engines.tensorrt import Plan, available
from lpx.engines.tensorrt.building.progress import outermost
from lpx.engines.tensorrt.tensors import TensorRTTensors
from lpx.errors import LpxError
from lpx.layerwise.compare import ObservedEngine, tensors_to_watch
from lpx.layerwise.rebuild import build_watched, open_watched
from lpx.machine.machine import Machine, read_machine
from lpx.reporter import Reporter
from lpx.workspace import WorkspaceFolder

Runtime = Literal["onnxruntime", "tensorrt"]
NAMES: dict[Runtime, str] = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}


@dataclass(frozen=True)
class TensorRTAccess:
    """Access to TensorRT and to its engines.

    Attributes:
        can_run: Tells whether an engine runs on a machine, and the reason.
        can_build: Tells whether TensorRT's builder for "tensorrt" or "tensorrt-rtx" is installed,
            and the reason.
        load: Loads the engine in a folder.
        build: Builds an engine again with its intermediate tensors exposed.
        open: Loads such a plan.
    """

    can_run: Callable[[EngineManifest, Machine], Availability] = can_run
    can_build: Callable[..., Availability] = available
    load: Callable[..., Engine] = load
    build: Callable[..., Plan] = build_watched
    open: Callable[[Plan, EngineManifest, Sequence[str]], TensorRTTensors] = open_watched


TENSORRT = TensorRTAccess()


class RuntimeChoice(NamedTuple):
    """The runtime for an engine's tensors.

    Attributes:
        runtime: The runtime.
        note: Remark on the choice for the reader, or "".
    """

    runtime: Runtime
    note: str = ""


def choose_runtime(
    manifest: EngineManifest, requested: Runtime | None, access: TensorRTAccess = TENSORRT
) -> RuntimeChoice:
    """Choose the runtime that computes an engine's tensors.

    Args:
        manifest: Manifest of the engine.
        requested: None for the engine's own runtime if it can be used, else ONNX Runtime.
        access: Access to TensorRT.

    Raises:
        LpxError: TensorRT is requested and cannot be used.
    """
    plan = manifest.target in ("tensorrt", "tensorrt-rtx")
    if requested == "tensorrt" and not plan:
        raise LpxError(
            f'`runtime="tensorrt"` with engine {manifest.name}',
            f"{manifest.target} runs it",
            "name an engine of target tensorrt or tensorrt-rtx, or leave out `runtime`",
            code="invalid-argument",
        )
    if manifest.target == "onnxruntime":
        return RuntimeChoice("onnxruntime")
    reason = ""
    if plan and requested != "onnxruntime":
        usable, reason = _can_rebuild(manifest, access)
        if usable:
            return RuntimeChoice("tensorrt", _outside_the_graph(manifest))
    if requested == "tensorrt":
        raise LpxError(
            f"cannot inspect engine {manifest.name} with TensorRT on this machine",
            reason,
            "run on the target device, or leave out `runtime` to inspect its ONNX graph instead",
            code="unsupported",
        )
    note = (
        f"this ran the graph that {manifest.target} built {manifest.name} from, in ONNX Runtime: "
        "it shows the rounding of weights and activations, but no faults of the engine's own "
        "kernels; `lpx bench` measures those by the score"
    )
    if reason:
        note += f" (TensorRT cannot show them here: {reason})"
    return RuntimeChoice("onnxruntime", note)


def _can_rebuild(manifest: EngineManifest, access: TensorRTAccess) -> Availability:
    """Find out whether an engine can be built and run here, and the reason if not."""
    if "tensorrt" not in manifest.options:
        return Availability(False, "its manifest does not say how it was built: build it again")
    usable, reason = access.can_run(manifest, read_machine())
    if usable and manifest.tensorrt.version_compatible:
        # The lean runtime may run it, but has no builder.
        return access.can_build(manifest.target)
    return Availability(usable, reason)


def _outside_the_graph(manifest: EngineManifest) -> str:
    """Note a precision that a builder flag sets: ONNX Runtime does not round to it."""
    if manifest.precision == "fp32" or manifest.dialect not in (
        "weakly-typed",
        "calibration-cache",
    ):
        return ""
    int8 = manifest.dialect == "calibration-cache" and manifest.precision == "int8"
    return (
        f"this engine takes {'INT8' if int8 else 'FP16'} from a flag, not from its graph, so "
        "errors shown under 'TensorRT' include that rounding"
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
    access: TensorRTAccess = TENSORRT,
) -> ObservedEngine:
    """Build a TensorRT engine again with its tensors exposed, and load both.

    Args:
        workspace: The workspace of the engine.
        manifest: Manifest of the engine.
        model: Float32 graph that it was lowered from.
        graph: Graph of the engine.
        held: Closes both engines.
        allow_host_code: Load a version-compatible engine, which contains host code.
        reporter: Receives progress of the build.
        access: Access to TensorRT.

    Raises:
        LpxError: The engine does not load, or TensorRT refuses to build.
    """
    folder = workspace.engines / manifest.name
    # The build takes minutes: first load what may be refused at once.
    plain = held.enter_context(closing(access.load(folder, allow_host_code=allow_host_code)))
    names = tensors_to_watch(graph, model)
    reporter.say(
        f"building {manifest.name} again with {len(names)} intermediate tensors exposed, as a "
        "finished plan shows none; the engine itself is not changed"
    )
    try:
        plan = access.build(
            folder,
            manifest,
            names,
            workspace.timing_caches,
            outermost(reporter.progress(f"rebuilding {manifest.name}")),
        )
    except LpxError as error:
        raise LpxError(
            f"{manifest.name} could not be built again with its tensors exposed: {error.what}",
            error.why,
            'inspect its graph instead: `runtime="onnxruntime"`',
        ) from error
    seen = held.enter_context(closing(access.open(plan, manifest, names)))
    unwatched = manifest.convolutions.get("int8", 0)
    counted = unwatched
    # A plan without a layer list shows no convolutions: no difference is claimed then.
    if plan.layers is not None:
        counted = plan.layers.count_convolutions().get("int8", 0)
    return ObservedEngine(seen, plain, counted, unwatched)
