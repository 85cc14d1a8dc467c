"""Load a built engine."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lpx.engines.base import Engine
from lpx.engines.manifest import EngineManifest, read_manifest
from lpx.engines.onnxruntime_engine import OnnxRuntimeEngine
from lpx.engines.onnxruntime_gpu import OnnxRuntimeGpuEngine
from lpx.errors import LpxError

GRAPH = "graph.onnx"
"""What a TensorRT engine was built from, beside it."""


def load(
    folder: Path | str,
    *,
    allow_host_code: bool = False,
    cuda_graph: bool = True,
    shares_cores: bool = False,
) -> Engine:
    """Load the engine in `folder`, after checking it against its manifest.

    Args:
        folder: As `lpx build` made it: an engine file and `manifest.json`.
        allow_host_code: Load a version-compatible plan, which carries code that runs in this
            process. Only for engines whose origin you trust.
        cuda_graph: Run TensorRT's engines by CUDA graphs where they can be.
        shares_cores: Faces are decoded while it runs: see `OnnxRuntimeEngine`.

    Raises:
        LpxError: Missing or altered engine, or a library or GPU that it needs is not here.
    """
    folder = Path(folder)
    manifest, data = read_engine(folder)
    if manifest.target == "onnxruntime":
        size = manifest.model_card().input_size
        return OnnxRuntimeEngine(data, size, shares_cores=shares_cores)
    if manifest.target == "onnxruntime-cuda" or manifest.target == "onnxruntime-tensorrt":
        return OnnxRuntimeGpuEngine(
            data,
            manifest.model_card().input_size,
            manifest.target,
            manifest.options["provider"],
            folder / "cache",
            max(manifest.batches),
        )
    from lpx.engines.tensorrt import TensorRTEngine

    return TensorRTEngine(
        data,
        flavour=manifest.target,
        allow_host_code=allow_host_code,
        cuda_graph=cuda_graph,
        dla_core=manifest.options.get("dla_core"),
    )


def read_engine(folder: Path) -> tuple[EngineManifest, bytes]:
    """The manifest of the engine in `folder`, and the engine's bytes, which fit it.

    Raises:
        LpxError: Missing or altered engine.
    """
    manifest = read_manifest(folder)
    data = _read(
        folder / manifest.file,
        manifest.engine_sha256,
        "the engine that its manifest describes",
        "its manifest does, so it was removed",
    )
    return manifest, data


def read_graph(folder: Path, manifest: EngineManifest) -> bytes:
    """The ONNX graph of the engine in `folder`: what it was built from, or what it is.

    Args:
        folder: The engine's.
        manifest: The engine's.

    Raises:
        LpxError: Missing or altered.
    """
    if manifest.target.startswith("onnxruntime"):
        return read_engine(folder)[1]
    return _read(
        folder / GRAPH,
        # Engines of before this was noted are taken as they are.
        manifest.options.get("graph_sha256"),
        f"the graph that {manifest.name} was built from",
        "what lies inside a TensorRT plan cannot be read from it: this graph is looked into",
    )


def _read(path: Path, digest: str | None, what: str, why_needed: str) -> bytes:
    """The bytes of a file of an engine, after checking them where their SHA-256 is known."""
    if not path.is_file():
        raise LpxError(f"{path} does not exist", why_needed, "run `lpx build` again")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if digest is not None and found != digest:
        raise LpxError(
            f"{path} is not {what}",
            f"its SHA-256 begins with {found[:12]}, not {digest[:12]}",
            "it was altered or damaged: run `lpx build` again",
        )
    return data
