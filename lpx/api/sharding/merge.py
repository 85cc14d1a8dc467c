"""Merging of parts: what kind they are of decides what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lpx.errors import InvalidArgumentError
from lpx.reporter import Reporter
from lpx.shards.join import open_whole

if TYPE_CHECKING:
    from lpx.api.calibrate import CalibrationResult
    from lpx.api.sharding.bench import MergedScores
    from lpx.api.workspace.opened import OpenedWorkspace
    from lpx.data.prepare import PrepareResult

    MergeResult = PrepareResult | CalibrationResult | MergedScores


def merge(
    workspace: OpenedWorkspace, parts: Sequence[Path], faces: str | None, reporter: Reporter
) -> MergeResult:
    """Implement `lpx.Workspace.merge`, which documents arguments and errors."""
    whole = open_whole(parts)
    if whole.kind == "prepare":
        from lpx.shards.prepare import merge_prepared

        if faces is not None:
            raise InvalidArgumentError(
                "faces", "cannot be used with parts of `lpx data prepare`", faces
            )
        return merge_prepared(whole, workspace.places, reporter)
    if whole.kind == "calibrate":
        from lpx.api.sharding.calibrate import merge_calibration

        return merge_calibration(workspace, whole, faces, reporter)
    from lpx.api.sharding.bench import merge_scores

    return merge_scores(workspace, whole, faces, reporter)
