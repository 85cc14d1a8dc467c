"""Load a built engine."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lpx.engines.base import Engine
from lpx.engines.manifest import EngineManifest, read_manifest
from lpx.engines.onnxruntime_engine import OnnxRuntimeEngine
from lpx.errors import LpxError


def load(folder: Path | str) -> Engine:
    """Load the engine in `folder`, after checking it against its manifest.

    Args:
        folder: As `lpx build` made it: an engine file and `manifest.json`.

    Raises:
        LpxError: Missing or altered engine, or a library or GPU that it needs is not here.
    """
    manifest, data = read_engine(Path(folder))
    if manifest.target == "onnxruntime":
        return OnnxRuntimeEngine(data, manifest.model_card().input_size)
    from lpx.engines.tensorrt import TensorRTEngine

    return TensorRTEngine(data, flavour=manifest.target)


def read_engine(folder: Path) -> tuple[EngineManifest, bytes]:
    """The manifest of the engine in `folder`, and the engine's bytes, which fit it.

    Raises:
        LpxError: Missing or altered engine.
    """
    manifest = read_manifest(folder)
    path = folder / manifest.file
    if not path.is_file():
        raise LpxError(
            f"{path} does not exist",
            "its manifest does, so it was removed",
            "run `lpx build` again",
        )
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != manifest.engine_sha256:
        raise LpxError(
            f"{path} is not the engine that its manifest describes",
            f"its SHA-256 begins with {found[:12]}, not {manifest.engine_sha256[:12]}",
            "it was altered or damaged: run `lpx build` again",
        )
    return manifest, data
