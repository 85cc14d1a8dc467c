"""Calibration caches of TensorRT: in, as scales of the workspace; out, from such scales."""

from __future__ import annotations

from pathlib import Path

from lpx.artefacts.model import read_exported
from lpx.calibration.cache import read_cache, write_cache
from lpx.calibration.methods import LEVELS
from lpx.calibration.scales import Scales, imported_scales, save_scales
from lpx.engines.build import cache_scales
from lpx.engines.request import BuildRequest
from lpx.errors import LpxError
from lpx.graph.model_io import parse
from lpx.graph.qdq.placement_dla import place_dla
from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions
from lpx.reporter import SILENT, Reporter
from lpx.schema import MAX_BYTES
from lpx.workspace import WorkspaceFolder, read_regular, write_bytes

_UNKNOWN_FACES = (
    "ranges come from the calibration cache {}: of which faces it does not say, so nothing tells "
    "whether an engine is benched on faces that it was calibrated on"
)


def import_cache(workspace: WorkspaceFolder, path: Path, report: Reporter = SILENT) -> Scales:
    """Take the ranges in a calibration cache of TensorRT for the exported model.

    Args:
        workspace: Holds `model.onnx`; receives `scales.json`.
        path: The cache, as TensorRT or lpx wrote it for the same export.
        report: Told what happens.

    Raises:
        LpxError: No exported model, no such file, a line that is not an entry, a scale that is not
            positive, a tensor that the model does not have, or one that lacks.
    """
    model = read_exported(workspace)
    try:
        text = read_regular(path, limit=MAX_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise LpxError(
            f"{path} is not a calibration cache of TensorRT",
            f"it is not text in UTF-8: {error.reason} at byte {error.start}",
            "name a file that begins with a line such as TRT-8501-EntropyCalibration2",
        ) from error
    except OSError as error:
        raise LpxError(
            f"{path} cannot be read",
            error.strerror or str(error),
            "name a calibration cache of TensorRT with --import-cache",
        ) from error
    graph = parse(model.data, str(workspace.model))
    names = {str(value.name) for value in graph.graph.inputs}
    names |= {str(value.name) for node in graph.graph for value in node.outputs}
    peaks = read_cache(text, str(path), names)
    lacking = [name for name in place_dla(graph).observed if name not in peaks]
    if lacking:
        raise LpxError(
            f"{path} has no scale for {lacking[0]} ({len(lacking)} tensors in all)",
            "INT8 needs one for every activation between quantised convolutions",
            "make the cache for this export, or calibrate with `lpx calibrate --faces DIR`",
        )
    scales = imported_scales(model.sha256, path.name, peaks, _UNKNOWN_FACES.format(path.name))
    with workspace.lock():
        save_scales(workspace.scales, scales)
    report.warn(f"{scales.warning}")
    return scales


def export_cache(
    model: bytes,
    scales: Scales,
    path: Path,
    weights: WeightOptions = DEFAULT_WEIGHTS,
) -> None:
    """Write scales as a calibration cache of TensorRT.

    Args:
        model: The exported ONNX model that they are of.
        scales: As `calibrate` or `import_cache` made them; `scales.method` is taken.
        path: Receives the cache.
        weights: As they were calibrated with.
    """
    request = BuildRequest("tensorrt", "int8", scales, scales.method, weights=weights)
    found = cache_scales(model, request)
    text = write_cache({name: scale * LEVELS for name, scale in found.items()})
    write_bytes(path, text.encode())
