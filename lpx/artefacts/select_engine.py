"""Select the engines of a workspace that run on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lpx.artefacts.model import ExportedModel
from lpx.bench.parity.stages import MODEL
from lpx.bench.performance.loaded_engine import REFERENCE
from lpx.data.walk import ABSENT, refuse_unreadable
from lpx.engines.base import Engine
from lpx.engines.compatibility import differences
from lpx.engines.load import load
from lpx.engines.manifest import FILE, EngineManifest, read_manifest
from lpx.engines.targets import can_run
from lpx.errors import InvalidArgumentError, LpxError
from lpx.machine.machine import read_machine
from lpx.workspace import WorkspaceFolder

_TAKEN = (REFERENCE, MODEL)
# Preferred precisions of an engine that is not chosen by name, the fastest first.
_PREFERRED = ("int8", "fp16", "fp32")


class RunnableEngines(NamedTuple):
    """Engines of a workspace.

    Attributes:
        manifests: Manifests of the engines that run here, with warnings added.
        not_run: Reasons why the others do not, by name.
    """

    manifests: list[EngineManifest]
    not_run: dict[str, str]


class PickedEngine(NamedTuple):
    """An opened engine and its name."""

    name: str
    engine: Engine


def runnable(workspace: WorkspaceFolder, model: ExportedModel) -> RunnableEngines:
    """Find the engines of a model that run on this machine.

    Raises:
        LpxError: None runs here, or one was built from another model.
    """
    machine = read_machine()
    manifests: list[EngineManifest] = []
    not_run: dict[str, str] = {}
    for folder in engine_folders(workspace):
        manifest = read_manifest(folder)
        # Before anything else uses the name, which is the folder's and may be anything.
        _check_name(manifest.name, folder)
        check_model(workspace, manifest, model)
        # An engine that does not run here is not an error: another machine may have built it.
        usable, reason = can_run(manifest, machine)
        if usable:
            noted = (*manifest.warnings, *differences(manifest, machine))
            manifests.append(replace(manifest, warnings=noted))
        else:
            not_run[manifest.name] = reason
    if not manifests:
        raise _none_runs(workspace, not_run)
    return RunnableEngines(manifests, not_run)


def _none_runs(workspace: WorkspaceFolder, not_run: dict[str, str]) -> LpxError:
    what = f"workspace {workspace.root} has no engine that runs here"
    if not not_run:
        return LpxError(what, "none was built", "run `lpx build --int8` first", code="not-found")
    reasons = "; ".join(f"{name}: {reason}" for name, reason in not_run.items())
    return LpxError(
        what,
        reasons,
        "run `lpx build --int8 --target onnxruntime`, whose engines run everywhere",
        code="unsupported",
    )


def engine_folders(workspace: WorkspaceFolder) -> list[Path]:
    """Return the folders of all engines, sorted.

    Raises:
        LpxError: A folder cannot be read: skipping it could hide an engine.
    """
    if not os.path.lexists(workspace.engines):
        return []
    try:
        names = sorted(os.listdir(workspace.engines))
        return [workspace.engines / n for n in names if _holds_engine(workspace.engines / n)]
    except OSError as error:
        refuse_unreadable(error)


def _holds_engine(folder: Path) -> bool:
    try:
        os.stat(folder / FILE)
    except OSError as error:
        if error.errno in ABSENT:
            return False
        raise
    return True


def _check_name(name: str, folder: Path) -> None:
    """Refuse a name that has another meaning in reports and as the argument `engine`."""
    if name in _TAKEN or ":" in name:
        raise LpxError(
            f"{folder} is not a name that an engine can have",
            "torch is the checkpoint, onnx the exported model, NAME:graph an engine's graph",
            "rename the folder",
        )


def find_engine(workspace: WorkspaceFolder, name: object) -> Path:
    """Return the folder of an engine.

    Args:
        workspace: Contains the engines.
        name: Name of the engine.

    Raises:
        InvalidArgumentError: The name is not a str.
        LpxError: The workspace has no engine of this name (code "not-found").
    """
    # Compared with the names: a text with slashes must not lead out of the workspace.
    folders = {folder.name: folder for folder in engine_folders(workspace)}
    if not isinstance(name, str):
        raise InvalidArgumentError("engine", "must be the name of an engine", name)
    if name in folders:
        return folders[name]
    raise LpxError(
        f"engine {name} does not exist",
        f"engines of {workspace.root}: {', '.join(folders) or 'none'}",
        "use one of these" if folders else "run `lpx build --int8` first",
        code="not-found",
    )


def check_model(workspace: WorkspaceFolder, manifest: EngineManifest, model: ExportedModel) -> None:
    """Check that an engine was built from a model, and has its card.

    Args:
        workspace: Contains both.
        manifest: Manifest of the engine.
        model: The exported model.

    Raises:
        LpxError: It was built from another model, or has another card.
    """
    if manifest.model_sha256 != model.sha256:
        raise LpxError(
            f"engine {manifest.name} was built from another model than {workspace.model}",
            f"its manifest says {manifest.model_sha256[:12]}, the model is {model.sha256[:12]}",
            f"run `lpx build --{manifest.precision} --target {manifest.target}` again, or remove "
            f"{workspace.engines / manifest.name}",
        )
    if manifest.model_card() != model.card:
        raise LpxError(
            f"the manifest of engine {manifest.name} has another model card than the exported "
            "model",
            "the card decides how faces are prepared and which of them are called fake",
            f"it was edited: run `lpx build --{manifest.precision} --target {manifest.target}` "
            "again",
            code="damaged",
        )


def pick_engine(
    workspace: WorkspaceFolder,
    model: ExportedModel,
    name: str | None,
    *,
    allow_host_code: bool = False,
    allow_factory: bool = False,
    load: Callable[..., Engine] = load,
) -> PickedEngine:
    """Open an engine by its name.

    Args:
        workspace: Contains the engines.
        model: The model that they must have been built from.
        name: Name of the engine, or "torch" for the checkpoint; None for the fastest engine that
            runs here.
        allow_host_code: Load a version-compatible plan, which contains code that runs here.
        allow_factory: Run the factory that the workspace names, for "torch".
        load: Loads the engine in a folder.

    Raises:
        LpxError: It does not exist (code "not-found"), or does not run here ("unsupported").
    """
    if name == REFERENCE:
        # PyTorch takes seconds to import.
        from lpx.artefacts.reference import read_reference
        from lpx.engines.torch import TorchEngine

        reference = read_reference(workspace, model, allow_factory=allow_factory)
        return PickedEngine(name, TorchEngine(reference))
    manifests, not_run = runnable(workspace, model)
    if name is None:
        # False sorts before True: TensorRT's engines before ONNX Runtime's, at any precision.
        name = min(
            manifests, key=lambda m: (m.target == "onnxruntime", _PREFERRED.index(m.precision))
        ).name
    names = [manifest.name for manifest in manifests]
    if name in names:
        # The cores are shared: the caller reads images or videos while the engine runs.
        engine = load(workspace.engines / name, allow_host_code=allow_host_code, shares_cores=True)
        return PickedEngine(name, engine)
    fix = (
        f"engines that run here: torch, {', '.join(names)}; use one of these, or leave out `engine`"
    )
    if name in not_run:
        raise LpxError(f"engine {name} does not run here", not_run[name], fix, code="unsupported")
    raise LpxError(
        f"engine {name} does not exist",
        f"{workspace.root} holds no engine of that name",
        fix,
        code="not-found",
    )
