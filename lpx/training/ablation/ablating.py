"""Train the grid of an ablation, and report what each part of the method contributes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lpx.arguments import as_path
from lpx.data.pseudo_fakes.training_pairs import open_training_data
from lpx.errors import LpxError
from lpx.models.checkpoint import load_checkpoint
from lpx.models.detector import LocalPredictionDetector, analyse_detector
from lpx.reporter import SILENT, Reporter
from lpx.schema import SchemaError, read_record
from lpx.training.ablation.grid import AblationGrid, CellResult, GridCell
from lpx.training.ablation.report import contrasts, draw, summarise, to_markdown
from lpx.training.fit import train
from lpx.training.localisation import localise, region_similarity
from lpx.training.recipe import Recipe
from lpx.training.run import RunOptions, TrainingResult, initial_weights, with_weights
from lpx.workspace import check_writable, read_json, write_bytes, write_json

# Pseudo-fakes for localisation, and pairs for similarity.
HELD_OUT_FAKES = 100


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
    workers: int = 1,
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
        workers: Processes that make images.
        command: Returns the command that trains a recipe, for the cards of the checkpoints.
        reporter: Receives the name of each training.

    Raises:
        InvalidArgumentError: An argument has a value that it cannot have.
        LpxError: As `lpx.training.fit.train`, or a stored result has other settings.
    """
    folder = as_path("out", out)
    faces = as_path("faces", faces)
    file = initial_weights(weights)
    # Hours of training come first: a folder that cannot be written must not fail after them.
    check_writable(folder, "ablation.json", "ablation.md", "ablation.png")
    cells = grid.cells()
    results = []
    for index, cell in enumerate(cells):
        cell_recipe = with_weights(cell.recipe(recipe), file)
        path = folder / cell.name / "result.json"
        if not path.is_file():
            reporter.say(f"{index + 1}/{len(cells)} {cell.name}")
            training = train(
                cell_recipe,
                faces,
                path.parent / "ckpt.pt",
                weights=file,
                command="" if command is None else command(cell_recipe),
                options=RunOptions(workers=workers),
            )
            result = _measure(cell, cell_recipe, faces, training)
            write_json(path, {"recipe": cell_recipe.to_dict(), **asdict(result)})
        # A new result is read back, too: numbers are the same whether it was made now or earlier.
        results.append(_read_result(path, cell_recipe))
    settings = summarise(results)
    tables = to_markdown(settings, contrasts(results), recipe.pseudo_fakes)
    ablation = AblationResult(folder, recipe, tuple(results), tables)
    write_json(folder / "ablation.json", ablation.to_dict())
    write_bytes(folder / "ablation.md", tables.encode())
    write_bytes(folder / "ablation.png", draw(settings))
    return ablation


def _measure(cell: GridCell, recipe: Recipe, faces: Path, training: TrainingResult) -> CellResult:
    detector = load_checkpoint(training.checkpoint)
    assert isinstance(detector.module, LocalPredictionDetector)
    # The card has the receptive field, but not the cost.
    field = analyse_detector(detector.module, detector.card.input_size)
    held_out = open_training_data(faces, recipe.pseudo_fakes, recipe.seed).held_out
    location = localise(detector.module, detector.card, held_out, "alpha", HELD_OUT_FAKES)
    alike = region_similarity(
        detector.module, detector.card, held_out, recipe.diversity, HELD_OUT_FAKES
    )
    return CellResult(
        cell,
        field.size,
        round(field.gmac, 4),
        training.held_out_auc,
        round(location.raw, 4),
        round(location.over_real, 4),
        round(alike, 4),
        round(training.minutes, 2),
    )


def _read_result(path: Path, recipe: Recipe) -> CellResult:
    """Read a stored result.

    Raises:
        LpxError: It is damaged, or of another recipe: a grid of mixed settings compares nothing.
    """
    values: dict[str, Any] = read_json(path, "lpx ablate")
    if different := recipe.differences(values.pop("recipe", {})):
        raise LpxError(
            f"{path} is the result of a training with other settings",
            different,
            "use the same settings, or another `out`",
        )
    try:
        return read_record(CellResult, values)
    except SchemaError as error:
        raise LpxError(
            f"{path} is damaged",
            str(error),
            "remove it, and run the same command again",
            code="damaged",
        ) from error
