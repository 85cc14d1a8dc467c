"""Build engines from an ONNX model, load them, and run them on faces.

`build.build_engine` builds an engine for a target and a precision; `load` loads one as an object
with `infer(faces)`.
"""

from __future__ import annotations

from lpx.engines.base import Engine, Faces, Prediction
from lpx.engines.load import load

__all__ = ["Engine", "Faces", "Prediction", "load"]
