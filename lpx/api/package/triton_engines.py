"""The engines that a model repository serves: which, and together with which others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lpx.artefacts.model import ExportedModel
from lpx.artefacts.select_engine import check_model, engine_folders, no_such_engine
from lpx.bundle.expected import identity
from lpx.engines.compatibility import rebuild
from lpx.engines.manifest import EngineManifest, Precision, read_manifest
from lpx.engines.tensorrt_options import BatchRange
from lpx.errors import LpxError
from lpx.reporter import Reporter

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace
    from lpx.bench.performance.latency import LatencyResult

_NOT_SERVED = {
    "tensorrt-rtx": "Triton has no backend for TensorRT for RTX",
    "onnxruntime-tensorrt-rtx": "Triton's ONNX Runtime has no provider for TensorRT for RTX",
    "onnxruntime-tensorrt": "lpx packages TensorRT's own plan instead: build it with "
    '`target="tensorrt"`',
    "onnxruntime-cuda": 'lpx packages TensorRT\'s plan for GPUs: build it with `target="tensorrt"`',
}
"""Why engines of a target are not packaged."""


@dataclass(frozen=True)
class ChosenEngine:
    """An engine to serve.

    Attributes:
        manifest: Its manifest.
        folder: Its folder.
        root: Folder of its workspace, which may have a report about it.
    """

    manifest: EngineManifest
    folder: Path
    root: Path


@dataclass(frozen=True)
class ModelGroup:
    """Engines that become one model of the repository.

    Attributes:
        target: "tensorrt" or "onnxruntime".
        precision: Their precision.
        dla_core: DLA core that they run on; None for the GPU or the CPU.
        engines: The engines: plans of different GPUs, or one graph.
    """

    target: str
    precision: Precision
    dla_core: int | None
    engines: tuple[ChosenEngine, ...]

    @property
    def saturates(self) -> bool:
        """Whether Triton would compute it inexactly on processors without VNNI, as it is."""
        return self.target == "onnxruntime" and self.precision == "int8"

    def name_after(self, first: str) -> str:
        """Return the model's name, which begins as asked for."""
        name = f"{first}-{self.target}-{self.precision}"
        if self.dla_core is not None:
            name += f"-dla{self.dla_core}"
        return name


@dataclass(frozen=True)
class Choice:
    """Engines to serve.

    Attributes:
        groups: The models.
        left_out: Why other engines of the workspace are not served, by name.
    """

    groups: tuple[ModelGroup, ...]
    left_out: dict[str, str]


def choose_engines(
    workspace: OpenedWorkspace,
    model: ExportedModel,
    names: Sequence[str] | None,
    also: Sequence[OpenedWorkspace],
) -> Choice:
    """Choose the engines to serve, and sort them into models.

    Args:
        workspace: The workspace.
        model: Its exported model.
        names: Names of engines; None for all that Triton can serve.
        also: Workspaces of which plans are taken, too.

    Raises:
        LpxError: No engine is left, one does not exist, is of another model, cannot be served, or
            does not go together with another one.
    """
    found: list[ChosenEngine] = []
    left_out: dict[str, str] = {}
    known: set[str] = set()
    for place in (workspace, *also):
        other = place is not workspace
        for engine in _offered(place, other=other):
            manifest = engine.manifest
            known.add(manifest.name)
            if names is not None and manifest.name not in names:
                continue
            reason = _NOT_SERVED.get(manifest.target)
            if reason is None:
                _check_model(place, manifest, model, other=other)
                found.append(engine)
            else:
                _refuse_named(manifest, reason, names)
                left_out[manifest.name] = reason
    for name in names or ():
        if name not in known:
            raise no_such_engine(workspace, name, sorted(known))
    if not found:
        raise _nothing_to_serve(workspace, left_out)
    return Choice(_grouped(found), left_out)


def _offered(place: OpenedWorkspace, *, other: bool) -> list[ChosenEngine]:
    """Return the engines of a workspace; of another one only the plans, which are for its GPU.

    Raises:
        LpxError: A manifest is damaged, or another workspace has no plan (code "not-found").
    """
    engines = []
    for folder in engine_folders(place):
        manifest = read_manifest(folder)
        if not other or manifest.target == "tensorrt":
            engines.append(ChosenEngine(manifest, folder, place.root))
    if other and not engines:
        raise LpxError(
            f"{place.root} has no TensorRT plan",
            "other workspaces add plans for other GPUs",
            "leave it out of `also`, or run `lpx build --target tensorrt` there",
            code="not-found",
        )
    return engines


def _refuse_named(manifest: EngineManifest, reason: str, names: Sequence[str] | None) -> None:
    if names is None:
        return
    raise LpxError(
        f"engine {manifest.name} cannot be packaged for Triton",
        reason,
        'use engines of `target="tensorrt"` or `target="onnxruntime"`',
        code="unsupported",
    )


def _check_model(
    place: OpenedWorkspace, manifest: EngineManifest, model: ExportedModel, *, other: bool
) -> None:
    """Check that an engine is of the model.

    Raises:
        LpxError: It was built from another one, or has another card.
    """
    if not other:
        check_model(place, manifest, model)
        return
    if manifest.model_sha256 != model.sha256 or manifest.model_card() != model.card:
        raise LpxError(
            f"engine {manifest.name} in {place.root} is of another model or has another card",
            f"its manifest says {manifest.model_sha256[:12]}, the exported model here is "
            f"{model.sha256[:12]}",
            "leave that workspace out of `also`, or build the engine there from this model",
        )


def _nothing_to_serve(workspace: OpenedWorkspace, left_out: dict[str, str]) -> LpxError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
    return LpxError(
        f"workspace {workspace.root} has no engine that Triton can serve",
        reasons or "none was built",
        "run `lpx build --target tensorrt` where the server is to run, or "
        "`lpx build --target onnxruntime` for CPUs",
        code="not-found",
    )


def _grouped(engines: Sequence[ChosenEngine]) -> tuple[ModelGroup, ...]:
    groups: dict[tuple[str, Precision, int | None], list[ChosenEngine]] = {}
    for engine in engines:
        manifest = engine.manifest
        core = manifest.tensorrt.dla_core
        groups.setdefault((manifest.target, manifest.precision, core), []).append(engine)
    made = []
    for (target, precision, core), members in groups.items():
        if target == "tensorrt":
            members = _distinct_plans(members)
        else:
            members = _one_graph(members)
        made.append(ModelGroup(target, precision, core, tuple(members)))
    return tuple(sorted(made, key=lambda group: group.name_after("")))


def _one_graph(engines: Sequence[ChosenEngine]) -> list[ChosenEngine]:
    """Return the one graph of several engines.

    Raises:
        LpxError: They are different.
    """
    first = engines[0]
    for other in engines[1:]:
        if other.manifest.engine_sha256 != first.manifest.engine_sha256:
            raise _two(
                first, other, f"both are {first.manifest.precision.upper()} for ONNX Runtime"
            )
    return [first]


def _distinct_plans(engines: Sequence[ChosenEngine]) -> list[ChosenEngine]:
    """Return plans with one for each compute capability; copies of a plan count once.

    Raises:
        LpxError: Two are for the same one, or would give other scores or take other batches.
    """
    plans: dict[str, ChosenEngine] = {}
    for engine in engines:
        capability = capability_of(engine.manifest)
        taken = plans.setdefault(capability, engine)
        if taken.manifest.engine_sha256 != engine.manifest.engine_sha256:
            where = f"for compute capability {capability}" if capability else "for any GPU"
            raise _two(taken, engine, f"both are {engine.manifest.precision.upper()} plans {where}")
    # Plans of listed GPUs first, and the one for all others last.
    found = [plans[capability] for capability in sorted(plans, key=lambda one: float(one or "inf"))]
    first = found[0]
    for engine in found[1:]:
        if identity(engine.manifest) != identity(first.manifest):
            raise _apart(first, engine, "they were calibrated differently, and give other scores")
        if engine.manifest.tensorrt.tf32 != first.manifest.tensorrt.tf32:
            raise _apart(first, engine, "one multiplies in TF32, and the other does not")
        if engine.manifest.tensorrt.profiles != first.manifest.tensorrt.profiles:
            raise _apart(first, engine, "they take other batch sizes, and Triton has one setting")
    return found


def _two(first: ChosenEngine, second: ChosenEngine, why: str) -> LpxError:
    return LpxError(
        f"engines {first.folder} and {second.folder} would be one model",
        f"{why}, and the model can have one of them",
        "name those to serve with `engines`, or leave a workspace out of `also`",
    )


def _apart(first: ChosenEngine, second: ChosenEngine, why: str) -> LpxError:
    manifest = second.manifest
    return LpxError(
        f"engines {first.folder} and {second.folder} do not make one model",
        why,
        "name those to serve with `engines`, or build both with the same options: "
        f"`lpx build --{manifest.precision} --target tensorrt`",
    )


def capability_of(manifest: EngineManifest) -> str:
    """Return the compute capability that a plan is for; "" if it is hardware-compatible.

    Raises:
        LpxError: It is not known (code "unsupported").
    """
    if manifest.tensorrt.hardware_compatible:
        return ""
    # A set, since a machine may have several GPUs of one kind.
    found = {str(gpu.get("compute_capability")) for gpu in manifest.machine.get("gpus", ())}
    # From a GPU whose compute capability could not be read.
    found.discard("None")
    if len(found) == 1:
        (capability,) = found
        # It becomes part of a file's name.
        if re.fullmatch(r"[0-9]{1,2}\.[0-9]", capability):
            return capability
    why = "its manifest does not say which GPU it was built on"
    if len(found) > 1:
        why = f"the machine that built it had GPUs of {', '.join(sorted(map(ascii, found)))}"
    raise LpxError(
        f"the compute capability of plan {manifest.name} is not known",
        f"{why}, and Triton loads a plan by the compute capability of the server's GPU",
        f"{rebuild(manifest)}; or leave it out, by naming others with `engines`",
        code="unsupported",
    )


def plan_profiles(group: ModelGroup) -> tuple[BatchRange, ...]:
    """Return the profiles of a group's plans.

    Raises:
        LpxError: They do not take a single face (code "unsupported").
    """
    manifest = group.engines[0].manifest
    profiles = manifest.tensorrt.profiles
    if any(profile.minimum == 1 for profile in profiles):
        return profiles
    smallest = min(profile.minimum for profile in profiles)
    raise LpxError(
        f"plan {manifest.name} takes batches of {smallest} faces at least",
        "Triton also runs what has arrived when a batch is not full, down to one face",
        f"build it for a range: `lpx build --{manifest.precision} --target tensorrt --batch-range "
        "1:8:32`",
        code="unsupported",
    )


def latency_of(engine: ChosenEngine, reporter: Reporter) -> tuple[LatencyResult, ...]:
    """Return the latencies of the last bench in an engine's workspace, if it was this engine's.

    Args:
        engine: The engine.
        reporter: Told of a report that cannot be read.
    """
    path = engine.root / "report.json"
    if not path.exists():
        return ()
    # It imports SciPy, which takes a second.
    from lpx.bench.report.document.report import read_report

    try:
        report = read_report(path)
    except LpxError as error:
        # A package can do without measurements.
        reporter.warn(f"the last bench is not used: {error.what}")
        return ()
    for candidate in report.candidates:
        # By digest: an engine that was built again has the same name.
        if candidate.engine.engine_sha256 == engine.manifest.engine_sha256:
            return candidate.costs.latency_by_batch
    return ()
