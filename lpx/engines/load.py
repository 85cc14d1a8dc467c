"""Load a built engine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from lpx.card import METADATA_KEY, ModelCard, card_from_json
from lpx.engines.base import Engine
from lpx.engines.manifest import EngineManifest, read_manifest
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.onnxruntime.gpu import PROVIDER_OPTIONS, PROVIDERS, OnnxRuntimeGpuEngine
from lpx.errors import LpxError
from lpx.workspace import read_regular

KERNELS = "kernels.cache"
"""What TensorRT for RTX compiled where an engine ran, beside it; of that GPU and driver alone."""
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
    if manifest.target != "tensorrt" and manifest.target != "tensorrt-rtx":
        return _load_onnx(folder, manifest, data, shares_cores)
    from lpx.engines.tensorrt import TensorRTEngine

    return TensorRTEngine(
        data,
        flavour=manifest.target,
        allow_host_code=allow_host_code,
        cuda_graph=cuda_graph,
        dla_core=manifest.options.get("dla_core"),
        version_compatible=bool(manifest.options.get("version_compatible")),
        kernel_cache=folder / KERNELS if manifest.target == "tensorrt-rtx" else None,
    )


def _load_onnx(
    folder: Path, manifest: EngineManifest, data: bytes, shares_cores: bool
) -> OnnxRuntimeEngine | OnnxRuntimeGpuEngine:
    card = manifest.model_card()
    engine: OnnxRuntimeEngine | OnnxRuntimeGpuEngine
    if manifest.target in PROVIDERS:
        engine = OnnxRuntimeGpuEngine(
            data,
            card.input_size,
            manifest.target,
            _provider(manifest),
            folder / "cache",
            max(manifest.batches),
        )
    else:
        engine = OnnxRuntimeEngine(data, card.input_size, shares_cores=shares_cores)
    _check_card(manifest, card, engine.session.get_modelmeta().custom_metadata_map)
    return engine


def _check_card(manifest: EngineManifest, card: ModelCard, metadata: Mapping[str, str]) -> None:
    """Compare the card in the manifest with the one in the engine, which is under its SHA-256."""
    text = metadata.get(METADATA_KEY)
    if text is not None and card_from_json(text, manifest.file) != card:
        raise LpxError(
            f"the manifest of engine {manifest.name} and {manifest.file} carry different model "
            "cards",
            "the card decides how faces are prepared and which of them are called fake",
            "one of them was edited: run `lpx build` again",
        )


def _provider(manifest: EngineManifest) -> dict[str, str]:
    """The options of ONNX Runtime's provider, of which others may name files with code."""
    given = manifest.options.get("provider")
    if not given or not manifest.batches:
        raise LpxError(
            f"the manifest of engine {manifest.name} lacks its provider's options or batches",
            "it was edited or damaged",
            "run `lpx build` again",
        )
    if unknown := sorted(given.keys() - PROVIDER_OPTIONS):
        raise LpxError(
            f"the manifest of engine {manifest.name} has provider options that lpx does not set: "
            f"{', '.join(map(ascii, unknown[:5]))}",
            "such options can load libraries or write files anywhere",
            "it was edited: run `lpx build` again",
        )
    return dict(given)


def read_engine(folder: Path) -> tuple[EngineManifest, bytes]:
    """The manifest of the engine in `folder`, and the engine's bytes, which fit it.

    Raises:
        LpxError: Missing or altered engine.
    """
    manifest = read_manifest(folder)
    data = _read(
        folder,
        manifest.file,
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
        folder,
        GRAPH,
        # Engines of before this was noted are taken as they are.
        manifest.options.get("graph_sha256"),
        f"the graph that {manifest.name} was built from",
        "what lies inside a TensorRT plan cannot be read from it: this graph is looked into",
    )


def _read(folder: Path, name: str, digest: str | None, what: str, why_needed: str) -> bytes:
    """The bytes of a file of an engine, after checking them where their SHA-256 is known."""
    path = folder / name
    if not path.exists():
        raise LpxError(f"{path} does not exist", why_needed, "run `lpx build` again")
    try:
        data = read_regular(path, inside=folder)
    except OSError as error:
        why = error.strerror or str(error)
        raise LpxError(f"{path} cannot be read", why, "run `lpx build` again") from error
    found = hashlib.sha256(data).hexdigest()
    if digest is not None and found != digest:
        raise LpxError(
            f"{path} is not {what}",
            f"its SHA-256 begins with {found[:12]}, not {digest[:12]}",
            "it was altered or damaged: run `lpx build` again",
        )
    return data
