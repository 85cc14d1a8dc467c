"""Open a watch of a live source with an engine of a workspace."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lpx.data.images.media import check_there
from lpx.errors import LpxError
from lpx.reporter import Reporter
from lpx.streams.live.source import LiveSource
from lpx.streams.live.watch import LiveLimits, LiveOptions, LiveWatch, unreachable
from lpx.streams.scoring import ScorerOptions, open_scorer
from lpx.workspace import WorkspaceFolder


def open_watch(
    workspace: WorkspaceFolder,
    source: LiveSource,
    scorer: ScorerOptions,
    limits: LiveLimits,
    options: LiveOptions,
    reporter: Reporter,
) -> LiveWatch:
    """Implement `lpx.Workspace.watch`, which documents arguments and errors."""
    # Before the engine is loaded: a misspelt name is the most frequent mistake.
    if source.kind == "file":
        path = Path(source.address)
        check_there(path)
        if path.is_dir():
            raise LpxError(
                f"{source.shown} is a folder",
                "a live source is one camera, one address or one video",
                "name a video in it",
            )
    elif not options.wait and (absence := source.absence()):
        raise unreachable(source, absence)
    return LiveWatch(source, partial(open_scorer, workspace, scorer, reporter), limits, options)
