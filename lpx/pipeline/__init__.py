"""export(), calibrate(), build(), emit(), bench(), predict(): the public Python API."""

from lpx.pipeline.benching import Benched, bench
from lpx.pipeline.building import build
from lpx.pipeline.calibrating import Calibrated, calibrate
from lpx.pipeline.emitting import emit
from lpx.pipeline.exporting import Exported, export
from lpx.pipeline.predicting import predict
from lpx.pipeline.predictions import FaceScore, FileScore, Predicted
from lpx.pipeline.reporter import SILENT, Reporter

__all__ = [
    "SILENT",
    "Benched",
    "Calibrated",
    "Exported",
    "FaceScore",
    "FileScore",
    "Predicted",
    "Reporter",
    "bench",
    "build",
    "calibrate",
    "emit",
    "export",
    "predict",
]
