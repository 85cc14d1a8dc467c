"""Select the engines of a workspace that run on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lpx.arguments import several
from lpx.artefacts.model import ExportedModel
from lpx.bench.parity.stages import MODEL
from lpx.bench.performance.loaded_engine import REFERENCE
from lpx.data.walk import ABSENT, refuse_unreadable
from lpx.engines.base import Availability
from lpx.engines.compatibility import differences
from lpx.engines.manifest import FILE, EngineManifest, read_manifest
from lpx.engines.targets import can_run
from lpx.errors import InvalidArgumentError, LpxError
from lpx.machine.machine import Machine, read_machine
from lpx.workspace import WorkspaceFolder

_TAKEN = (REFERENCE, MODEL)
# Preferred precisions of an engine that is not chosen by name, the fastest first.
_PREFERRED = ("int8", "fp16", "fp32")


@dataclass(frozen=True)
class UnfitEngine:
    """An engine that does not run on this machine, and why."""

    manifest: EngineManifest
    reason: str


@dataclass(frozen=True)
class Survey:
    """All engines of a workspace.

    Attributes:
        fit: Manifests of the engines that run here, with warnings added.
        unfit: The others.
    """

    fit: list[EngineManifest]
    unfit: list[UnfitEngine]

    @property
    def reasons(self) -> dict[str, str]:
        """Return why engines do not run here, by name."""
        return {one.manifest.name: one.reason for one in self.unfit}


def runnable(workspace: WorkspaceFolder, model: ExportedModel) -> Survey:
    """Find the engines of a model that run on this machine.

    Raises:
        LpxError: None runs here, or one was built from another model.
    """
    machine = read_machine()
    found = survey(workspace, model, machine, lambda manifest: can_run(manifest, machine))
    if not found.fit:
        raise none_runs(workspace, found.reasons)
    return found


def survey(
    workspace: WorkspaceFolder,
    model: ExportedModel,
    machine: Machine,
    runs: Callable[[EngineManifest], Availability],
) -> Survey:
    """Sort the engines of a model into those that run here and others.

    Args:
        workspace: Contains the engines.
        model: The exported model.
        machine: The machine at hand.
        runs: Says whether an engine runs on it.

    Raises:
        LpxError: An engine was built from another model, or its manifest is damaged.
    """
    fit: list[EngineManifest] = []
    unfit: list[UnfitEngine] = []
    for folder in engine_folders(workspace):
        manifest = read_manifest(folder)
        # Before anything else uses the name, which is the folder's and may be anything.
        _check_name(manifest.name, folder)
        check_model(workspace, manifest, model)
        # An engine that does not run here is not an error: another machine may have built it.
        usable, reason = runs(manifest)
        if usable:
            noted = (*manifest.warnings, *differences(manifest, machine))
            fit.append(replace(manifest, warnings=noted))
        else:
            unfit.append(UnfitEngine(manifest, reason))
    return Survey(fit, unfit)


def preference(manifest: EngineManifest) -> tuple[bool, int]:
    """Return a key that sorts engines, the one to prefer first."""
    # False sorts before True: TensorRT's engines before ONNX Runtime's, at any precision.
    return (manifest.target == "onnxruntime", _PREFERRED.index(manifest.precision))


def none_runs(workspace: WorkspaceFolder, not_run: dict[str, str]) -> LpxError:
    """Make the error for a workspace without an engine that runs here.

    Args:
        workspace: The workspace.
        not_run: Why its engines do not, by name.
    """
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
    raise no_such_engine(workspace, name, folders)


def no_such_engine(workspace: WorkspaceFolder, name: str, known: Iterable[str]) -> LpxError:
    """Make the error for a name that no engine of a workspace has.

    Args:
        workspace: The workspace.
        name: The name.
        known: Names of its engines.
    """
    names = ", ".join(known)
    return LpxError(
        f"engine {name} does not exist",
        f"engines of {workspace.root}: {names or 'none'}",
        "use one of these" if names else "run `lpx build --int8` first",
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


def choose_engines(
    workspace: WorkspaceFolder, found: Survey, names: str | Sequence[str] | None
) -> Survey:
    """Choose engines by name; None chooses all.

    Raises:
        LpxError: No engine has one of the names (code "not-found"), or none of them runs here.
    """
    if names is None:
        return found
    names = several("candidates", names)
    fit = {manifest.name: manifest for manifest in found.fit}
    for name in names:
        if name not in fit and name not in found.reasons:
            raise no_such_engine(workspace, name, [*fit, *found.reasons])
    chosen = Survey(
        [manifest for manifest in found.fit if manifest.name in names],
        [one for one in found.unfit if one.manifest.name in names],
    )
    if not chosen.fit:
        raise LpxError(
            f"none of {', '.join(names)} runs here",
            "; ".join(f"{name}: {reason}" for name, reason in chosen.reasons.items()),
            f"engines that run here: {', '.join(fit)}",
            code="unsupported",
        )
    return chosen
