"""Load the engines of a workspace to be measured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from lpx.bench.parity.score import Failure, in_one_line
from lpx.bench.performance.loaded_engine import LoadedEngine
from lpx.engines.base import Engine
from lpx.engines.load import read_graph
from lpx.engines.manifest import EngineManifest
from lpx.errors import LpxError


class LoadEngine(Protocol):
    """Loads an engine from its folder, as `lpx.load`."""

    def __call__(
        self,
        folder: Path,
        /,
        *,
        allow_host_code: bool = False,
        cuda_graph: bool = False,
        shares_cores: bool = False,
    ) -> Engine:
        """Return the engine."""
        ...


@dataclass(frozen=True)
class EngineLoader:
    """Loads the engines of a workspace.

    Attributes:
        folder: Folder of the engines.
        load: Loads one.
        allow_host_code: Load version-compatible plans.
        problem: Returns why an engine must not be used; "" if it may be.
    """

    folder: Path
    load: LoadEngine
    allow_host_code: bool
    problem: Callable[[EngineManifest, Engine], str]

    def load_all(
        self, manifests: list[EngineManifest], stack: ExitStack
    ) -> tuple[dict[str, LoadedEngine], list[Failure]]:
        """Load engines; if one fails while it is loaded, the others are measured without it.

        Raises:
            LpxError: An engine is altered, or lacks what it needs.
        """
        loaded: dict[str, LoadedEngine] = {}
        broken: list[Failure] = []
        for manifest in manifests:
            folder = self.folder / manifest.name
            try:
                engine = self.load(folder, allow_host_code=self.allow_host_code)
            # An altered engine, or a library that is missing: somebody has to act on it, and a
            # report without the engine would hide that.
            except LpxError:
                raise
            except Exception as error:
                broken.append(Failure(manifest.name, "loading", in_one_line(error)))
                continue
            # Before the probe, which may raise: the engine is closed in any case.
            stack.enter_context(closing(engine))
            if problem := self.problem(manifest, engine):
                broken.append(Failure(manifest.name, "loading", problem))
                continue
            if manifest.target == "onnxruntime":
                loaded[manifest.name] = LoadedEngine(
                    manifest,
                    engine,
                    # ONNX Runtime's engine on the CPU serves several threads.
                    open=partial(_shared, engine),
                    graph=read_graph(folder, manifest),
                    scoring=partial(self._sharing_cores, folder),
                )
            else:
                another = partial(self._another, folder)
                loaded[manifest.name] = LoadedEngine(manifest, engine, another)
        return loaded, broken

    def _another(self, folder: Path, *, cuda_graph: bool) -> AbstractContextManager[Engine]:
        engine = self.load(folder, allow_host_code=self.allow_host_code, cuda_graph=cuda_graph)
        return closing(engine)

    def _sharing_cores(self, folder: Path) -> AbstractContextManager[Engine]:
        # Its threads do not spin while faces are decoded on the same cores.
        return closing(self.load(folder, shares_cores=True))


def _shared(engine: Engine, *, cuda_graph: bool) -> AbstractContextManager[Engine]:
    return nullcontext(engine)
