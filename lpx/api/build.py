"""Build engines from the exported model, calibrated on faces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING

from lpx.api.ranges import scales_for
from lpx.arguments import as_path, check_at_least, check_choice, several
from lpx.artefacts.liveness import Probe, make_probe, symptom
from lpx.artefacts.model import ExportedModel, open_faces, read_exported
from lpx.artefacts.plan_file import read_plan
from lpx.calibration.methods import METHODS
from lpx.calibration.scales import IMPORTED, Scales
from lpx.data.face_sets.demo import demo_set
from lpx.engines.build import build_engine, require_int8
from lpx.engines.manifest import PRECISIONS, EngineManifest, Precision, Target, write_manifest
from lpx.engines.request import BuildRequest
from lpx.engines.targets import INSTALLED, Installed, ResolvedTarget, can_run, resolve_target
from lpx.engines.tensorrt.building.make import check_for_tensorrt
from lpx.engines.tensorrt.building.progress import outermost
from lpx.engines.tensorrt_options import DEFAULT_TENSORRT, TensorRTOptions
from lpx.errors import InvalidArgumentError, LpxError, NotAsAskedError, OutOfMemoryError
from lpx.graph.layers import read_named
from lpx.graph.qdq.apply_plan import check_plan
from lpx.graph.qdq.placement import Placement
from lpx.graph.qdq.plan import NO_PLAN, PrecisionPlan
from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions
from lpx.machine.machine import Machine, read_machine
from lpx.reporter import SILENT, Reporter
from lpx.workspace import WorkspaceFolder

if TYPE_CHECKING:
    from lpx.api.workspace.arguments import StrPath
    from lpx.api.workspace.opened import OpenedWorkspace

CALIBRATION_FACES = 512
# Options of `TensorRTOptions` that ONNX Runtime's GPU providers take; other targets take all or
# none.
_PROVIDER_TAKES: dict[Target, frozenset[str]] = {
    "onnxruntime-tensorrt": frozenset({"batches", "workspace_mib", "optimisation_level"}),
    "onnxruntime-tensorrt-rtx": frozenset({"batches", "workspace_mib"}),
}


@dataclass(frozen=True)
class BuildOptions:
    """Options of `lpx.Workspace.build` and `lpx.Workspace.emit`, which document them.

    Raises:
        InvalidArgumentError: A value that an option cannot have.
    """

    precisions: tuple[Precision, ...]
    target: str = "auto"
    faces: str | None = None
    limit: int = CALIBRATION_FACES
    method: str | None = None
    weights: WeightOptions = DEFAULT_WEIGHTS
    tensorrt: TensorRTOptions = DEFAULT_TENSORRT
    plan: PrecisionPlan = NO_PLAN

    def __post_init__(self) -> None:
        # The dataclass is frozen, so the checked value has to be set around it.
        object.__setattr__(self, "precisions", checked_precisions(self.precisions))
        check_at_least("limit", self.limit, 1)
        if self.method is not None:
            check_choice("method", self.method, (*METHODS, IMPORTED))
        _check_use_of_plan(self.plan, self.precisions)

    def request(
        self, target: Target, precision: Precision, scales: Scales | None = None
    ) -> BuildRequest:
        """Return the request for an engine of one precision.

        Args:
            target: Runtime of the engine.
            precision: One of `precisions`.
            scales: Calibrated ranges; they name the calibration method if the options do not.
        """
        method = ""
        # Float engines carry no method, so that their manifests do not claim a calibration.
        if scales is not None and precision == "int8":
            method = self.method or scales.method
        return BuildRequest(
            target, precision, scales, method, self.weights, self.tensorrt, self.plan
        )


@dataclass(frozen=True)
class DeadEngine:
    """An engine that gives every face the same score, or does not run.

    Attributes:
        symptom: What shows it.
        runs: Whether it scores faces at all.
    """

    symptom: str
    runs: bool


class NotAllBuiltError(NotAsAskedError):
    """Some of several precisions could not be built; the others were.

    Attributes:
        built: Manifests of those that were.
    """

    code = "not-all-built"

    def __init__(
        self, failed: Mapping[Precision, LpxError], built: tuple[EngineManifest, ...]
    ) -> None:
        first = next(iter(failed.values()))
        others = ", ".join(manifest.precision.upper() for manifest in built)
        names = ", ".join(precision.upper() for precision in failed)
        what = f"{names} was not built, {others} was: {first.what}"
        for precision, error in [*failed.items()][1:]:
            what += f"; {precision.upper()}: {error.what}"
        super().__init__(what, first.why, first.fix)
        self.built = built


class DeadEngineError(NotAsAskedError):
    """An engine was built that gives every face the same score, or does not run.

    Attributes:
        built: Manifests of all that were built.
    """

    code = "dead-engine"

    def __init__(self, dead: Mapping[str, DeadEngine], built: tuple[EngineManifest, ...]) -> None:
        name, first = next(iter(dead.items()))
        what = f"{name} is dead: {first.symptom}"
        for other, engine in [*dead.items()][1:]:
            what += f"; {other}: {engine.symptom}"
        if first.runs:
            why = "large activations that stretch a range do this, or an overflow in half precision"
            fix = (
                f'`lpx debug {name}` shows the layer; for INT8 try `method="percentile-99.9"` or '
                '`method="mse"`, or calibrate on faces like those that will be scored'
            )
        else:
            why = "it was built, and cannot score a face here: see the reason"
            fix = "`lpx doctor` shows what this machine has; or build for another target"
        super().__init__(what, why, fix)
        self.built = built


@dataclass(frozen=True)
class BuildHost:
    """The machine that builds.

    Attributes:
        machine: Its hardware.
        installed: Its libraries.
    """

    machine: Machine = field(default_factory=read_machine)
    installed: Installed = INSTALLED

    def can_run(self, manifest: EngineManifest) -> bool:
        """Return whether an engine that was just built runs here."""
        usable, _ = can_run(manifest, self.machine, self.installed)
        return usable


def build(
    workspace: OpenedWorkspace, options: BuildOptions, reporter: Reporter = SILENT
) -> tuple[EngineManifest, ...]:
    """Implement `lpx.Workspace.build`, which documents arguments and errors."""
    host = BuildHost()
    target = resolve_target(options.target, host.machine, host.installed)
    check_options(options.tensorrt, target.name)
    reporter.say(f"target {target.name}: {target.reason}")
    model = read_exported(workspace)
    check_plan_of(model, options)
    failed = _Failures(alone=len(options.precisions) == 1)
    manifests: list[EngineManifest] = []
    dead: dict[str, DeadEngine] = {}
    with workspace.lock():
        if target.library is not None:
            for precision in options.precisions:
                with failed.noting(precision):
                    request = options.request(target.name, precision)
                    check_for_tensorrt(request, target.library, host.machine)
        scales = _scales(workspace, model, options, target, failed, reporter)

        # Only if there is an engine to try, and then once for all: it decodes faces and runs the
        # exported model.
        @cache
        def probe() -> Probe:
            pool = demo_set("train")
            if options.faces and "int8" in options.precisions:
                pool = open_faces(
                    workspace, options.faces, "train", places=workspace.places, card=model.card
                )
            return make_probe(pool, model)

        for precision in options.precisions:
            if precision in failed.errors:
                continue
            request = options.request(target.name, precision, scales)
            with failed.noting(precision):
                manifest = _build_one(workspace, model, request, target, host, reporter)
                if (found := _dead(workspace, manifest, host, probe)) is not None:
                    dead[manifest.name] = found
                    manifest = _marked_dead(workspace, manifest, found)
                manifests.append(manifest)
    _raise_unless_all_well(failed.errors, dead, tuple(manifests))
    return tuple(manifests)


class _Failures:
    """Precisions that cannot be built, and why.

    Args:
        alone: One precision is built: its error is raised at once.
    """

    def __init__(self, *, alone: bool) -> None:
        self.errors: dict[Precision, LpxError] = {}
        self._alone = alone

    @contextmanager
    def noting(self, precision: Precision) -> Iterator[None]:
        """Note an error, and let the other precisions be built."""
        try:
            yield
        except LpxError as error:
            if self._alone:
                raise
            self.errors[precision] = error


def _scales(
    workspace: OpenedWorkspace,
    model: ExportedModel,
    options: BuildOptions,
    target: ResolvedTarget,
    failed: _Failures,
    reporter: Reporter,
) -> Scales | None:
    """Return ranges for INT8, after checking that it quantises anything; None without INT8."""
    if "int8" not in options.precisions or "int8" in failed.errors:
        return None
    with failed.noting("int8"):
        request = options.request(target.name, "int8")
        dialect = target.dialect("int8", options.tensorrt.dla_core)
        placement = require_int8(model.data, request, dialect)
        reporter.say(f"INT8 quantises {_quantised(placement)}")
    if "int8" in failed.errors:
        return None
    return scales_for(workspace, model, options.faces, options.limit, options.weights, reporter)


def opened_plan(plan: StrPath | PrecisionPlan | None) -> PrecisionPlan:
    """Return the plan in an argument that takes one, or the path of its file.

    Raises:
        LpxError: It is neither, or the file is not a precision plan.
    """
    if plan is None:
        return NO_PLAN
    if isinstance(plan, PrecisionPlan):
        return plan
    return read_plan(as_path("plan", plan))


def _check_use_of_plan(plan: PrecisionPlan, precisions: Sequence[Precision]) -> None:
    """Refuse a plan that would change none of the engines.

    Raises:
        LpxError: There is no INT8 engine, and no FP16 engine with layers in float32.
    """
    if not plan.layers or "int8" in precisions:
        return
    if "fp16" in precisions and plan.float32_layers:
        return
    why = "it says which layers of an INT8 engine stay in float"
    if "fp16" in precisions:
        why += '; in an FP16 engine, only layers with "fp32" differ, and it has none'
    raise LpxError(
        f"`plan` with {', '.join(p.upper() for p in precisions)}",
        why,
        "build INT8 too, or leave it out",
        code="invalid-argument",
    )


def check_plan_of(model: ExportedModel, options: BuildOptions) -> None:
    """Check that a plan is for the exported model, before any engine is built.

    Raises:
        LpxError: It was made for another model, or names layers that this one does not have.
    """
    if options.plan.layers:
        check_plan(options.plan, read_named(model.data, "the exported model"), model.sha256)


def checked_precisions(given: Precision | Iterable[Precision]) -> tuple[Precision, ...]:
    """Return the requested precisions: one, or several.

    Raises:
        InvalidArgumentError: An unknown precision.
        LpxError: No precision at all.
    """
    precisions = several("precisions", given)
    if not precisions:
        raise InvalidArgumentError("precisions", f"must have one of {', '.join(PRECISIONS)}", given)
    for precision in precisions:
        check_choice("precision", precision, PRECISIONS)
    return precisions


def _build_one(
    workspace: WorkspaceFolder,
    model: ExportedModel,
    request: BuildRequest,
    target: ResolvedTarget,
    host: BuildHost,
    reporter: Reporter,
) -> EngineManifest:
    label = f"building {request.name}"
    reporter.say(label)
    return build_engine(
        model.data,
        model.card,
        request,
        target,
        workspace.engines / request.name,
        host.machine,
        progress=outermost(reporter.progress(label)),
        timing_caches=workspace.timing_caches,
    )


def _dead(
    workspace: WorkspaceFolder,
    manifest: EngineManifest,
    host: BuildHost,
    probe: Callable[[], Probe],
) -> DeadEngine | None:
    """Return what shows that an engine is dead; None for a live one, or if it cannot be tried."""
    if manifest.target == "onnxruntime" and manifest.precision == "fp32":
        return None  # the exported model itself
    if manifest.target == "onnxruntime-tensorrt":
        return None  # loading it builds TensorRT's engine, which takes minutes
    if not host.can_run(manifest):
        return None
    # Not caught below: faces that cannot be opened are not the engine's fault.
    faces = probe()
    try:
        # Host code that this process has just built need not be allowed by the user.
        shown = symptom(workspace.engines / manifest.name, faces, allow_host_code=True)
    # A matter of the machine, which says nothing about the engine.
    except OutOfMemoryError:
        raise
    except LpxError as error:
        return DeadEngine(f"it does not run: {error.what}: {error.why}", runs=False)
    return DeadEngine(shown, runs=True) if shown else None


def _marked_dead(
    workspace: WorkspaceFolder, manifest: EngineManifest, dead: DeadEngine
) -> EngineManifest:
    """Record in an engine's manifest that it is dead."""
    marked = replace(manifest, warnings=(*manifest.warnings, f"dead: {dead.symptom}"))
    write_manifest(workspace.engines / manifest.name, marked)
    return marked


def _raise_unless_all_well(
    failed: Mapping[Precision, LpxError],
    dead: Mapping[str, DeadEngine],
    manifests: tuple[EngineManifest, ...],
) -> None:
    if failed and not manifests:
        raise next(iter(failed.values()))
    if failed:
        raise NotAllBuiltError(failed, manifests)
    if dead:
        raise DeadEngineError(dead, manifests)


def _quantised(placement: Placement) -> str:
    """Describe what INT8 does to a model, before it is calibrated."""
    total = sum(decision.op_type == "Conv" for decision in placement.decisions)
    text = f"{len(placement.convolutions)} of {total} convolutions"
    if placement.stored:
        text += f", {len(placement.stored)} of them in their weights only"
    return text


def check_options(options: TensorRTOptions, target: Target) -> None:
    """Refuse options of TensorRT that a target would silently ignore.

    Raises:
        LpxError: One of them is not at its default.
    """
    if options.gpus and target != "tensorrt-rtx":
        raise LpxError(
            f"`compute_capabilities` with target {target}",
            "only tensorrt-rtx builds for GPUs that are not in this machine",
            'leave it out, or use `target="tensorrt-rtx"`',
            code="invalid-argument",
        )
    if target in ("tensorrt", "tensorrt-rtx"):
        return
    taken = _PROVIDER_TAKES.get(target, frozenset())
    for option in fields(options):
        if option.name in taken or getattr(options, option.name) == option.default:
            continue
        raise LpxError(
            f"`{_as_passed(option.name)}` with target {target}",
            "it is an option of TensorRT's builder; ONNX Runtime runs the graph as it is",
            'leave it out, or use `target="tensorrt"` or `target="tensorrt-rtx"`',
            code="invalid-argument",
        )


def _as_passed(name: str) -> str:
    """Return an option as it is passed: only False sets `tf32` apart from its default."""
    return "tf32=False" if name == "tf32" else name
