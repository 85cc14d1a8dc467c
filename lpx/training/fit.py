"""Train, select, calibrate, save: what `lpx train` does."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import Tensor
from torch.utils.data import DataLoader

from lpx.card import ModelCard
from lpx.data.pairs import PairSource
from lpx.data.pseudo_fakes import KINDS
from lpx.data.training_pairs import open_training_data
from lpx.errors import LpxError
from lpx.metrics import auc
from lpx.models.aggregates import aggregate
from lpx.models.checkpoint import save_checkpoint
from lpx.models.detector import LocalPredictionDetector, new_detector
from lpx.models.fitting import load_backbone_weights
from lpx.models.weights_file import read_weights
from lpx.training.module import LocalPrediction, PairDataset
from lpx.training.operating_point import apply_temperature, choose_threshold, fit_temperature
from lpx.training.recipe import Recipe
from lpx.workspace import check_writable, read_json, sha256, unwritable, write_json


@dataclass(frozen=True)
class Trained:
    """What a training made.

    Attributes:
        card: The checkpoint's card.
        val_auc: AUC on the validation split, of the weights kept.
        held_out_auc: AUC per kind of pseudo-fake on identities that training never saw.
        temperature: By which unit logits were divided.
        minutes: Wall time of this run; less than the whole where it was resumed.
    """

    card: ModelCard
    val_auc: float
    held_out_auc: dict[str, float]
    temperature: float
    minutes: float


@dataclass(frozen=True)
class Run:
    """What does not change the result: where, on what, how loud.

    Attributes:
        out: Checkpoint to write; the run's state lies in `<out>.run/` beside it.
        workers: Processes that make images.
        devices: Lightning's `devices`.
        strategy: Lightning's `strategy`.
        restart: Throw away the state of an earlier run.
        quiet: No progress bar.
        crop: Crop rule of the faces, for the card.
        data_name: Name and licence of the data, for the card.
    """

    out: Path
    workers: int = 1
    devices: str = "auto"
    strategy: str = "auto"
    restart: bool = False
    quiet: bool = False
    crop: str = "unknown"
    data_name: str = ""

    @property
    def state(self) -> Path:
        """Folder of the run's state."""
        return self.out.with_name(self.out.name + ".run")


def train(recipe: Recipe, folder: Path, weights: Path | None, run: Run) -> Trained:
    """Train a detector; resume where an earlier run with the same recipe stopped.

    Args:
        recipe: What decides the result.
        folder: Faces; see `lpx.data.training_pairs.open_training_data`.
        weights: State dict of the whole backbone to start from; None starts from random weights.
        run: The rest.

    Raises:
        LpxError: Unusable data or weights, NaN loss, a state of another recipe, a full disk.
    """
    recipe = with_weights(recipe, weights)
    data = open_training_data(folder, recipe.pseudo_fakes, recipe.seed)
    for note in data.notes:
        logging.getLogger(__name__).warning("note: %s", note)
    torch.manual_seed(recipe.seed)
    detector, card = new_detector(
        recipe.backbone,
        recipe.cut,
        input_size=recipe.input_size,
        aggregate_name=recipe.aggregate,
        aggregate_parameter=recipe.aggregate_parameter,
        bottleneck=recipe.bottleneck,
    )
    recipe.diversity.check(card.grid)
    check_writable(run.out.parent, run.out.name)
    resume = _resume_from(recipe, run)
    if weights is not None:
        fitted = load_backbone_weights(detector.backbone, read_weights(weights), str(weights))
        for note in fitted.notes(weights.name):
            logging.getLogger(__name__).warning("note: %s", note)
    module = LocalPrediction(detector, card, recipe, data, run.workers)
    started = time.perf_counter()
    best = _fit(module, run, resume)
    minutes = (time.perf_counter() - started) / 60
    return _finish(best, module, run, weights, minutes)


def with_weights(recipe: Recipe, weights: Path | None) -> Recipe:
    """The recipe with the hash of the weights to start from.

    Raises:
        LpxError: The file does not exist.
    """
    if weights is None:
        return recipe
    if not weights.is_file():
        raise LpxError(f"{weights} does not exist", "", "name a state dict with --weights")
    return replace(recipe, initial_weights_sha256=sha256(weights))


def _resume_from(recipe: Recipe, run: Run) -> Path | None:
    """The state to go on from, if there is one, after making sure that it is of this recipe."""
    stored = run.state / "recipe.json"
    last = run.state / "last.ckpt"
    if run.restart or not stored.is_file():
        write_json(stored, recipe.to_dict())
        last.unlink(missing_ok=True)
        return None
    if different := recipe.differences(read_json(stored, "lpx train --restart")):
        raise LpxError(
            f"{run.state} holds a training with other settings",
            "; ".join(different[:4]),
            "use the same settings, another --out, or --restart to throw it away",
        )
    return last if last.is_file() else None


def _fit(module: LocalPrediction, run: Run, resume: Path | None) -> Path:
    """Run Lightning; returns the checkpoint of the best validation AUC."""
    recipe = module.recipe
    keep = ModelCheckpoint(
        run.state, filename="best", monitor="val_auc", mode="max", save_last=True,
        enable_version_counter=False, save_on_train_epoch_end=True,
    )  # fmt: skip
    callbacks: list[Callback] = [keep]
    if recipe.patience:
        callbacks.append(EarlyStopping("val_auc", mode="max", patience=recipe.patience))
    if not run.quiet:
        callbacks.append(RichProgressBar(refresh_rate=1, console_kwargs={"stderr": True}))
    with _calm():
        trainer = lightning.Trainer(
            max_epochs=recipe.epochs,
            accelerator="auto",
            devices=run.devices,
            strategy=run.strategy,
            precision="16-mixed" if torch.cuda.is_available() else "32-true",
            logger=_loggers(run),
            callbacks=callbacks,
            default_root_dir=run.state,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            log_every_n_steps=min(10, recipe.steps_per_epoch),
            enable_model_summary=False,
            enable_progress_bar=not run.quiet,
        )
        try:
            trainer.fit(module, ckpt_path=resume)
        except OSError as error:
            raise unwritable(run.state, error) from error
    if trainer.interrupted:
        raise KeyboardInterrupt
    return Path(keep.best_model_path)


def _loggers(run: Run) -> list[Logger]:
    loggers: list[Logger] = [CSVLogger(run.state, name="", version="log")]
    try:
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(run.state, name="", version="tensorboard"))
    except ModuleNotFoundError:
        # TensorBoard is a convenience; the CSV holds the same.
        pass
    return loggers


@contextmanager
def _calm() -> Iterator[None]:
    """Keep Lightning's advice on hardware and workers to itself."""
    loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _finish(
    best: Path, module: LocalPrediction, run: Run, weights: Path | None, minutes: float
) -> Trained:
    """Take the best average, calibrate it on the validation split, measure, save."""
    prefix, stored = "average.", read_weights(best)["state_dict"]
    state = {k[len(prefix) :]: v for k, v in stored.items() if k.startswith(prefix)}
    detector = module.average.cpu()
    detector.load_state_dict(state)
    detector.eval()
    recipe, data = module.recipe, module.data
    logits, labels = _logits(detector, module.val_dataloader())
    temperature = fit_temperature(detector, logits, labels)
    apply_temperature(detector, temperature)
    scores = aggregate(detector.aggregate, logits / temperature, detector.aggregate_parameter)
    threshold = choose_threshold(scores, labels, recipe.fpr)
    val_auc = float(auc(labels.numpy().astype("int64"), scores.numpy()))
    held_out = _held_out(detector, module)
    card = replace(
        module.card,
        crop=run.crop,
        threshold=threshold,
        threshold_source=f"false-positive rate {recipe.fpr:g} on validation faces",
        provenance={
            "data": run.data_name,
            "counts": data.description,
            "recipe": recipe.to_dict(),
            "command": recipe.command(),
            "initial_weights": weights.name if weights else "random",
            "validation_auc": round(val_auc, 4),
            "held_out_auc": held_out,
            "temperature": round(temperature, 4),
        },
    )
    card = save_checkpoint(run.out, detector, card)
    return Trained(card, val_auc, held_out, temperature, minutes)


@torch.no_grad()
def _logits(
    detector: LocalPredictionDetector, loader: DataLoader[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Unit logits [N, h, w] and labels [N]."""
    parts = [(detector.logits(images.flatten(0, 1)), y.flatten()) for images, y in loader]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _held_out(detector: LocalPredictionDetector, module: LocalPrediction) -> dict[str, float]:
    """AUC per kind of pseudo-fake on held-out identities; empty where there are none."""
    recipe, faces = module.recipe, module.data.held_out
    if len({face.identity for face in faces}) < 2:
        return {}
    found: dict[str, Any] = {}
    for kind in KINDS:
        pairs = PairSource(faces, (kind,), recipe.seed + 2)
        dataset = PairDataset(pairs, module.card, recipe.held_out_pairs)
        loader = DataLoader(dataset, recipe.pairs, num_workers=module.workers)
        logits, labels = _logits(detector, loader)
        score = aggregate(detector.aggregate, logits, detector.aggregate_parameter)
        found[kind] = round(float(auc(labels.numpy().astype("int64"), score.numpy())), 4)
    return found
