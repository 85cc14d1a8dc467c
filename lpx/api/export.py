"""A checkpoint to ONNX, verified on faces."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lpx.arguments import check_at_least, check_number
from lpx.artefacts.model import EXPORT_FORMAT, check_card_inside, versions
from lpx.card import ModelCard
from lpx.data.face_sets.sets import open_set
from lpx.errors import LpxError
from lpx.export.to_onnx import OPSET, to_onnx
from lpx.export.verify import FACES, Verification, verify
from lpx.models.checkpoint import (
    Detector,
    ForeignModel,
    load_checkpoint,
    load_factory,
    save_checkpoint,
    save_state,
)
from lpx.reporter import SILENT, Reporter
from lpx.workspace import WorkspaceFolder, sha256, write_bytes, write_sealed


@dataclass(frozen=True)
class ExportResult:
    """Result of `lpx.Workspace.export`.

    Attributes:
        model: Path of the ONNX model.
        model_sha256: Its SHA-256.
        card: Its model card.
        verification: Differences between the ONNX model and PyTorch.
        opset: ONNX opset of the model.
    """

    model: Path
    model_sha256: str
    card: ModelCard
    verification: Verification
    opset: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `lpx export --json` prints them."""
        return {
            "model": str(self.model),
            "model_sha256": self.model_sha256,
            "opset": self.opset,
            "verification": asdict(self.verification),
            "card": self.card.to_dict(),
        }


def export(
    workspace: WorkspaceFolder,
    checkpoint: Path | None,
    *,
    opset: int = OPSET,
    foreign: ForeignModel | None = None,
    factory: str | None = None,
    weights_key: str | None = None,
    tolerance: float | None = None,
    verify_faces: int = FACES,
    reporter: Reporter = SILENT,
) -> ExportResult:
    """Implement `lpx.Workspace.export`, which documents arguments and errors."""
    check_at_least(
        "verify_faces", verify_faces, 2, "a face is compared alone and as part of a batch"
    )
    check_number(
        "tolerance",
        tolerance,
        above=0,
        most=1,
        why="it is the largest difference of a score or a map cell, and both are in [0, 1]",
    )
    detector = _load(checkpoint, foreign, factory, weights_key)
    card = detector.card
    for note in detector.notes:
        reporter.say(note)
    for warning in detector.warnings:
        reporter.warn(warning)
    reporter.say(
        f"{card.architecture} cut at {card.cut}, {card.aggregate}, {card.input_size} px, "
        f"grid {card.grid[0]}x{card.grid[1]}"
    )
    model = to_onnx(detector, opset)
    verification = verify(
        model, detector, open_set("demo", "test"), limit=verify_faces, tolerance=tolerance
    )
    # A checkpoint's card may have been edited so that its grid is not what the model gives.
    check_card_inside(model, card, workspace.model, workspace.model.with_suffix(".json"))
    digest = hashlib.sha256(model).hexdigest()
    # Nothing is written earlier, so an export that is refused leaves the earlier model in place.
    with workspace.lock():
        if factory is None:
            save_checkpoint(workspace.reference, detector.module, card)
        else:
            save_state(workspace.reference, detector)
        write_bytes(workspace.model, model)
        # The manifest is last: a model that an interrupted export leaves has another digest than
        # the manifest, and is refused.
        write_sealed(
            workspace.model.with_suffix(".json"),
            {
                "format": EXPORT_FORMAT,
                "checkpoint": None if checkpoint is None else str(checkpoint),
                "checkpoint_sha256": None if checkpoint is None else sha256(checkpoint),
                "factory": factory,
                "model_sha256": digest,
                "opset": opset,
                "card": card.to_dict(),
                "verification": asdict(verification),
                "versions": versions("torch", "onnx", "onnxscript", "onnxsim"),
            },
        )
    return ExportResult(workspace.model, digest, card, verification, opset)


def _load(
    checkpoint: Path | None,
    foreign: ForeignModel | None,
    factory: str | None,
    weights_key: str | None,
) -> Detector:
    if checkpoint is None and weights_key is not None:
        raise LpxError(
            "`weights_key` without a checkpoint",
            "it selects weights in a file, and the factory loads its own",
            "add the file: `lpx export FILE --factory ...`",
            code="invalid-argument",
        )
    if factory is not None:
        described = foreign or ForeignModel(architecture=factory)
        return load_factory(factory, checkpoint, described, weights_key)
    if checkpoint is None:
        raise LpxError(
            "no checkpoint was given",
            "",
            "run `lpx export ckpt.pt`, or use a `factory`",
            code="invalid-argument",
        )
    return load_checkpoint(checkpoint, foreign, weights_key)
