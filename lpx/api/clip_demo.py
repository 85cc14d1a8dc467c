"""The demo's clip, scored by `predict` and compared with what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lpx.api.build import BuildOptions, build
from lpx.api.export import export
from lpx.api.predict import PredictOptions, predict
from lpx.artefacts.model import ExportedModel, read_exported
from lpx.artefacts.select_engine import runnable
from lpx.data.face_sets.demo import CHECKPOINT, folder
from lpx.data.face_sets.demo_clip import CLIP, ClipSpan, clip_path, clip_spans
from lpx.errors import LpxError
from lpx.predict.results import FileScore, PredictionResult, moments
from lpx.predict.timeline import KnownSpan, SpanScore, Timeline, span_scores
from lpx.reporter import SILENT, Reporter
from lpx.workspace import WorkspaceFolder, read_json, sha256

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace

# Folder in the workspace for the pictures.
OUT = "demo-video"


@dataclass(frozen=True)
class ClipResult:
    """Result of `show_clip`.

    Attributes:
        predicted: Result of `predict`; its one file is the clip.
        parts: Parts of the clip that are entirely real or forged, with the detector's scores.
    """

    predicted: PredictionResult
    parts: tuple[tuple[ClipSpan, SpanScore], ...]

    @property
    def file(self) -> FileScore:
        """The clip."""
        return self.predicted.files[0]


def show_clip(workspace: OpenedWorkspace, *, reporter: Reporter = SILENT) -> ClipResult:
    """Score the demo's clip with the demo's detector, and draw it.

    The detector is exported, and built in INT8, if the workspace has no engine of it that runs
    here. A clip that an earlier run drew with the same engine is not drawn again.

    Args:
        workspace: Receives the model, the engine and the folder `OUT`.
        reporter: Receives progress and warnings.

    Raises:
        LpxError: The workspace holds another model or cannot be written, or the clip was not drawn.
    """
    with workspace.lock():
        _refuse_other_model(workspace)
    # Outside the lock, which export and build take themselves: it cannot be taken twice, not even
    # by one process.
    _ensure_engine(workspace, reporter)
    parts = clip_spans()
    spans = tuple(KnownSpan(part.first, part.last, part.fake, part.text) for part in parts)
    reporter.say(f"lpx predict {CLIP} --frames all")
    out = workspace.root / OUT
    with workspace.lock():
        # Left by a killed run; no other process writes here while the lock is held.
        for leftover in out.glob(".clip-mp4-*"):
            leftover.unlink(missing_ok=True)
        options = PredictOptions(out=out, frames=None, known={CLIP: spans})
        predicted = predict(workspace, clip_path(), options, reporter)
    (file,) = predicted.files
    if file.picture is None or file.timeline is None:
        raise LpxError(
            f"the clip was scored, and could not be drawn into {out}",
            file.note,
            "free some space there, or use another workspace",
        )
    line = Timeline(
        CLIP, predicted.engine, predicted.threshold, moments(file), file.score, "", spans
    )
    return ClipResult(predicted, tuple(zip(parts, span_scores(line), strict=True)))


def _refuse_other_model(workspace: WorkspaceFolder) -> None:
    path = workspace.model.with_suffix(".json")
    if not path.exists():
        return
    manifest: dict[str, Any] = read_json(path, "lpx export")
    if manifest.get("checkpoint_sha256") != sha256(folder() / CHECKPOINT):
        raise LpxError(
            f"workspace {workspace.root} has another model than this demo's",
            "the demo would replace it, and its engines would no longer match",
            "use another `workspace`",
        )


def _ensure_engine(workspace: OpenedWorkspace, reporter: Reporter) -> None:
    model = _model(workspace)
    if model is None:
        reporter.say(f"lpx export {CHECKPOINT}")
        export(workspace, folder() / CHECKPOINT, reporter=reporter)
        model = read_exported(workspace)
    else:
        reporter.say(f"{workspace.model}: exported by an earlier run")
    try:
        runnable(workspace, model)
    except LpxError:
        reporter.say("lpx build --int8 --faces demo")
        build(workspace, BuildOptions(("int8",), faces="demo"), reporter)


def _model(workspace: WorkspaceFolder) -> ExportedModel | None:
    """Read the exported model; None if there is none, or only part of one."""
    try:
        return read_exported(workspace)
    except LpxError:
        return None
