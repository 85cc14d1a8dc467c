"""`lpx.load`: an engine from its folder, a workspace or a bundle.

Only what an engine's own folder needs is imported with this module: NumPy and its runtime.
"""

from __future__ import annotations

import os
from pathlib import Path

from lpx.arguments import as_path, check_choice, check_instance
from lpx.engines.base import Engine
from lpx.engines.load import load as load_folder
from lpx.engines.manifest import FILE
from lpx.errors import InvalidArgumentError
from lpx.healing import REBUILD, Rebuild
from lpx.reporter import SILENT, Reporter


def load(
    path: str | os.PathLike[str],
    *,
    engine: str | None = None,
    rebuild: Rebuild = "auto",
    allow_host_code: bool = False,
    cuda_graph: bool = True,
    shares_cores: bool = False,
    reporter: Reporter = SILENT,
) -> Engine:
    """Load an engine from its folder, a workspace or a bundle.

    From a workspace or a bundle comes the engine that fits this machine, rebuilt if none does, and
    proven on the probe faces of the bundle. The engine in a folder of its own is checked against
    its manifest, and loaded as it is.

    Args:
        path: A folder that `lpx build` made, with an engine file and `manifest.json`; a workspace;
            or a bundle, which is unpacked into a folder beside it.
        engine: Name of the engine in a workspace or bundle; None for the fastest that runs here.
        rebuild: Whether to rebuild an engine of a workspace or bundle if it does not run here, or
            none does: "auto", "ask" (on the terminal) or "never".
        allow_host_code: Load version-compatible plans. They contain host code, which runs in this
            process: only for engines from a source you trust.
        cuda_graph: Run TensorRT's engines with CUDA graphs where possible.
        shares_cores: Other threads decode faces meanwhile: see `OnnxRuntimeEngine`.
        reporter: Receives the reason for the choice, notes and progress.

    Returns:
        The engine, with its model card. Close it, or use it in a `with` block.

    Raises:
        NotAsAskedError: An engine gives probe faces other scores than it must (code
            "scores-differ").
        LpxError: The folder does not exist, or has no engine (code "not-found"); an engine or
            bundle is altered or damaged ("damaged"); or a library or GPU that it needs is missing.
    """
    place = as_path("path", path)
    check_instance("engine", engine, str)
    check_choice("rebuild", rebuild, REBUILD)
    if _is_engine(place):
        if engine is not None and (place / FILE).exists():
            raise InvalidArgumentError(
                "engine", "is for a workspace or a bundle", engine, f"{place} is an engine's folder"
            )
        return load_folder(
            place,
            allow_host_code=allow_host_code,
            cuda_graph=cuda_graph,
            shares_cores=shares_cores,
        )
    # Reading images, the exported model and bundles takes more packages, and time to import them.
    from lpx.artefacts.model import read_exported
    from lpx.bundle.beside import workspace_of
    from lpx.healing.pick import pick_engine
    from lpx.workspace import WorkspaceFolder

    def loaded(folder: Path, **options: bool) -> Engine:
        # Predictions, which pick engines too, share the cores; here the caller decides.
        options["shares_cores"] = shares_cores
        return load_folder(folder, cuda_graph=cuda_graph, **options)

    workspace = WorkspaceFolder(workspace_of(place, reporter) if place.is_file() else place)
    return pick_engine(
        workspace,
        read_exported(workspace),
        engine,
        allow_host_code=allow_host_code,
        rebuild=rebuild,
        reporter=reporter,
        load=loaded,
    ).engine


def _is_engine(path: Path) -> bool:
    """Return whether a path is an engine's folder, or must have been meant as one."""
    if path.is_file():
        # An engine file in its folder is not a bundle.
        return (path.parent / FILE).is_file()
    return not (path / "model.onnx").exists()
