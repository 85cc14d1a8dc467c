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
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.strategies import DDPStrategy, Strategy

from lpx import interrupts
from lpx.errors import LpxError, first_line
from lpx.training.keeper import Keeper
from lpx.training.module import LocalPrediction
from lpx.training.processes import Joined, Meeting, check_count, own_environment, this_member
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
    with (
        _quiet_lightning(),
        dead_workers_named(),
        interrupts.deferred(),
        own_environment(),
    ):
        trainer = _trainer(module, run, keeper, run.options.strategy)
        check_count(run.place, trainer.world_size)
        keeper.check_devices(trainer.world_size)
        if isinstance(trainer.strategy, DDPStrategy):
            trainer = _trainer(module, run, keeper, _joined(module, run, keeper))
        elif run.options.nodes > 1:
            raise _unusable(run, "`nodes` takes a strategy of the family ddp")
        with _others(trainer.strategy):
            try:
                if not keeper.progress.validated:
                    trainer.validate(module, verbose=False)
                if not keeper.progress.finished(module.recipe.steps):
                    trainer.fit(module)
            except OSError as error:
                raise unwritable(run.folder, error) from error
        if not run.place.first:
            # The first process does the rest.
            sys.exit(0)
    if trainer.interrupted:
        raise KeyboardInterrupt


def _joined(module: LocalPrediction, run: Run, keeper: Keeper) -> Joined:
    """Return the strategy for several processes.

    Raises:
        LpxError: It is one that trains in copies of this process, whose results Lightning drops.
    """
    name = run.options.strategy.lower()
    if any(word in name for word in ("spawn", "fork", "notebook")):
        raise _unusable(run, "it trains in copies of this process")
    validated = keeper.progress.validated
    member = this_member(module.recipe, keeper.data, module.step, validated=validated)
    meeting = Meeting(member, run.options.wait_s, run.reporter)
    return Joined(meeting, "ddp" if name == "auto" else name)


@contextmanager
def _others(strategy: Strategy) -> Iterator[None]:
    """Tell the other processes of an error here, and turn the loss of one into an error.

    Raises:
        LpxError: Another process has ended.
    """
    if not isinstance(strategy, Joined):
        yield
        return
    try:
        yield
    except LpxError as error:
        strategy.tell(error)
        raise
    except RuntimeError as error:
        lost = strategy.lost(error)
        if lost is None:
            raise
        # Whoever sends a signal to one process often sends it to all.
        interrupts.check()
        raise lost from error
    strategy.part()


def _trainer(
    module: LocalPrediction, run: Run, keeper: Keeper, strategy: str | Strategy
) -> lightning.Trainer:
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
            strategy=strategy,
            num_nodes=options.nodes,
            plugins=_environment(),
            precision="16-mixed" if torch.cuda.is_available() else "32-true",
            logger=_loggers(run, module.step),
            callbacks=callbacks,
            # Not a folder. Under Slurm Lightning would resume from checkpoints of its own there.
            default_root_dir=os.devnull,
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
        raise _unusable(run, first_line(error)) from error


def _unusable(run: Run, why: str) -> LpxError:
    options = run.options
    return LpxError(
        f"Lightning cannot use devices {options.devices!r} with strategy {options.strategy!r}",
        why,
        "change `devices` or `strategy`",
        code="invalid-argument",
    )


def _environment() -> SLURMEnvironment | None:
    """Return Lightning's view of a Slurm job, without its way to stop and resume there."""
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)
    return None


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
