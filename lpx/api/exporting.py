"""export(): a checkpoint to ONNX, verified on faces."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from lpx.arguments import check_at_least
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
from lpx.workspace import Workspace, sha256, write_bytes, write_sealed


@dataclass(frozen=True)
class Exported:
    """What `export` made."""

    model: Path
    model_sha256: str
    card: ModelCard
    verification: Verification
    opset: int


def export(
    checkpoint: Path | None,
    workspace: Workspace,
    *,
    opset: int = OPSET,
    foreign: ForeignModel | None = None,
    factory: str | None = None,
    weights_key: str | None = None,
    tolerance: float | None = None,
    verify_faces: int = FACES,
    report: Reporter = SILENT,
) -> Exported:
    """Export a checkpoint to `model.onnx` in the workspace, verified on faces.

    Args:
        checkpoint: An lpx checkpoint, or a state dict; None where a factory loads its own weights.
        workspace: Receives `model.onnx`, `model.json` and `reference.pt`.
        opset: ONNX opset, 17 to 20.
        foreign: What a state dict without a card is.
        factory: `package.module:function` that makes the model.
        weights_key: Where the weights stand in a file that brings no card; None to look for them.
        tolerance: Largest |difference| between export and checkpoint; None for `verify`'s rule.
        verify_faces: How many demo faces the export is verified on.
        report: Told what happens.

    Raises:
        LpxError: The checkpoint cannot be loaded or exported, or the export differs from it.
    """
    check_at_least(
        "verify_faces", verify_faces, 2, "a face is compared alone and beside another too"
    )
    if tolerance is not None and not 0 < tolerance <= 1:
        raise LpxError(
            f"--tolerance must be above 0 and at most 1 (got {tolerance:g})",
            "it is the largest difference of a score or a map cell, and both are in [0, 1]",
            "leave it out, or give a number such as 0.001",
        )
    detector = _load(checkpoint, foreign, factory, weights_key)
    card = detector.card
    for note in detector.notes:
        report.say(note)
    report.say(
        f"{card.architecture} cut at {card.cut}, {card.aggregate}, {card.input_size} px, "
        f"grid {card.grid[0]}x{card.grid[1]}"
    )
    model = to_onnx(detector, opset)
    verification = verify(
        model, detector, open_set("demo", "test"), limit=verify_faces, tolerance=tolerance
    )
    # The card of a checkpoint may have been edited: its grid is not what the model gives then.
    check_card_inside(model, card, workspace.model, workspace.model.with_suffix(".json"))
    digest = hashlib.sha256(model).hexdigest()
    with workspace.lock():
        if factory is None:
            save_checkpoint(workspace.reference, detector.module, card)
        else:
            save_state(workspace.reference, detector)
        write_bytes(workspace.model, model)
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
    return Exported(workspace.model, digest, card, verification, opset)


def _load(
    checkpoint: Path | None,
    foreign: ForeignModel | None,
    factory: str | None,
    weights_key: str | None,
) -> Detector:
    if checkpoint is None and weights_key is not None:
        raise LpxError(
            "--weights-key without a checkpoint",
            "it names weights in a file, and the factory loads its own",
            "name the file too: lpx export FILE --factory ...",
        )
    if factory is not None:
        described = foreign or ForeignModel(architecture=factory)
        return load_factory(factory, checkpoint, described, weights_key)
    if checkpoint is None:
        raise LpxError("no checkpoint was named", "", "lpx export ckpt.pt, or --factory")
    return load_checkpoint(checkpoint, foreign, weights_key)
