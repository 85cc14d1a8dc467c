"""export(), calibrate(), build(), emit(), bench(), predict(): the public Python API.

Each is loaded when it is first asked for: PyTorch, which some need, takes seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lpx.pipeline.benching import Benched, bench
    from lpx.pipeline.building import build
    from lpx.pipeline.calibrating import Calibrated, calibrate
    from lpx.pipeline.clip_demo import ShownClip, show_clip
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
    "ShownClip",
    "bench",
    "build",
    "calibrate",
    "emit",
    "export",
    "predict",
    "show_clip",
]
_HOMES = {
    "SILENT": "reporter",
    "Benched": "benching",
    "Calibrated": "calibrating",
    "Exported": "exporting",
    "FaceScore": "predictions",
    "FileScore": "predictions",
    "Predicted": "predictions",
    "Reporter": "reporter",
    "ShownClip": "clip_demo",
    "bench": "benching",
    "build": "building",
    "calibrate": "calibrating",
    "emit": "emitting",
    "export": "exporting",
    "predict": "predicting",
    "show_clip": "clip_demo",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
