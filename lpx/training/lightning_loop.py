"""Run Lightning: its trainer, its loggers, and its worker processes."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger

from lpx import interrupts
from lpx.errors import LpxError, first_line
from lpx.training.keeper import Keeper
from lpx.training.module import LocalPrediction
from lpx.training.run import Run
from lpx.workspace import unwritable

# Bytes: the strictest system (macOS) takes 103 for the path of a socket.
_LONGEST_TEMPORARY = 103 - len("/pymp-12345678/listener-12345678")


def check_sockets(folder: str | None = None) -> None:
    """Refuse a folder for temporary files whose path is too long for the workers' sockets.

    Images come from worker processes through sockets in `pymp-XXXXXXXX/listener-XXXXXXXX` below it.
    If the path is too long for one, `multiprocessing` drops the images, and training would wait
    for them forever.

    Args:
        folder: The folder; None for the one that Python uses.

    Raises:
        LpxError: Its path is too long.
    """
    place = tempfile.gettempdir() if folder is None else folder
    if hasattr(socket, "AF_UNIX") and len(os.fsencode(place)) > _LONGEST_TEMPORARY:
        raise LpxError(
            f"the folder for temporary files has a long path: {place}",
            "worker processes need sockets in it, whose paths must be short: the folder's may have "
            f"{_LONGEST_TEMPORARY} bytes",
            "set TMPDIR to a folder with a shorter path, or use `workers=0`",
        )


def run_lightning(module: LocalPrediction, run: Run, keeper: Keeper) -> None:
    """Train a module from the step that it is at.

    Args:
        module: New, or restored by `keeper`.
        run: Devices, loggers' folder and callbacks.
        keeper: Writes the state and chooses the weights to keep.

    Raises:
        LpxError: Training failed, the disk is full, or a worker process died.
        Interrupted: A signal arrived; the state is kept.
    """
    with _quiet_lightning(), dead_workers_named(), interrupts.deferred():
        trainer = _trainer(module, run, keeper)
        keeper.check_devices(trainer.world_size)
        try:
            if not keeper.progress.validated:
                trainer.validate(module, verbose=False)
            if not keeper.progress.finished(module.recipe.steps):
                trainer.fit(module)
        except OSError as error:
            raise unwritable(run.folder, error) from error
        if trainer.global_rank:
            # The first process does the rest.
            sys.exit(0)
    if trainer.interrupted:
        raise KeyboardInterrupt


def _trainer(module: LocalPrediction, run: Run, keeper: Keeper) -> lightning.Trainer:
    recipe, options = module.recipe, run.options
    # The keeper comes first: other callbacks see a step after its state may have been written.
    callbacks: list[Callback] = [keeper, *options.callbacks]
    if options.progress_bar:
        callbacks.append(RichProgressBar(refresh_rate=1, console_kwargs={"stderr": True}))
    try:
        return lightning.Trainer(
            # Lightning counts epochs from where it is started.
            max_epochs=recipe.epochs - module.step // recipe.steps_per_epoch,
            accelerator="auto",
            devices=options.devices,
            strategy=options.strategy,
            precision="16-mixed" if torch.cuda.is_available() else "32-true",
            logger=_loggers(run, module.step),
            callbacks=callbacks,
            default_root_dir=run.folder,
            # Each epoch's loader begins at another step.
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            log_every_n_steps=min(10, recipe.steps_per_epoch),
            # The keeper writes the state: before 2.6, Lightning runs code from its checkpoints.
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=options.progress_bar,
            # Devices share pairs by their numbers; see `LocalPrediction.train_dataloader`.
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        # Lightning has no one type for a device or a strategy that is not there.
        raise LpxError(
            f"Lightning cannot use devices {options.devices!r} with strategy {options.strategy!r}",
            first_line(error),
            "change `devices` or `strategy`",
            code="invalid-argument",
        ) from error


@contextmanager
def dead_workers_named() -> Iterator[None]:
    """Turn PyTorch's error for a worker process that died into one with a remedy.

    Raises:
        LpxError: A worker process died.
    """
    try:
        yield
    except RuntimeError as error:
        # PyTorch has no type for it.
        if "DataLoader worker" not in str(error):
            raise
        raise LpxError(
            "a process that makes images died",
            f"{first_line(error)}; the system kills one if memory runs out",
            "run it again with fewer `workers` (0 for none): it resumes from the last state",
            code="out-of-memory",
        ) from error


def _loggers(run: Run, step: int) -> list[Logger]:
    # A file for each start: the logger would empty the CSV of an earlier run.
    version = f"log-from-{step:06d}" if step else "log"
    loggers: list[Logger] = [CSVLogger(run.folder, name="", version=version)]
    try:
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(run.folder, name="", version="tensorboard"))
    except ModuleNotFoundError:
        # TensorBoard is a convenience; the CSV holds the same.
        pass
    return loggers


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Suppress Lightning's advice on hardware and workers."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
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
