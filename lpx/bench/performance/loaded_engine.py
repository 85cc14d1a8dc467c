"""An engine to be measured, and what is needed to measure it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from lpx.engines.base import Engine
from lpx.engines.manifest import EngineManifest

# Name of the PyTorch checkpoint among the engines.
REFERENCE = "torch"


class OpenEngine(Protocol):
    """Context-manager factory for an engine that another thread can use."""

    def __call__(self, *, cuda_graph: bool) -> AbstractContextManager[Engine]:
        """Open the engine; `cuda_graph` has an effect only if its runtime has CUDA graphs."""
        ...


@dataclass(frozen=True)
class LoadedEngine:
    """An engine that runs here.

    Attributes:
        manifest: The engine's manifest.
        engine: The loaded engine.
        open: Context-manager factory for an engine usable from another thread. Takes `cuda_graph`.
        graph: The engine as ONNX; None if the engine is something else.
        scoring: Context-manager factory for an engine that scores faces while others are decoded;
            None if that is `engine`, which is timed alone.
    """

    manifest: EngineManifest
    engine: Engine
    open: OpenEngine
    graph: bytes | None = None
    scoring: Callable[[], AbstractContextManager[Engine]] | None = None
