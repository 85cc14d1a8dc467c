"""Rebuild an engine for this machine, from the graph and ranges of the one that does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lpx.artefacts.model import ExportedModel
from lpx.calibration.scales import Scales, read_scales
from lpx.engines.build import build_engine
from lpx.engines.load import read_graph
from lpx.engines.manifest import EngineManifest, read_manifest, write_manifest
from lpx.engines.request import BuildRequest
from lpx.engines.rtx_gpus import rtx_plan_runs_on, rtx_serves
from lpx.engines.targets import ResolvedTarget, resolve_target
from lpx.engines.tensorrt.building.progress import outermost
from lpx.engines.tensorrt_options import TensorRTOptions
from lpx.errors import LpxError
from lpx.graph.qdq.weights import WeightOptions
from lpx.healing.host import Host
from lpx.machine.machine import Machine
from lpx.reporter import Reporter
from lpx.schema import SchemaError, read_record
from lpx.swap import swap
from lpx.workspace import WorkspaceFolder, unwritable

# Folder of a workspace in which an engine is built until it has passed. Its name begins with a dot,
# so that it is not taken for an engine, or packed.
STAGING = ".rebuild"
# Maximum number of builds, whatever a manifest says: it may come from a stranger, and each of them
# takes minutes.
MAX_BUILDS = 8


@dataclass(frozen=True)
class _Plan:
    """What to build, and its graph; the graph is None if it has to be made."""

    request: BuildRequest
    graph: bytes | None


def rebuild_engine(
    workspace: WorkspaceFolder,
    model: ExportedModel,
    old: EngineManifest,
    host: Host,
    reporter: Reporter,
    prove: Callable[[Path, EngineManifest], None],
) -> EngineManifest:
    """Rebuild an engine with the options in its manifest, and put it in the old one's place.

    The old engine stays until the new one has passed; if that fails, nothing has changed.

    Args:
        workspace: Contains the engine.
        model: The model that it was built from.
        old: Its manifest.
        host: This machine.
        reporter: Receives notes and progress.
        prove: Checks the new engine, in a folder of its own; raises LpxError if it does not pass.

    Returns:
        The manifest of the new engine.

    Raises:
        LpxError: The engine cannot be built here or has not passed, another process works in the
            workspace (code "in-use"), or a file is altered or cannot be written.
    """
    folder = workspace.engines / old.name
    staging = workspace.root / STAGING
    with workspace.lock():
        # Another process may have rebuilt it before this one got the lock.
        current = read_manifest(folder)
        if _build_of(current) != _build_of(old) and host.runs(current).usable:
            return current
        target = resolve_target(old.target, host.machine, host.installed)
        plan = _plan(workspace, folder, current, target, host)
        label = f"rebuilding {old.name}"
        reporter.say(f"{label} with {_origin(plan)}")
        # What a killed process left.
        shutil.rmtree(staging, ignore_errors=True)
        new = staging / old.name
        try:
            made = build_engine(
                model.data,
                model.card,
                plan.request,
                target,
                new,
                host.machine,
                progress=outermost(reporter.progress(label)),
                timing_caches=workspace.timing_caches,
                graph=plan.graph,
            )
            write_manifest(new, _with_calibration_of(made, current))
            prove(new, read_manifest(new))
            # From here on the new engine is in place; what is removed below is the old one.
            swap(new, folder)
        except OSError as error:
            raise unwritable(folder, error) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return read_manifest(folder)


def _build_of(manifest: EngineManifest) -> tuple[object, ...]:
    """Return what distinguishes one build of an engine from another."""
    # Not the whole manifest: a survey adds warnings of this machine to it.
    return (manifest.engine_sha256, manifest.versions, manifest.machine)


def _plan(
    workspace: WorkspaceFolder,
    folder: Path,
    old: EngineManifest,
    target: ResolvedTarget,
    host: Host,
) -> _Plan:
    """Return what to build: the old engine's graph, or one to make from its ranges.

    Raises:
        LpxError: Both are missing, or one is altered.
    """
    options = _options(old, host.machine)
    weights, method = _quantisation(old)
    plan = old.precision_plan
    request = BuildRequest(old.target, old.precision, None, method, weights, options, plan)
    dialect = target.dialect(old.precision, options.dla_core)
    # A calibration cache is written for one release of TensorRT.
    if dialect == old.dialect and dialect != "calibration-cache":
        try:
            return _Plan(request, read_graph(folder, old))
        except LpxError as error:
            if error.code != "not-found":
                raise
    if old.precision != "int8":
        return _Plan(request, None)
    return _Plan(replace(request, scales=_scales(workspace, old)), None)


def _origin(plan: _Plan) -> str:
    if plan.graph is not None:
        return "the graph of the one that does not run here"
    if plan.request.scales is not None:
        return "the ranges of the one that does not run here"
    return "the exported model"


def _options(old: EngineManifest, machine: Machine) -> TensorRTOptions:
    """Return TensorRT's options for this machine, from those in a manifest."""
    options = old.tensorrt
    # Kernel times of the other machine are not here, so that a frozen cache would fail.
    options = replace(options, frozen_timing_cache=False, builds=min(options.builds, MAX_BUILDS))
    if old.options.get("workspace_from", "as asked for") != "as asked for":
        # It was chosen by the memory that was free there.
        options = replace(options, workspace_mib=None)
    if machine.jetson is not None:
        # Built here, it need not run on other GPUs; on a Jetson, TensorRT refuses to try.
        options = replace(options, hardware_compatible=False)
    here = machine.compute_capabilities
    if old.target == "tensorrt-rtx" and not any(
        rtx_plan_runs_on(capability, options.gpus) for capability in here
    ):
        served: tuple[str, ...] = ()
        if not any(rtx_plan_runs_on(capability) for capability in here):
            served = tuple(capability for capability in here if rtx_serves(capability))
        options = replace(options, compute_capabilities=served)
    return options


def _quantisation(old: EngineManifest) -> tuple[WeightOptions, str]:
    """Return the options for weights and the calibration method in a manifest.

    Raises:
        LpxError: They are not as lpx writes them.
    """
    requantise = old.options.get("requantised") is True
    if old.calibration is None:
        return WeightOptions(requantise=requantise), ""
    try:
        weights = read_record(WeightOptions, old.calibration.get("weights", {}), "weights")
    except (SchemaError, LpxError) as error:
        raise LpxError(
            f"the manifest of engine {old.name} does not say how its weights were quantised",
            str(error),
            f"run `lpx build --{old.precision} --target {old.target}`",
            code="damaged",
        ) from error
    return replace(weights, requantise=requantise), str(old.calibration.get("method", ""))


def _scales(workspace: WorkspaceFolder, old: EngineManifest) -> Scales:
    """Return the ranges that an engine was built with.

    Raises:
        LpxError: The workspace has none, or others.
    """
    scales = read_scales(workspace.scales)
    named = (old.calibration or {}).get("ranges_sha256")
    if scales.summary()["ranges_sha256"] != named:
        raise LpxError(
            f"{workspace.scales} does not have the ranges that {old.name} was built with",
            "another engine would take its place under the same name",
            f"run `lpx build --{old.precision} --target {old.target}` if that is what you want",
        )
    return scales


def _with_calibration_of(made: EngineManifest, old: EngineManifest) -> EngineManifest:
    """Return a new manifest with the calibration of the old one: their ranges are the same."""
    if old.calibration is None:
        return made
    warnings = made.warnings
    warning = old.calibration.get("warning", "")
    if warning and warning not in warnings:
        warnings = (*warnings, warning)
    return replace(made, calibration=old.calibration, warnings=warnings)
