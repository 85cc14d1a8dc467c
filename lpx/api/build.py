"""build(): ONNX to engines, calibrated on faces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from lpx.api.ranges import scales_for
from lpx.arguments import check_at_least, check_choice, several
from lpx.artefacts.liveness import Probe, make_probe, symptom
from lpx.artefacts.model import ExportedModel, open_faces, read_exported
from lpx.calibration.methods import METHODS
from lpx.calibration.scales import IMPORTED, Scales
from lpx.data.face_sets.demo import demo_set
from lpx.engines.build import build_engine, require_int8
from lpx.engines.makers import check_for_tensorrt
from lpx.engines.manifest import PRECISIONS, EngineManifest, Precision, write_manifest
from lpx.engines.request import DEFAULT_TENSORRT, BuildRequest, TensorRTOptions, default_batches
from lpx.engines.targets import can_run, choose
from lpx.errors import LpxError, NotAsAskedError, OutOfMemoryError
from lpx.graph.qdq.placement import Placement
from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions
from lpx.machine.machine import Machine, read_machine
from lpx.reporter import SILENT, Reporter
from lpx.workspace import WorkspaceFolder

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace

CALIBRATION_FACES = 512


class NotAllBuiltError(NotAsAskedError):
    """Some of several precisions could not be built; the others were.

    Attributes:
        built: Manifests of those that were.
    """

    def __init__(
        self, failed: Mapping[Precision, LpxError], built: tuple[EngineManifest, ...]
    ) -> None:
        first = next(iter(failed.values()))
        others = ", ".join(manifest.precision.upper() for manifest in built)
        names = ", ".join(precision.upper() for precision in failed)
        more = "".join(f"; {p.upper()}: {error.what}" for p, error in [*failed.items()][1:])
        what = f"{names} was not built, {others} was: {first.what}{more}"
        super().__init__(what, first.why, first.fix)
        self.built = built


FAILS = "it does not run"
"""How the symptom of an engine begins that loads or runs with an error."""


class DeadEngineError(NotAsAskedError):
    """An engine was built that gives every face one score, or does not run.

    Attributes:
        built: Manifests of all that were built.
    """

    def __init__(self, dead: Mapping[str, str], built: tuple[EngineManifest, ...]) -> None:
        name, shown = next(iter(dead.items()))
        more = "".join(f"; {other}: {text}" for other, text in [*dead.items()][1:])
        if shown.startswith(FAILS):
            why = "it was built, and cannot score a face here: see the reason"
            fix = "`lpx doctor` shows what this machine has; or build for another target"
        else:
            why = "large activations that stretch a range do this, or an overflow in half precision"
            fix = (
                f"`lpx debug {name}` shows the layer; for INT8 try --method percentile-99.9 or mse,"
                " or calibrate on faces like those that will be scored"
            )
        super().__init__(f"{name} is dead: {shown}{more}", why, fix)
        self.built = built


TIMING_CACHES = "timing-caches"
"""Where TensorRT's kernel times lie between builds."""
_TENSORRT_ONLY = {
    "batches": "--batch",
    "workspace_mib": "--workspace-mib",
    "optimisation_level": "--optimisation-level",
    "version_compatible": "--version-compatible",
    "hardware_compatible": "--hardware-compatible",
    "dla_core": "--dla",
    "frozen_timing_cache": "--frozen-timing-cache",
    "builds": "--builds",
    "tf32": "--no-tf32",
}
_PROVIDER_TAKES = {
    "onnxruntime-tensorrt": ("batches", "workspace_mib", "optimisation_level"),
    "onnxruntime-tensorrt-rtx": ("batches", "workspace_mib"),
}


def build(
    workspace: Workspace,
    precisions: Precision | Iterable[Precision],
    *,
    target: str = "auto",
    faces: str | None = None,
    limit: int = CALIBRATION_FACES,
    method: str | None = None,
    weights: WeightOptions = DEFAULT_WEIGHTS,
    tensorrt: TensorRTOptions = DEFAULT_TENSORRT,
    reporter: Reporter = SILENT,
) -> tuple[EngineManifest, ...]:
    """Implement `lpx.Workspace.build`, which documents arguments and errors."""
    precisions = checked_precisions(precisions)
    check_method(method)
    check_at_least("limit", limit, 1)
    machine = read_machine()
    chosen, reason = choose(target, machine)
    template = BuildRequest.of(chosen, "fp32", tensorrt, weights=weights)
    _check_options(template)
    reporter.say(f"target {chosen}: {reason}")
    model = read_exported(workspace)
    alone = len(precisions) == 1
    manifests: list[EngineManifest] = []
    dead: dict[str, str] = {}
    failed: dict[Precision, LpxError] = {}
    with workspace.lock():
        scales = None
        if chosen in ("tensorrt", "tensorrt-rtx"):
            for precision in precisions:
                with _noting(failed, precision, alone):
                    check_for_tensorrt(replace(template, precision=precision), machine)
        if "int8" in precisions and "int8" not in failed:
            with _noting(failed, "int8", alone):
                placement = require_int8(model.data, replace(template, precision="int8"))
                reporter.say(f"INT8 quantises {_quantised(placement)}")
            if "int8" not in failed:
                scales = scales_for(
                    workspace, model, faces, limit, weights, workspace.places, reporter
                )

        @cache
        def probe() -> Probe:
            pool = demo_set("train")
            if faces and "int8" in precisions:
                pool = open_faces(
                    workspace, faces, "train", places=workspace.places, card=model.card
                )
            return make_probe(pool, model)

        for precision in precisions:
            if precision in failed:
                continue
            request = request_for(template, precision, scales, method)
            with _noting(failed, precision, alone):
                manifest = _build_one(workspace, model, request, machine, reporter)
                if shown := _shown_dead(workspace, manifest, machine, probe):
                    dead[manifest.name] = shown
                    manifest = _marked_dead(workspace, manifest, shown)
                manifests.append(manifest)
    _raise_unless_all_well(failed, dead, tuple(manifests))
    return tuple(manifests)


def checked_precisions(given: Precision | Iterable[Precision]) -> tuple[Precision, ...]:
    """The precisions asked for: one, or several.

    Raises:
        LpxError: An unknown one, or none at all.
    """
    precisions = several("precisions", given)
    if not precisions:
        raise LpxError("no precision is given", "", f"name one of {', '.join(PRECISIONS)}")
    for precision in precisions:
        check_choice("precision", precision, PRECISIONS)
    return precisions


@contextmanager
def _noting(failed: dict[Precision, LpxError], precision: Precision, alone: bool) -> Iterator[None]:
    """Note why a precision cannot be built, and go on; where it was asked for alone, raise."""
    try:
        yield
    except LpxError as error:
        if alone:
            raise
        failed[precision] = error


def request_for(
    template: BuildRequest, precision: Precision, scales: Scales | None, method: str | None
) -> BuildRequest:
    """What to build in one precision; `method` None takes the one that the scales name."""
    used = (method or scales.method) if scales and precision == "int8" else ""
    return replace(template, precision=precision, scales=scales, method=used)


def _build_one(
    workspace: WorkspaceFolder,
    model: ExportedModel,
    request: BuildRequest,
    machine: Machine,
    reporter: Reporter,
) -> EngineManifest:
    label = f"building {request.name}"
    reporter.say(label)
    return build_engine(
        model.data,
        model.card,
        request,
        workspace.engines / request.name,
        machine,
        outermost(reporter.progress(label)),
        workspace.root / TIMING_CACHES,
    )


def _shown_dead(
    workspace: WorkspaceFolder,
    manifest: EngineManifest,
    machine: Machine,
    probe: Callable[[], Probe],
) -> str:
    """What shows that an engine is dead; "" where nothing does, or it does not run here."""
    if manifest.target == "onnxruntime" and manifest.precision == "fp32":
        return ""  # the exported model itself
    if manifest.target == "onnxruntime-tensorrt":
        return ""  # its first run builds TensorRT's engine, which takes minutes
    usable, _ = can_run(manifest, machine)
    if not usable:
        return ""
    # Outside of what is caught: faces that cannot be opened are not the engine's fault.
    faces = probe()
    try:
        return symptom(workspace.engines / manifest.name, faces, allow_host_code=True)
    except OutOfMemoryError:
        raise
    except LpxError as error:
        return f"{FAILS}: {error.what}: {error.why}"


def _marked_dead(
    workspace: WorkspaceFolder, manifest: EngineManifest, shown: str
) -> EngineManifest:
    """Keep with the engine what shows that it is dead."""
    marked = replace(manifest, warnings=(*manifest.warnings, f"dead: {shown}"))
    write_manifest(workspace.engines / manifest.name, marked)
    return marked


def _raise_unless_all_well(
    failed: Mapping[Precision, LpxError],
    dead: Mapping[str, str],
    manifests: tuple[EngineManifest, ...],
) -> None:
    if failed and not manifests:
        raise next(iter(failed.values()))
    if failed:
        raise NotAllBuiltError(failed, manifests)
    if dead:
        raise DeadEngineError(dead, manifests)


def _quantised(placement: Placement) -> str:
    """What INT8 does to a model, before it is calibrated."""
    total = sum(decision.op_type == "Conv" for decision in placement.decisions)
    text = f"{len(placement.convolutions)} of {total} convolutions"
    if placement.stored:
        text += f", {len(placement.stored)} of them in their weights only"
    return text


def check_method(method: str | None) -> None:
    """Refuse a calibration method that there is not.

    Raises:
        LpxError: There is not; None is the default.
    """
    if method is not None and method not in (*METHODS, IMPORTED):
        raise LpxError(
            f"unknown calibration method {method!r}",
            f"known methods: {', '.join(METHODS)}",
            "name one of these with --method",
        )


def _check_options(request: BuildRequest) -> None:
    """Refuse what the target would silently leave out."""
    if request.compute_capabilities and request.target != "tensorrt-rtx":
        raise LpxError(
            f"--compute-capability with target {request.target}",
            "only tensorrt-rtx builds for GPUs that are not here",
            "leave it out, or add --target tensorrt-rtx",
        )
    if request.target in ("tensorrt", "tensorrt-rtx"):
        return
    batches = default_batches(request.dla_core)
    default = BuildRequest(request.target, request.precision, batches=batches)
    for name, option in _TENSORRT_ONLY.items():
        if name in _PROVIDER_TAKES.get(request.target, ()):
            continue
        if getattr(request, name) != getattr(default, name):
            raise LpxError(
                f"{option} with target {request.target}",
                "it is an option of TensorRT's builder; ONNX Runtime runs the graph as it is",
                "leave it out, or name --target tensorrt or tensorrt-rtx",
            )


def outermost(tell: Callable[[int, int], None]) -> Callable[[str, int, int], None]:
    """Show the phase that holds all others: TensorRT starts with it."""
    outermost = ""

    def progress(phase: str, done: int, steps: int) -> None:
        nonlocal outermost
        outermost = outermost or phase
        if phase == outermost and steps:
            tell(done, steps)

    return progress
