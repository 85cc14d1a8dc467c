"""An engine to be measured, and what is needed to measure it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from lpx.engines.base import Engine
from lpx.engines.manifest import EngineManifest

REFERENCE = "torch"
"""The name of the PyTorch checkpoint among the engines."""


@dataclass(frozen=True)
class Candidate:
    """An engine that runs here.

    Attributes:
        manifest: What it is.
        engine: Loaded.
        opened: Gives the engine to another thread, or opens it again, with CUDA graphs or without
            where its runtime has them.
        graph: ONNX that is the engine; None where the engine is something else.
        scoring: Gives what scores faces while others are decoded, where that is another than
            `engine`, which is timed alone.
    """

    manifest: EngineManifest
    engine: Engine
    opened: Callable[[bool], AbstractContextManager[Engine]]
    graph: bytes | None = None
    scoring: Callable[[], AbstractContextManager[Engine]] | None = None
