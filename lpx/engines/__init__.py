"""From an ONNX model to an engine, and from an engine to predictions.

`build.build_engine` makes an engine for a target and a precision; `load` brings one back as an
object with `infer(faces)`.
"""

from __future__ import annotations

from lpx.engines.base import Engine, Faces, Prediction
from lpx.engines.load import load

__all__ = ["Engine", "Faces", "Prediction", "load"]
