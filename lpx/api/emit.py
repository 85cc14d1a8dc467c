"""Write graphs and scripts from which a machine without Python builds engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lpx.api.build import BuildOptions, check_plan_of
from lpx.api.ranges import scales_for
from lpx.arguments import check_choice
from lpx.artefacts.model import read_exported
from lpx.engines.build import require_int8
from lpx.engines.tensorrt_options import TensorRTOptions
from lpx.engines.trtexec import check_emitted, emit_trtexec, emitted_dialects
from lpx.errors import InvalidArgumentError
from lpx.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace


def emit(
    workspace: OpenedWorkspace,
    options: BuildOptions,
    out: Path | None = None,
    reporter: Reporter = SILENT,
) -> Path:
    """Implement `lpx.Workspace.emit`, which documents arguments and errors."""
    check_choice("target", options.target, ("auto", "tensorrt"))
    _check_for_scripts(options.tensorrt)
    # `emit_trtexec` checks it again. Here it comes before calibration, which takes minutes.
    check_emitted(tuple(options.request("tensorrt", precision) for precision in options.precisions))
    model = read_exported(workspace)
    check_plan_of(model, options)
    folder = out or workspace.root / "trtexec"
    with workspace.lock():
        scales = None
        if "int8" in options.precisions:
            # As in `build`: a plan that leaves nothing in INT8 shows before faces are observed.
            for dialect in emitted_dialects(options.request("tensorrt", "int8")):
                require_int8(model.data, options.request("tensorrt", "int8"), dialect)
            scales = scales_for(
                workspace, model, options.faces, options.limit, options.weights, reporter
            )
        requests = tuple(
            options.request("tensorrt", precision, scales) for precision in options.precisions
        )
        emit_trtexec(model.data, model.card, requests, folder)
    return folder


def _check_for_scripts(options: TensorRTOptions) -> None:
    """Refuse options that scripts for trtexec would silently ignore."""
    why = "scripts for trtexec build each engine once, for the machine that runs them"
    if options.builds != 1:
        raise InvalidArgumentError("builds", "must be 1 for trtexec", options.builds, why)
    if options.frozen_timing_cache:
        raise InvalidArgumentError("frozen_timing_cache", "must be off for trtexec", True, why)
    if options.gpus:
        raise InvalidArgumentError(
            "compute_capabilities", "must be empty for trtexec", options.gpus, why
        )
