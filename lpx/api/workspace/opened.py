"""An opened workspace, and what may be done with it."""

from __future__ import annotations

from pathlib import Path

from lpx.api.workspace.arguments import StrPath, optional_path
from lpx.arguments import check_choice, check_instance
from lpx.cluster.options import RayOptions
from lpx.data.roots import DataPlaces
from lpx.healing import REBUILD, Rebuild
from lpx.reporter import SILENT, Reporter
from lpx.workspace import DEFAULT, WorkspaceFolder


class OpenedWorkspace(WorkspaceFolder):
    """What the steps have in common: the folder, and what may be done with it."""

    def __init__(
        self,
        root: StrPath = DEFAULT,
        *,
        data_root: StrPath | None = None,
        face_store: StrPath | None = None,
        allow_host_code: bool = False,
        allow_factory: bool = False,
        rebuild: Rebuild = "auto",
        ray: RayOptions | None = None,
        reporter: Reporter = SILENT,
    ) -> None:
        super().__init__(root)
        # Before a bundle is unpacked: a typing error must not leave its folder behind.
        check_choice("rebuild", rebuild, REBUILD)
        check_instance("ray", ray, RayOptions)
        if self.root.is_file():
            from lpx.bundle.beside import workspace_of

            self.root = workspace_of(self.root, reporter)
        self.places = DataPlaces(
            optional_path("data_root", data_root), optional_path("face_store", face_store)
        )
        self.allow_host_code = allow_host_code
        self.allow_factory = allow_factory
        self.rebuild = rebuild
        self.ray = ray

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r})"

    def engine(self, name: str) -> Path:
        """Return the folder of an engine, for `lpx.load`.

        Args:
            name: Name of the engine, such as "onnxruntime-int8".

        Raises:
            LpxError: The workspace has no such engine (code "not-found").
        """
        from lpx.artefacts.select_engine import find_engine

        return find_engine(self, name)

    def engine_names(self) -> tuple[str, ...]:
        """Return the names of all engines in the workspace, sorted."""
        from lpx.artefacts.select_engine import engine_folders

        return tuple(folder.name for folder in engine_folders(self))
