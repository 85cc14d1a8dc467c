"""The reference of a bench: the checkpoint, or its scores that an earlier bench recorded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import datetime, timezone
from typing import Literal

from lpx.artefacts.model import ExportedModel, versions
from lpx.bench.parity.recording import (
    FOLDER,
    Origin,
    RecordedScores,
    Recording,
    Subject,
    has_recordings,
    record,
    recorded_scores,
)
from lpx.bench.parity.score import Scored
from lpx.bench.performance.loaded_engine import REFERENCE
from lpx.data.face_sets.face_set import FaceSet
from lpx.engines.base import Engine
from lpx.errors import LpxError
from lpx.extras import is_installed
from lpx.machine.machine import read_machine
from lpx.reporter import Reporter
from lpx.workspace import WorkspaceFolder

# The checkpoint needs PyTorch. With "auto" it is the checkpoint where that runs.
ReferenceKind = Literal["auto", "checkpoint", "recorded"]


def open_reference(
    workspace: WorkspaceFolder,
    model: ExportedModel,
    faces: FaceSet,
    kind: ReferenceKind,
    stack: ExitStack,
    reporter: Reporter,
    *,
    allow_factory: bool = False,
) -> Engine | RecordedScores:
    """Return what engines are compared with: the checkpoint, or its recorded scores.

    Args:
        workspace: Contains the checkpoint, its recorded scores, or both.
        model: The exported model.
        faces: Faces to score.
        kind: Which of the two.
        stack: Releases the checkpoint.
        reporter: Receives the origin of recorded scores.
        allow_factory: As for `read_reference`.

    Raises:
        LpxError: The checkpoint is missing or damaged, or a face has no recorded score.
        ImportError: PyTorch is missing.
    """
    folder = workspace.root / FOLDER
    recorded = has_recordings(folder)
    if kind == "auto":
        torch = is_installed("torch")
        if not torch and not recorded:
            raise LpxError(
                "bench needs torch, which is not installed, or recorded scores of the checkpoint",
                f"{folder} has none",
                'pip install "lpx[export]"; or run `lpx bench` where the checkpoint is, '
                "which records its scores, and `lpx pack` after it",
                code="unsupported",
            )
        runs = torch and workspace.reference.is_file()
        # Without a recording, the error about the checkpoint is the one that helps.
        kind = "checkpoint" if runs or not recorded else "recorded"
    if kind == "recorded":
        scores = recorded_scores(folder, _subject(model), faces)
        origin = scores.origin
        reporter.say(
            f"comparing with the checkpoint's scores recorded on {origin.created[:10]} with torch "
            f"{origin.torch} on {origin.machine}"
        )
        return scores
    if recorded and not workspace.reference.is_file():
        raise LpxError(
            f"{workspace.reference} does not exist",
            "it is the checkpoint, of which this workspace has recorded scores only",
            'use `reference="recorded"`, or run `lpx pack --checkpoint` where it was packed',
            code="not-found",
        )
    # Here, as they import PyTorch.
    from lpx.artefacts.reference import read_reference
    from lpx.engines.torch import TorchEngine

    detector = read_reference(workspace, model, allow_factory=allow_factory)
    return stack.enter_context(closing(TorchEngine(detector)))


def torch_package(reference: Engine | RecordedScores) -> tuple[str, ...]:
    """Return the package whose version a reference depends on; none if it was recorded."""
    return ("torch",) if isinstance(reference, Engine) else ()


def _subject(model: ExportedModel) -> Subject:
    return Subject(model.sha256, model.card.weights_sha256, model.card.input_size)


def record_reference(
    workspace: WorkspaceFolder,
    model: ExportedModel,
    faces: FaceSet,
    scored: Scored,
    reference: Engine,
    warn: Callable[[str], None],
    *,
    machine: str = "",
) -> None:
    """Record the checkpoint's scores, so that a bench elsewhere needs neither it nor PyTorch.

    Args:
        workspace: Receives them.
        model: The exported model.
        faces: The faces that were scored.
        scored: Predictions of the checkpoint, among others.
        reference: The checkpoint.
        warn: Receives the reason why an earlier recording is replaced.
        machine: The machines that computed the scores, in words; "" for this one.

    Raises:
        LpxError: The folder cannot be written.
    """
    from lpx.engines.torch import TorchEngine

    here = read_machine()
    device = reference.device.type if isinstance(reference, TorchEngine) else ""
    if device == "cuda" and here.gpus:
        device = here.gpus[0].name
    origin = Origin(
        torch=versions("torch")["torch"],
        device=device,
        machine=machine or here.words,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        lpx=versions()["lpx"],
    )
    recording = Recording(
        _subject(model),
        origin,
        (faces.crop,),
        faces.contents[scored.indices],
        scored.predictions[REFERENCE],
    )
    record(workspace.root / FOLDER, recording, warn)
