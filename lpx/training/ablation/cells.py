"""One cell of an ablation: its training, what is measured of it, and its stored result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lpx.data.pseudo_fakes.training_pairs import open_training_data
from lpx.errors import LpxError
from lpx.models.checkpoint import load_checkpoint
from lpx.models.detector import LocalPredictionDetector, analyse_detector
from lpx.schema import SchemaError, read_record
from lpx.training.ablation.grid import CellResult, GridCell
from lpx.training.fit import train
from lpx.training.localisation import localise, region_similarity
from lpx.training.recipe import Recipe
from lpx.training.run import RunOptions, TrainingResult
from lpx.workspace import read_json, write_json

# In the folder of a cell: its checkpoint, with `ckpt.pt.run/` beside it, and its measurements.
CHECKPOINT, RESULT = "ckpt.pt", "result.json"
# Pseudo-fakes for localisation, and pairs for similarity.
HELD_OUT_FAKES = 100


@dataclass(frozen=True)
class CellTraining:
    """A training of the grid.

    Attributes:
        cell: Its settings.
        recipe: All of its settings.
        command: The command that trains it, for the card; "" to leave it out.
    """

    cell: GridCell
    recipe: Recipe
    command: str


def run_cell(
    training: CellTraining, folder: Path, faces: Path, weights: Path | None, options: RunOptions
) -> CellResult:
    """Train a cell, or resume its training, and measure it.

    Args:
        training: The cell.
        folder: Folder of the cell, in which only the checkpoint and its run folder are written.
        faces: Folder of real faces with landmarks.
        weights: File that the backbone starts from.
        options: Settings that do not change the result.

    Raises:
        LpxError: As `lpx.training.fit.train`.
    """
    result = train(
        training.recipe,
        faces,
        folder / CHECKPOINT,
        weights=weights,
        command=training.command,
        options=options,
    )
    return _measure(training, faces, result)


def _measure(training: CellTraining, faces: Path, trained: TrainingResult) -> CellResult:
    recipe = training.recipe
    detector = load_checkpoint(trained.checkpoint)
    assert isinstance(detector.module, LocalPredictionDetector)
    # The card has the receptive field, but not the cost.
    field = analyse_detector(detector.module, detector.card.input_size)
    held_out = open_training_data(faces, recipe.pseudo_fakes, recipe.seed).held_out
    location = localise(detector.module, detector.card, held_out, "alpha", HELD_OUT_FAKES)
    alike = region_similarity(
        detector.module, detector.card, held_out, recipe.diversity, HELD_OUT_FAKES
    )
    return CellResult(
        training.cell,
        field.size,
        round(field.gmac, 4),
        trained.held_out_auc,
        round(location.raw, 4),
        round(location.over_real, 4),
        round(alike, 4),
        round(trained.minutes, 2),
    )


def write_result(folder: Path, training: CellTraining, result: CellResult) -> None:
    """Write the measurements of a cell into its folder: it is finished."""
    write_json(folder / RESULT, {"recipe": training.recipe.to_dict(), **asdict(result)})


def read_result(folder: Path, training: CellTraining) -> CellResult:
    """Read the stored result of a cell.

    Raises:
        LpxError: It is damaged, or of another recipe: a grid of mixed settings compares nothing.
    """
    path = folder / RESULT
    values: dict[str, Any] = read_json(path, "lpx ablate")
    if different := training.recipe.differences(values.pop("recipe", {})):
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
