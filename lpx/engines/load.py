"""Load a built engine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lpx.arguments import as_path
from lpx.card import METADATA_KEY, ModelCard, card_from_json
from lpx.engines.base import Engine
from lpx.engines.manifest import FILE, EngineManifest, read_manifest
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.onnxruntime.gpu import PROVIDER_OPTIONS, PROVIDERS, OnnxRuntimeGpuEngine
from lpx.errors import LpxError
from lpx.workspace import read_regular

if TYPE_CHECKING:
    from lpx.engines.tensorrt import CudaDriver, TensorRTEngine, TensorRTLibrary

KERNELS = "kernels.cache"
"""File beside an engine: kernels that TensorRT for RTX compiled for this GPU and driver."""
GRAPH = "graph.onnx"
"""File beside a TensorRT engine: the graph that it was built from."""


def load(
    folder: str | os.PathLike[str],
    *,
    allow_host_code: bool = False,
    cuda_graph: bool = True,
    shares_cores: bool = False,
) -> Engine:
    """Load the engine in a folder, after checking it against its manifest.

    Args:
        folder: A folder that `lpx build` made, with an engine file and `manifest.json`.
        allow_host_code: Load version-compatible plans. They contain host code, which runs in this
            process: only for engines from a source you trust.
        cuda_graph: Run TensorRT's engines with CUDA graphs where possible.
        shares_cores: Other threads decode faces meanwhile: see `OnnxRuntimeEngine`.

    Returns:
        The engine, with its model card. Close it, or use it in a `with` block.

    Raises:
        LpxError: No such folder, or no engine in it (code "not-found"); an altered or damaged
            engine ("damaged"); or a library or GPU that it needs is missing.
    """
    path = as_path("folder", folder)
    # First, so that the error for a missing folder does not speak of a manifest.
    _check_folder(path)
    manifest, data = read_engine(path)
    if manifest.target == "tensorrt" or manifest.target == "tensorrt-rtx":
        return load_plan(
            path, manifest, data, allow_host_code=allow_host_code, cuda_graph=cuda_graph
        )
    return _load_onnx(path, manifest, data, shares_cores=shares_cores)


def _check_folder(path: Path) -> None:
    if (path / FILE).exists():
        return
    if not path.is_dir():
        what, why = f"{path} does not exist", ""
        if path.exists():
            what = f"{path} is not a folder"
    else:
        what, why = f"{path} holds no engine", f"it has no {FILE}"
    raise LpxError(
        what,
        why,
        "use an engine's folder, such as lpx-out/engines/onnxruntime-int8, a workspace or a "
        "bundle, or run `lpx build`",
        code="not-found",
    )


def load_plan(
    folder: Path,
    manifest: EngineManifest,
    plan: bytes,
    *,
    allow_host_code: bool,
    cuda_graph: bool,
    open_runtime: Callable[..., TensorRTLibrary] | None = None,
    driver: CudaDriver | None = None,
) -> TensorRTEngine:
    """Load a plan of TensorRT or TensorRT for RTX.

    Args:
        folder: Folder of the engine.
        manifest: Manifest of the engine.
        plan: The plan's bytes.
        allow_host_code: See `load`.
        cuda_graph: See `load`.
        open_runtime: Function that imports the library; None for
            `lpx.engines.tensorrt.open_runtime`.
        driver: Access to CUDA; None for the installed binding.
    """
    # Imported here, as engines of ONNX Runtime do not need it.
    from lpx.engines import tensorrt

    options, flavour = manifest.tensorrt, manifest.target
    assert flavour == "tensorrt" or flavour == "tensorrt-rtx"
    opener = open_runtime or tensorrt.open_runtime
    kernels = None
    # Only TensorRT for RTX compiles kernels when it loads; those of TensorRT are in the plan.
    if flavour == "tensorrt-rtx":
        kernels = folder / KERNELS
    return tensorrt.TensorRTEngine(
        plan,
        opener(flavour, version_compatible=options.version_compatible),
        card=manifest.model_card(),
        driver=driver,
        allow_host_code=allow_host_code,
        cuda_graph=cuda_graph,
        dla_core=options.dla_core,
        kernel_cache=kernels,
    )


def _load_onnx(
    folder: Path, manifest: EngineManifest, data: bytes, *, shares_cores: bool
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
            # Larger batches are split.
            max(manifest.batches),
            card,
        )
    else:
        engine = OnnxRuntimeEngine(data, card.input_size, card=card, shares_cores=shares_cores)
    try:
        # After loading, since the session gives access to the metadata of the graph.
        _check_card(manifest, card, engine.session.get_modelmeta().custom_metadata_map)
    except LpxError:
        # The caller does not get the engine, and so cannot close it.
        engine.close()
        raise
    return engine


def _check_card(manifest: EngineManifest, card: ModelCard, metadata: Mapping[str, str]) -> None:
    """Compare the card in the manifest with the one in the engine, which the SHA-256 protects."""
    text = metadata.get(METADATA_KEY)
    # Graphs of other programs have no card.
    if text is not None and card_from_json(text, manifest.file) != card:
        raise LpxError(
            f"the manifest of engine {manifest.name} and {manifest.file} carry different model "
            "cards",
            "the card decides how faces are prepared and which of them are called fake",
            "one of them was edited: run `lpx build` again",
        )


def _provider(manifest: EngineManifest) -> dict[str, str]:
    """Return the options of ONNX Runtime's provider.

    Raises:
        LpxError: They are missing, or lpx does not set one of them: such options could load code.
    """
    given = manifest.options.get("provider")
    if not given or not manifest.batches:
        # An empty profile would fail later, with an error about shapes.
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


class StoredEngine(NamedTuple):
    """An engine as it is stored in its folder.

    Attributes:
        manifest: Manifest.
        data: Contents of the engine file.
    """

    manifest: EngineManifest
    data: bytes


def read_engine(folder: Path) -> StoredEngine:
    """Read the engine in a folder, and check it against its manifest.

    Raises:
        LpxError: The engine is missing or was altered.
    """
    manifest = read_manifest(folder)
    data = _read(
        folder,
        manifest.file,
        manifest.engine_sha256,
        "the engine that its manifest describes",
        "its manifest exists, so it was removed",
    )
    return StoredEngine(manifest, data)


def read_graph(folder: Path, manifest: EngineManifest) -> bytes:
    """Return the ONNX graph of an engine: the engine file, or the graph that a plan was built from.

    Args:
        folder: Folder of the engine.
        manifest: Manifest of the engine.

    Raises:
        LpxError: The graph is missing or was altered.
    """
    # ONNX Runtime's engine file is the graph.
    if manifest.target.startswith("onnxruntime"):
        return read_engine(folder).data
    return _read(
        folder,
        GRAPH,
        manifest.options.get("graph_sha256"),
        f"the graph that {manifest.name} was built from",
        "a TensorRT plan does not show its graph, so this one is inspected",
    )


def _read(folder: Path, name: str, digest: str | None, what: str, why_needed: str) -> bytes:
    """Return the bytes of a file of an engine, checked against their SHA-256 if it is known."""
    path = folder / name
    # Checked first, as the message for a missing file says why it is needed.
    if not path.exists():
        raise LpxError(
            f"{path} does not exist", why_needed, "run `lpx build` again", code="not-found"
        )
    try:
        data = read_regular(path, inside=folder)
    except OSError as error:
        why = error.strerror or str(error)
        raise LpxError(
            f"{path} cannot be read", why, "run `lpx build` again", code="damaged"
        ) from error
    actual = hashlib.sha256(data).hexdigest()
    # Manifests of earlier versions have no digest for the graph.
    if digest is not None and actual != digest:
        raise LpxError(
            f"{path} is not {what}",
            f"its SHA-256 begins with {actual[:12]}, not {digest[:12]}",
            "it was altered or damaged: run `lpx build` again",
            code="damaged",
        )
    return data
