"""Engines of a workspace that run on this machine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from lpx.artefacts.model import ExportedModel
from lpx.bench.parity.stages import MODEL
from lpx.bench.performance.candidate import REFERENCE
from lpx.data.walk import ABSENT, refuse_unreadable
from lpx.engines.base import Engine
from lpx.engines.compatibility import differences
from lpx.engines.load import load
from lpx.engines.manifest import FILE, EngineManifest, read_manifest
from lpx.engines.targets import can_run
from lpx.errors import LpxError
from lpx.machine.machine import read_machine
from lpx.workspace import WorkspaceFolder

_TAKEN = (REFERENCE, MODEL)


def runnable(
    workspace: WorkspaceFolder, model: ExportedModel
) -> tuple[list[EngineManifest], dict[str, str]]:
    """Engines of this model that run here; names and reasons of those that do not.

    Raises:
        LpxError: None runs here, or one was built from another model.
    """
    machine = read_machine()
    manifests: list[EngineManifest] = []
    not_run: dict[str, str] = {}
    for folder in engine_folders(workspace):
        manifest = read_manifest(folder)
        _check_name(manifest.name, folder)
        if manifest.model_sha256 != model.sha256:
            raise LpxError(
                f"engine {manifest.name} was built from another model than {workspace.model}",
                f"it names {manifest.model_sha256[:12]}, the model is {model.sha256[:12]}",
                f"run `lpx build --{manifest.precision} --target {manifest.target}` again, or "
                f"remove {folder}",
            )
        check_card(manifest, model)
        usable, reason = can_run(manifest, machine)
        if usable:
            noted = (*manifest.warnings, *differences(manifest, machine))
            manifests.append(replace(manifest, warnings=noted))
        else:
            not_run[manifest.name] = reason
    if not manifests:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in not_run.items())
        raise LpxError(
            f"workspace {workspace.root} has no engine that runs here",
            reasons or "none was built",
            "run `lpx build --int8` (with --target onnxruntime, which runs everywhere)"
            if not_run
            else "run `lpx build --int8` first",
        )
    return manifests, not_run


def engine_folders(workspace: WorkspaceFolder) -> list[Path]:
    """The folders of all engines, sorted.

    Raises:
        LpxError: One cannot be looked into: its engine would be missed in silence.
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
    """Refuse a name that reports and `--engine` give to something else."""
    if name in _TAKEN or ":" in name:
        raise LpxError(
            f"{folder} is not a name that an engine can have",
            "torch is the checkpoint, onnx the exported model, NAME:graph an engine's graph: "
            "an engine of that name would be taken for it",
            "rename the folder",
        )


def check_card(manifest: EngineManifest, model: ExportedModel) -> None:
    """Make sure that an engine carries the card of the model that it was built from.

    Raises:
        LpxError: It carries another one.
    """
    if manifest.model_card() != model.card:
        raise LpxError(
            f"the manifest of engine {manifest.name} has another model card than the exported "
            "model",
            "the card decides how faces are prepared and which of them are called fake",
            f"it was edited: run `lpx build --{manifest.precision} --target {manifest.target}` "
            "again",
        )


def pick_engine(
    workspace: WorkspaceFolder,
    model: ExportedModel,
    name: str | None,
    *,
    allow_host_code: bool = False,
    allow_factory: bool = False,
) -> tuple[str, Engine]:
    """An engine by its name, or "torch"; where none is named, the fastest that runs here.

    Args:
        workspace: Holds the engines.
        model: What they must have been built from.
        name: Of the engine.
        allow_host_code: Load a version-compatible plan, which carries code that runs here.
        allow_factory: Run the factory that the workspace names, for "torch".

    Raises:
        LpxError: It does not exist, or does not run here.
    """
    if name == REFERENCE:
        # Imported here, for PyTorch takes seconds.
        from lpx.artefacts.reference import read_reference
        from lpx.engines.torch import TorchEngine

        return name, TorchEngine(read_reference(workspace, model, allow_factory=allow_factory))
    manifests, not_run = runnable(workspace, model)
    order = ("int8", "fp16", "fp32")
    if name is None:
        # TensorRT's engines come before ONNX Runtime's, whose name sorts first.
        manifests.sort(key=lambda m: (m.target == "onnxruntime", order.index(m.precision)))
        name = manifests[0].name
    if name in {m.name for m in manifests}:
        # Whoever picks one reads images or videos while it runs.
        folder = workspace.engines / name
        return name, load(folder, allow_host_code=allow_host_code, shares_cores=True)
    raise LpxError(
        f"engine {name} {'does not run here' if name in not_run else 'does not exist'}",
        not_run.get(name, f"{workspace.root} holds no engine of that name"),
        f"engines that run here: torch, {', '.join(m.name for m in manifests)}; name one of these, "
        "or leave --engine out",
    )
