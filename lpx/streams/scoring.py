"""Open what scores the faces of a stream: an engine of the workspace, and a face detector."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass

from lpx.arguments import check_choice, check_fields
from lpx.artefacts.model import read_exported
from lpx.data.detect import DETECTORS, FaceDetector, FaceMesh, open_detector
from lpx.engines.base import Engine, notes_of
from lpx.healing import REBUILD, Rebuild
from lpx.healing.pick import PickedEngine, pick_engine
from lpx.predict.choose_recipe import choose_recipe
from lpx.reporter import Reporter
from lpx.streams.face_road import FaceRoad
from lpx.workspace import WorkspaceFolder


@dataclass(frozen=True)
class ScorerOptions:
    """What scores faces; `lpx.Workspace.watch` documents the fields.

    Raises:
        InvalidArgumentError: A field has a value that it cannot have.
    """

    engine: str | None = None
    detector: str = "blazeface"
    crop: str | None = None
    rebuild: Rebuild = "auto"
    allow_host_code: bool = False
    allow_factory: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_choice("detector", self.detector, DETECTORS)
        check_choice("rebuild", self.rebuild, REBUILD)


@dataclass(frozen=True)
class Scorer:
    """An engine with what prepares faces for it.

    Attributes:
        name: Name of the engine.
        engine: The engine.
        road: Finds and cuts faces.
    """

    name: str
    engine: Engine
    road: FaceRoad


OpenScorer = Callable[[], AbstractContextManager[Scorer]]
"""Opens a scorer, which is closed at the end of the block."""


@contextmanager
def open_scorer(
    workspace: WorkspaceFolder,
    options: ScorerOptions,
    reporter: Reporter,
    *,
    pick_engine: Callable[..., PickedEngine] = pick_engine,
    open_detector: Callable[[str, int], FaceDetector] = open_detector,
) -> Iterator[Scorer]:
    """Open an engine of the workspace, and what prepares faces for it.

    Args:
        workspace: Contains the model and its engines.
        options: Engine, face detector and crop recipe.
        reporter: Receives the choice and warnings.
        pick_engine: Opens the engine.
        open_detector: Opens the face detector, for a number of threads.
    """
    model = read_exported(workspace)
    recipe = choose_recipe(model.card, options.crop, reporter)
    # All cores for one frame, as those of a live source are scored one after another. A
    # measurement of capacity, which has many at a time, opens a detector with one thread.
    threads = len(os.sched_getaffinity(0))
    finder = open_detector(options.detector, threads)
    mesh = FaceMesh(threads) if recipe.needs_landmarks else None
    name, loaded = pick_engine(
        workspace,
        model,
        options.engine,
        allow_host_code=options.allow_host_code,
        allow_factory=options.allow_factory,
        rebuild=options.rebuild,
        reporter=reporter,
    )
    with closing(loaded):
        reporter.say(
            f"engine {name}, threshold {model.card.threshold:.3f}, faces by {options.detector}, "
            f"crop {recipe.name}"
        )
        for note in notes_of(loaded):
            reporter.warn(note)
        yield Scorer(name, loaded, FaceRoad(model.card, finder, mesh, recipe))
