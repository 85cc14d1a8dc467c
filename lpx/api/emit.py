"""emit(): what a machine without Python builds engines from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lpx.api.build import (
    CALIBRATION_FACES,
    check_method,
    checked_precisions,
    request_for,
)
from lpx.api.ranges import scales_for
from lpx.arguments import check_at_least
from lpx.artefacts.model import read_exported
from lpx.engines.manifest import Precision
from lpx.engines.request import DEFAULT_TENSORRT, BuildRequest, TensorRTOptions
from lpx.engines.trtexec import check_emitted, emit_trtexec
from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions
from lpx.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace


def emit(
    workspace: Workspace,
    precisions: Precision | Iterable[Precision],
    *,
    out: Path | None = None,
    faces: str | None = None,
    limit: int = CALIBRATION_FACES,
    method: str | None = None,
    weights: WeightOptions = DEFAULT_WEIGHTS,
    tensorrt: TensorRTOptions = DEFAULT_TENSORRT,
    reporter: Reporter = SILENT,
) -> Path:
    """Implement `lpx.Workspace.emit`, which documents arguments and errors."""
    precisions = checked_precisions(precisions)
    check_at_least("limit", limit, 1)
    check_method(method)
    template = BuildRequest.of("tensorrt", "fp32", tensorrt, weights=weights)
    check_emitted(tuple(replace(template, precision=precision) for precision in precisions))
    model = read_exported(workspace)
    folder = out or workspace.root / "trtexec"
    with workspace.lock():
        scales = None
        if "int8" in precisions:
            scales = scales_for(
                workspace,
                model,
                faces,
                limit,
                template.weights,
                workspace.places,
                reporter,
            )
        requests = tuple(
            request_for(template, precision, scales, method) for precision in precisions
        )
        emit_trtexec(model.data, model.card, requests, folder)
    return folder
