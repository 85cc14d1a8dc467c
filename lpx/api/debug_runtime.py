"""Where an engine is looked into: in its own runtime, or its graph in ONNX Runtime."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import Literal

from lpx.api.build import TIMING_CACHES, outermost
from lpx.engines.load import load
from lpx.engines.makers import flavour_of
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


def choose_runtime(manifest: EngineManifest, asked: Runtime | None) -> tuple[Runtime, str]:
    """What computes an engine's tensors, and what the reader must know of that; "" for nothing.

    Args:
        manifest: The engine's.
        asked: None for the engine's own runtime where that can be, else ONNX Runtime.

    Raises:
        LpxError: TensorRT is asked for, and cannot be.
    """
    plan = manifest.target in ("tensorrt", "tensorrt-rtx")
    if asked == "tensorrt" and not plan:
        raise LpxError(
            f"--in tensorrt with engine {manifest.name}",
            f"{manifest.target} runs it",
            "name an engine of target tensorrt or tensorrt-rtx, or leave --in out",
        )
    if manifest.target == "onnxruntime":
        return "onnxruntime", ""
    reason = ""
    if plan and asked != "onnxruntime":
        usable, reason = _can_rebuild(manifest)
        if usable:
            return "tensorrt", _beside_the_graph(manifest)
    if asked == "tensorrt":
        raise LpxError(
            f"engine {manifest.name} cannot be looked into by TensorRT here",
            reason,
            "do it where the engine runs, or leave --in out: its graph is then looked into",
        )
    said = (
        f"this ran the graph that {manifest.target} built {manifest.name} from, in ONNX Runtime: "
        "rounding of weights and activations shows, faults of kernels of its own runtime do not; "
        "`lpx bench` measures those by the score"
    )
    return "onnxruntime", f"{said} (TensorRT cannot show them here: {reason})" if reason else said


def _can_rebuild(manifest: EngineManifest) -> tuple[bool, str]:
    if "profiles" not in manifest.options:
        return False, "its manifest does not say how it was built: build it again"
    usable, reason = can_run(manifest, read_machine())
    if usable and manifest.options.get("version_compatible"):
        # What runs it may be the lean runtime, which builds none.
        return available(flavour_of(manifest.target))
    return usable, reason


def _beside_the_graph(manifest: EngineManifest) -> str:
    """What a builder flag does, ONNX Runtime does not: it counts as TensorRT's."""
    if manifest.precision == "fp32" or manifest.dialect not in (
        "weakly-typed",
        "calibration-cache",
    ):
        return ""
    int8 = manifest.dialect == "calibration-cache" and manifest.precision == "int8"
    return (
        f"this engine takes {'INT8' if int8 else 'FP16'} from a flag and not from its graph, so "
        "what 'TensorRT' shows holds that rounding too"
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
        allow_host_code: Load a version-compatible engine, which carries code that runs here.
        reporter: Told of the build.

    Raises:
        LpxError: The engine does not load, or TensorRT refuses.
    """
    folder = workspace.engines / manifest.name
    # First what may be refused at once: the build takes minutes.
    plain = held.enter_context(closing(load(folder, allow_host_code=allow_host_code)))
    names = tensors_to_watch(graph, model)
    reporter.say(
        f"building {manifest.name} again with {len(names)} tensors handed out, as a finished plan "
        "shows none; the engine itself stays as it is"
    )
    try:
        plan = build_watched(
            folder,
            manifest,
            names,
            workspace.root / TIMING_CACHES,
            outermost(reporter.progress(f"building {manifest.name}, watched")),
        )
    except LpxError as error:
        raise LpxError(
            f"{manifest.name} was not built again with its tensors handed out: {error.what}",
            error.why,
            "look into its graph instead, with --in onnxruntime",
        ) from error
    seen = held.enter_context(closing(open_watched(plan, manifest, names)))
    unwatched = manifest.convolutions.get("int8", 0)
    counted = unwatched
    if plan.layers is not None:
        counted = plan.layers.count_convolutions().get("int8", 0)
    return Inside(seen, plain, counted, unwatched)
