"""emit(): what a machine without Python builds engines from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lpx.api.building import (
    CALIBRATION_FACES,
    check_method,
    checked_precisions,
    request_for,
)
from lpx.api.ranges import scales_for
from lpx.arguments import check_at_least
from lpx.artefacts.model import read_exported
from lpx.data.roots import DataPlaces
from lpx.engines.manifest import Precision
from lpx.engines.request import BuildRequest
from lpx.engines.trtexec import check_emitted, emit_trtexec
from lpx.reporter import SILENT, Reporter
from lpx.workspace import Workspace


def emit(
    workspace: Workspace,
    precisions: Precision | tuple[Precision, ...],
    template: BuildRequest,
    *,
    out: Path | None = None,
    faces: str | None = None,
    limit: int = CALIBRATION_FACES,
    method: str | None = None,
    places: DataPlaces = DataPlaces(),  # noqa: B008 (frozen)
    report: Reporter = SILENT,
) -> Path:
    """Write a folder of graphs and scripts for trtexec, calibrated as an engine would be.

    Args:
        workspace: Holds `model.onnx`; receives `scales.json`.
        precisions: "fp32", "fp16", "int8": one, or several.
        template: Batch sizes, weight options and options of TensorRT's builder.
        out: The folder; None takes `trtexec` in the workspace.
        faces: As for `build`.
        limit: As for `build`.
        method: As for `build`.
        places: As for `build`.
        report: Told what happens.

    Returns:
        The folder.

    Raises:
        LpxError: No exported model, faces that cannot be read, options that TensorRT would ignore,
            or a folder that cannot be written.
    """
    precisions = checked_precisions(precisions)
    check_at_least("limit", limit, 1)
    check_method(method)
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
                template.requantise,
                places,
                report,
            )
        requests = tuple(
            request_for(template, precision, scales, method) for precision in precisions
        )
        emit_trtexec(model.data, model.card, requests, folder)
    return folder
