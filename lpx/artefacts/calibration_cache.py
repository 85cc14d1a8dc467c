"""Import and export calibration caches of TensorRT."""

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
    "ranges come from the calibration cache {}, which does not say on which faces it was made: "
    "engines may be benched on faces that they were calibrated on"
)


def import_cache(workspace: WorkspaceFolder, path: Path, reporter: Reporter = SILENT) -> Scales:
    """Import the ranges in a calibration cache of TensorRT as scales of the workspace.

    Args:
        workspace: Contains `model.onnx`; receives `scales.json`.
        path: The cache, as TensorRT or lpx wrote it for the same export.
        reporter: Receives a warning that the calibration faces are unknown.

    Raises:
        LpxError: No exported model, no such file, a line that is not an entry, a scale that is not
            positive, a tensor that the model does not have, or a tensor without a scale.
    """
    model = read_exported(workspace)
    try:
        text = read_regular(path, limit=MAX_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise LpxError(
            f"{path} is not a calibration cache of TensorRT",
            f"it is not text in UTF-8: {error.reason} at byte {error.start}",
            "name a file that begins with a line such as TRT-8501-EntropyCalibration2",
            code="damaged",
        ) from error
    except OSError as error:
        raise LpxError(
            f"{path} cannot be read",
            error.strerror or str(error),
            "name a calibration cache of TensorRT with `import_cache`",
            code="not-found" if isinstance(error, FileNotFoundError) else "invalid-input",
        ) from error
    graph = parse(model.data, str(workspace.model))
    names = {str(value.name) for value in graph.graph.inputs}
    for node in graph.graph:
        names.update(str(value.name) for value in node.outputs)
    peaks = read_cache(text, str(path), names)
    # A cache is made for DLA's placement, which quantises more tensors than the other dialects.
    missing = [name for name in place_dla(graph).observed if name not in peaks]
    if missing:
        raise LpxError(
            f"{path} has no scale for {missing[0]} ({len(missing)} tensors in all)",
            "INT8 needs one for every activation between quantised convolutions",
            "make the cache for this export, or calibrate with `lpx calibrate --faces DIR`",
        )
    scales = imported_scales(model.sha256, path.name, peaks, _UNKNOWN_FACES.format(path.name))
    with workspace.lock():
        save_scales(workspace.scales, scales)
    reporter.warn(f"{scales.warning}")
    return scales


def export_cache(
    model: bytes,
    scales: Scales,
    path: Path,
    weights: WeightOptions = DEFAULT_WEIGHTS,
) -> None:
    """Write scales as a calibration cache of TensorRT.

    Args:
        model: The exported ONNX model that the scales belong to.
        scales: Result of `calibrate` or `import_cache`; the ranges of `scales.method` are written.
        path: File to write.
        weights: Weight options of the calibration.
    """
    request = BuildRequest("tensorrt", "int8", scales, scales.method, weights=weights)
    # A cache holds peaks: the scale of one of the 127 levels, times their number.
    peaks = {name: scale * LEVELS for name, scale in cache_scales(model, request).items()}
    text = write_cache(peaks)
    write_bytes(path, text.encode())
