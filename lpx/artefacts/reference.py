"""The checkpoint that a model was exported from, in a module of its own: it imports PyTorch."""

from __future__ import annotations

from lpx.artefacts.model import ExportedModel
from lpx.errors import LpxError
from lpx.models.checkpoint import (
    Detector,
    ForeignModel,
    load_checkpoint,
    load_factory,
    weights_digest,
)
from lpx.workspace import WorkspaceFolder


def read_reference(
    workspace: WorkspaceFolder, model: ExportedModel, *, allow_factory: bool = False
) -> Detector:
    """Load the checkpoint that a model was exported from, which engines are compared with.

    Args:
        workspace: Contains the checkpoint.
        model: The exported model.
        allow_factory: Import and call the factory that the workspace names. Its name is data: only
            use workspaces from a source you trust.

    Raises:
        LpxError: It is missing (code "not-found") or damaged ("damaged"), its weights are not those
            of the model, or a factory makes it and that was not allowed ("untrusted").
    """
    if model.factory is not None and not allow_factory:
        raise LpxError(
            f"workspace {workspace.root} names the factory {model.factory} to make its PyTorch "
            "model",
            "importing it runs code, and the workspace may come from someone else",
            "if you trust it, use `allow_factory=True`",
            code="untrusted",
        )
    if not workspace.reference.is_file() and workspace.bundle.is_file():
        raise LpxError(
            f"{workspace.reference} does not exist",
            "it is the checkpoint that engines are compared with, and the bundle that this "
            "workspace came from does not include it",
            "run `lpx bench` where it was packed, which records the checkpoint's scores, and pack "
            "again; or run `lpx pack --checkpoint` there",
            code="not-found",
        )
    if not workspace.reference.is_file():
        raise LpxError(
            f"{workspace.reference} does not exist",
            "it is the checkpoint that engines are compared with",
            "run `lpx export` again",
            code="not-found",
        )
    if model.factory is None:
        try:
            detector = load_checkpoint(workspace.reference)
        except LpxError as error:
            # Its advice is for a file of the user's own, but lpx made this one.
            fix = "run `lpx export` again"
            raise LpxError(error.what, error.why, fix, code=error.code) from error
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
        # Not here_first: the name was read from a file, and must not run a module that happens to
        # be in the current folder.
        detector = load_factory(model.factory, workspace.reference, foreign, here_first=False)
    if weights_digest(detector) != model.card.weights_sha256:
        raise LpxError(
            f"{workspace.reference} is not the checkpoint that was exported",
            "its weights differ from those in the model card",
            "run `lpx export` again",
            code="damaged",
        )
    return detector
