"""Train the grid of an ablation, and report what each part of the method contributes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lpx.arguments import as_path
from lpx.cluster.options import RayOptions
from lpx.errors import InvalidArgumentError, LpxError
from lpx.reporter import SILENT, Reporter
from lpx.training.ablation.cells import RESULT, CellTraining, read_result, run_cell, write_result
from lpx.training.ablation.grid import AblationGrid, CellResult
from lpx.training.ablation.on_cluster import ClusterTrainer
from lpx.training.ablation.report import contrasts, draw, summarise, to_markdown
from lpx.training.processes import read_place
from lpx.training.recipe import Recipe
from lpx.training.run import RunOptions, initial_weights, with_weights
from lpx.workspace import check_writable, locked, write_bytes, write_json


@dataclass(frozen=True)
class AblationResult:
    """Result of an ablation.

    Attributes:
        folder: Folder with `ablation.json`, `ablation.md`, `ablation.png`, and a folder for each
            training.
        recipe: Settings that all trainings share.
        results: Measurements of each training, in the order of the grid.
        markdown: Tables of the settings and of what each change contributes.
    """

    folder: Path
    recipe: Recipe
    results: tuple[CellResult, ...]
    markdown: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON: the content of `ablation.json`."""
        results = [asdict(result) for result in self.results]
        return {"base": self.recipe.to_dict(), "results": results}


def ablate(
    recipe: Recipe,
    faces: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    grid: AblationGrid = AblationGrid(),  # noqa: B008 (frozen)
    weights: str | os.PathLike[str] | None = None,
    options: RunOptions = RunOptions(),  # noqa: B008 (frozen)
    ray: RayOptions | None = None,
    command: Callable[[Recipe], str] | None = None,
    reporter: Reporter = SILENT,
) -> AblationResult:
    """Train every cell of a grid that has no result yet, and write tables and a figure.

    Every seed splits the identities differently; AUC is measured on those that training did not
    see. An interrupted ablation is resumed.

    Args:
        recipe: Settings that all trainings share.
        faces: Folder of real faces with landmarks: `faces.csv` and `landmarks.npz`.
        out: Folder for the results, with a folder for each training.
        grid: Settings to combine.
        weights: Weights that each backbone starts from; see `lpx.training.fit.train`.
        options: Settings of each training that do not change its result: devices of this machine,
            processes that make images, and so on; not `restart`.
        ray: Trains on the workers of this Ray cluster, several trainings at a time, each on one
            GPU, or on a few cores. They read the faces under the same path as this machine.
        command: Returns the command that trains a recipe, for the cards of the checkpoints.
        reporter: Receives the name of each training.

    Raises:
        InvalidArgumentError: An argument has a value that it cannot have.
        LpxError: As `lpx.training.fit.train`; a stored result has other settings; the cluster
            cannot be used, a node does not see the faces, or workers died.
    """
    _check_options(options, ray)
    folder = as_path("out", out)
    faces = as_path("faces", faces)
    file = initial_weights(weights)
    trainings = []
    for cell in grid.cells():
        cell_recipe = with_weights(cell.recipe(recipe), file)
        text = "" if command is None else command(cell_recipe)
        trainings.append(CellTraining(cell, cell_recipe, text))
    place = read_place(nodes=1)
    if place.is_child:
        # The first process, which waits for this one, has the lock, and is at this training.
        _train_here(_pending(folder, trainings)[0], folder, faces, file, options)
    if place.of > 1 or not place.first:
        raise LpxError(
            "an ablation is started once, not by several processes",
            "torchrun, srun or a variable such as NODE_RANK says that this is one of several",
            "start it as one process, with `devices` for several devices of this machine, or with "
            "`ray` for several machines",
            code="invalid-argument",
        )
    # Hours of training come first: a folder that cannot be written must not fail after them.
    check_writable(folder, "ablation.json", "ablation.md", "ablation.png")
    with locked(folder, "the ablation", "choose another `out`"):
        # Before hours of training, too: they may be of other settings.
        for training in trainings:
            if (folder / training.cell.name / RESULT).is_file():
                read_result(folder / training.cell.name, training)
        pending = _pending(folder, trainings)
        if ray is not None:
            on_cluster = ClusterTrainer(ray, folder, faces, file, options, reporter)
            before = len(trainings) - len(pending)
            for count, line in enumerate(on_cluster(pending), before + 1):
                reporter.say(f"{count}/{len(trainings)} {line}")
        else:
            for training in pending:
                number = trainings.index(training) + 1
                reporter.say(f"{number}/{len(trainings)} {training.cell.name}")
                _train_here(training, folder, faces, file, options)
        # New results are read back, too: numbers are the same whether made now or earlier.
        results = [read_result(folder / one.cell.name, one) for one in trainings]
        settings = summarise(results)
        tables = to_markdown(settings, contrasts(results), recipe.pseudo_fakes)
        ablation = AblationResult(folder, recipe, tuple(results), tables)
        write_json(folder / "ablation.json", ablation.to_dict())
        write_bytes(folder / "ablation.md", tables.encode())
        write_bytes(folder / "ablation.png", draw(settings))
        return ablation


def _check_options(options: RunOptions, ray: RayOptions | None) -> None:
    if options.restart:
        raise InvalidArgumentError(
            "restart", "cannot be used in an ablation: choose another `out`", options.restart
        )
    if options.nodes > 1:
        raise InvalidArgumentError(
            "nodes", "must be 1 in an ablation: use `ray` for several machines", options.nodes
        )
    if ray is None:
        return
    if str(options.devices) not in ("auto", "1"):
        raise InvalidArgumentError(
            "devices", "must be auto on a Ray cluster: a worker trains on one", options.devices
        )
    if options.strategy != "auto":
        raise InvalidArgumentError("strategy", "must be auto on a Ray cluster", options.strategy)
    if options.callbacks:
        raise InvalidArgumentError(
            "callbacks", "cannot be used on a Ray cluster", list(options.callbacks)
        )


def _pending(folder: Path, trainings: list[CellTraining]) -> list[CellTraining]:
    return [one for one in trainings if not (folder / one.cell.name / RESULT).is_file()]


def _train_here(
    training: CellTraining, out: Path, faces: Path, weights: Path | None, options: RunOptions
) -> None:
    folder = out / training.cell.name
    write_result(folder, training, run_cell(training, folder, faces, weights, options))
