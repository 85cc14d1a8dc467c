"""Train, select, calibrate, save: what `lpx train` does."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from lpx import interrupts
from lpx.card import ModelCard
from lpx.data.pseudo_fakes.blend import KINDS
from lpx.data.pseudo_fakes.pairs import PairSource
from lpx.data.pseudo_fakes.training_pairs import open_training_data
from lpx.errors import LpxError
from lpx.interrupts import follow_parent
from lpx.metrics import auc
from lpx.models.aggregates import aggregate
from lpx.models.checkpoint import load_checkpoint, save_checkpoint
from lpx.models.detector import LocalPredictionDetector, new_detector
from lpx.models.fitting import load_backbone_weights
from lpx.models.state_dict import StateDict
from lpx.models.weights_file import read_weights
from lpx.schema import SchemaError, read_record
from lpx.training.keeper import Keeper
from lpx.training.module import LocalPrediction, loader
from lpx.training.operating_point import apply_temperature, choose_threshold, fit_temperature
from lpx.training.recipe import Recipe
from lpx.training.state import State, Store
from lpx.workspace import check_writable, locked, read_json, sha256, unwritable, write_json

_LONGEST_TEMPORARY = 103 - len("/pymp-12345678/listener-12345678")
"""Bytes; 103 are what the strictest system (macOS) takes for a socket."""
RESULT = "result.json"
"""What a finished training made, in its run folder."""


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
        out: Checkpoint to write; the run's state is kept in `<out>.run/` beside it.
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
    """Train a detector; go on where an earlier run with the same recipe stopped.

    The result is the same as without a stop, bit for bit on a CPU. A training that has finished is
    not done again: its checkpoint is left, or written again where it is gone.

    Args:
        recipe: What decides the result.
        folder: Faces; see `lpx.data.pseudo_fakes.training_pairs.open_training_data`.
        weights: State dict of the whole backbone to start from; None starts from random weights.
        run: The rest.

    Raises:
        LpxError: Unusable data or weights, NaN loss, a state of another recipe or of other faces,
            damaged states, a full disk, or another process that trains to the same checkpoint.
    """
    if getattr(rank_zero_only, "rank", 0):
        # Started by the first process, which holds the lock and hears signals.
        follow_parent()
        return _train(recipe, folder, weights, run)
    with locked(run.state, "the training", "choose another --out"):
        return _train(recipe, folder, weights, run)


def _train(recipe: Recipe, folder: Path, weights: Path | None, run: Run) -> Trained:
    recipe = with_weights(recipe, weights)
    data = open_training_data(folder, recipe.pseudo_fakes, recipe.seed)
    for note in data.notes:
        _note(note)
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
    if run.workers:
        _check_sockets()
    keeper = Keeper(Store(run.state), recipe, data.contents_sha256())
    state = _stored(keeper, folder, run)
    if weights is not None:
        fitted = load_backbone_weights(detector.backbone, read_weights(weights), str(weights))
        for note in fitted.notes(weights.name):
            _note(note)
    module = LocalPrediction(detector, card, recipe, data, run.workers)
    if state is not None:
        keeper.restore(state, module)
    if keeper.progress.finished(recipe.steps):
        if (before := _result(run)) is not None:
            _note(f"this training was finished before, and {run.out} is its checkpoint")
            return before
        _note(f"this training was finished before; writing its checkpoint {run.out} again")
    elif module.step:
        _note(f"going on at step {module.step} of {recipe.steps}")
    started = time.perf_counter()
    if not keeper.progress.finished(recipe.steps):
        _fit(module, run, keeper)
    minutes = (time.perf_counter() - started) / 60
    return _finish(keeper.progress.best, module, run, weights, minutes)


def _note(text: str) -> None:
    logging.getLogger(__name__).warning("note: %s", text)


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


def _stored(keeper: Keeper, folder: Path, run: Run) -> State | None:
    """The state to go on from, if there is one, after making sure that it is of this training."""
    store, recipe = keeper.store, keeper.recipe
    try:
        if run.restart:
            store.clear()
            (run.state / RESULT).unlink(missing_ok=True)
        state = store.read()
        if state is None:
            write_json(run.state / "recipe.json", recipe.to_dict())
            return None
    except OSError as error:
        raise unwritable(run.state, error) from error
    if different := recipe.differences(state.recipe):
        raise LpxError(
            f"{run.state} holds a training with other settings",
            "; ".join(different[:4]),
            "use the same settings, another --out, or --restart to throw it away",
        )
    if state.data != keeper.data:
        raise LpxError(
            f"{run.state} holds a training with other faces than those of {folder}",
            "files, identities or landmarks differ",
            "name the same faces, another --out, or --restart to throw it away",
        )
    return state


def _check_sockets() -> None:
    """Refuse a folder for temporary files whose name is too long for the workers' sockets.

    Images come from worker processes through sockets in `pymp-XXXXXXXX/listener-XXXXXXXX` below it.
    Where the path is too long for one, `multiprocessing` drops the images, and training would wait
    for them for ever.

    Raises:
        LpxError: It is.
    """
    place = tempfile.gettempdir()
    if hasattr(socket, "AF_UNIX") and len(os.fsencode(place)) > _LONGEST_TEMPORARY:
        raise LpxError(
            f"the folder for temporary files has a long path: {place}",
            f"worker processes need sockets in it, and these take paths of {_LONGEST_TEMPORARY} "
            "bytes at most before their own names",
            "set TMPDIR to a folder with a shorter path, or use --workers 0",
        )


def _fit(module: LocalPrediction, run: Run, keeper: Keeper) -> None:
    """Train, from where `keeper` restored the module."""
    recipe = module.recipe
    callbacks: list[Callback] = [keeper]
    if not run.quiet:
        callbacks.append(RichProgressBar(refresh_rate=1, console_kwargs={"stderr": True}))
    with _calm(), _workers_named(), interrupts.deferred():
        trainer = lightning.Trainer(
            # Lightning counts from where it is started.
            max_epochs=recipe.epochs - module.step // recipe.steps_per_epoch,
            accelerator="auto",
            devices=run.devices,
            strategy=run.strategy,
            precision="16-mixed" if torch.cuda.is_available() else "32-true",
            logger=_loggers(run, module.step),
            callbacks=callbacks,
            default_root_dir=run.state,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            log_every_n_steps=min(10, recipe.steps_per_epoch),
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=not run.quiet,
            use_distributed_sampler=False,
        )
        keeper.check_devices(trainer.world_size)
        try:
            if not keeper.progress.validated:
                trainer.validate(module, verbose=False)
            if not keeper.progress.finished(recipe.steps):
                trainer.fit(module)
        except OSError as error:
            raise unwritable(run.state, error) from error
        if trainer.global_rank:
            # The first process does the rest.
            sys.exit(0)
    if trainer.interrupted:
        raise KeyboardInterrupt


_IN_WORKER = re.compile(
    r"LpxError: (?P<what>.*?)(\n  why: (?P<why>.*?))?(\n  fix: (?P<fix>.*?))?\s*", re.DOTALL
)


@contextmanager
def _workers_named() -> Iterator[None]:
    """Say what a process that makes images could not do, or that it died.

    Raises:
        LpxError: Without the traceback of that process, which torch makes part of the message.
    """
    try:
        yield
    except LpxError as error:
        place = error.what.rfind("LpxError: ")
        if "in DataLoader worker" not in error.what[:place] or place < 0:
            raise
        found = _IN_WORKER.fullmatch(error.what[place:])
        assert found is not None
        raise LpxError(found["what"], found["why"] or "", found["fix"] or "") from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise LpxError(
            "a process that makes images died",
            f"{str(error).splitlines()[0]}; the system kills one where memory runs out",
            "give the command again with fewer --workers (0 for none): it goes on from the last "
            "state",
        ) from error


def _loggers(run: Run, step: int) -> list[Logger]:
    # The CSV of an earlier run would be emptied.
    version = f"log-from-{step:06d}" if step else "log"
    loggers: list[Logger] = [CSVLogger(run.state, name="", version=version)]
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


@dataclass(frozen=True)
class _Result:
    """What a finished training left beside its checkpoint: `result.json`."""

    sha256: str
    crop: str
    data_name: str
    val_auc: float
    held_out_auc: dict[str, float]
    temperature: float


def _result(run: Run) -> Trained | None:
    """What a finished training made, where its checkpoint is still there and of this `run`."""
    try:
        found = read_record(_Result, read_json(run.state / RESULT, "lpx train"))
        if (found.sha256, found.crop, found.data_name) != (
            sha256(run.out),
            run.crop,
            run.data_name,
        ):
            return None
        card = load_checkpoint(run.out).card
    except (LpxError, SchemaError, OSError):
        # It is made again from the training's state.
        return None
    return Trained(card, found.val_auc, found.held_out_auc, found.temperature, minutes=0.0)


def _finish(
    best: StateDict, module: LocalPrediction, run: Run, weights: Path | None, minutes: float
) -> Trained:
    """Take the best average, calibrate it on the validation split, measure, save."""
    detector = module.average.cpu()
    detector.load_state_dict(best)
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
    result = _Result(sha256(run.out), run.crop, run.data_name, val_auc, held_out, temperature)
    write_json(run.state / RESULT, asdict(result))
    return Trained(card, val_auc, held_out, temperature, minutes)


@torch.no_grad()
def _logits(
    detector: LocalPredictionDetector, batches: DataLoader[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Unit logits [N, h, w] and labels [N]."""
    with _workers_named():
        parts = [(detector.logits(images.flatten(0, 1)), y.flatten()) for images, y in batches]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _held_out(detector: LocalPredictionDetector, module: LocalPrediction) -> dict[str, float]:
    """AUC per kind of pseudo-fake on held-out identities; empty where there are none."""
    recipe, faces = module.recipe, module.data.held_out
    if len({face.identity for face in faces}) < 2:
        return {}
    found: dict[str, Any] = {}
    for kind in KINDS:
        pairs = PairSource(faces, (kind,), recipe.seed + 2)
        made = loader(pairs, module.card, recipe, recipe.held_out_pairs, module.workers)
        logits, labels = _logits(detector, made)
        score = aggregate(detector.aggregate, logits, detector.aggregate_parameter)
        found[kind] = round(float(auc(labels.numpy().astype("int64"), score.numpy())), 4)
    return found
