"""export(), calibrate(), build(), emit(), bench(), predict(): the public Python API.

Each is loaded when it is first asked for: PyTorch, which some need, takes seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lpx.api.benching import Benched, bench
    from lpx.api.building import build
    from lpx.api.calibrating import Calibrated, calibrate
    from lpx.api.clip_demo import ShownClip, show_clip
    from lpx.api.emitting import emit
    from lpx.api.exporting import Exported, export
    from lpx.api.predicting import predict
    from lpx.predict.results import FaceScore, FileScore, Predicted
    from lpx.reporter import SILENT, Reporter

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
    "SILENT": "lpx.reporter",
    "Benched": "lpx.api.benching",
    "Calibrated": "lpx.api.calibrating",
    "Exported": "lpx.api.exporting",
    "FaceScore": "lpx.predict.results",
    "FileScore": "lpx.predict.results",
    "Predicted": "lpx.predict.results",
    "Reporter": "lpx.reporter",
    "ShownClip": "lpx.api.clip_demo",
    "bench": "lpx.api.benching",
    "build": "lpx.api.building",
    "calibrate": "lpx.api.calibrating",
    "emit": "lpx.api.emitting",
    "export": "lpx.api.exporting",
    "predict": "lpx.api.predicting",
    "show_clip": "lpx.api.clip_demo",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
