"""The checkpoint that a model was exported from; apart, because it needs PyTorch."""

from __future__ import annotations

from lpx.errors import LpxError
from lpx.models.checkpoint import (
    Detector,
    ForeignModel,
    load_checkpoint,
    load_factory,
    weights_digest,
)
from lpx.pipeline.exported import ExportedModel
from lpx.workspace import Workspace


def read_reference(workspace: Workspace, model: ExportedModel) -> Detector:
    """The checkpoint that a model was exported from: what engines are compared with.

    Raises:
        LpxError: It is gone, damaged, or its weights are not those of the model.
    """
    if not workspace.reference.is_file():
        raise LpxError(
            f"{workspace.reference} does not exist",
            "it is the checkpoint that engines are compared with",
            "run `lpx export` again",
        )
    if model.factory is None:
        try:
            detector = load_checkpoint(workspace.reference)
        except LpxError as error:
            # Its advice is for a file of the user's own; this one lpx makes.
            raise LpxError(error.what, error.why, "run `lpx export` again") from error
    else:
        card = model.card
        foreign = ForeignModel(
            architecture=model.factory,
            input_size=card.input_size,
            mean=card.mean,
            std=card.std,
            channel_order=card.channel_order,
            fake_class=card.fake_class,
            outputs=card.outputs,
        )
        detector = load_factory(model.factory, workspace.reference, foreign)
    if weights_digest(detector) != model.card.weights_sha256:
        raise LpxError(
            f"{workspace.reference} is not the checkpoint that was exported",
            "its weights differ from those in the model card",
            "run `lpx export` again",
        )
    return detector
