"""A Lightning callback that keeps a training's state."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from lpx import interrupts
from lpx.errors import LpxError, first_line
from lpx.interrupts import Interrupted
from lpx.training.module import LocalPrediction
from lpx.training.processes import shared_maximum
from lpx.training.recipe import Recipe
from lpx.training.state import State, Store, TrainingProgress

# Seconds: a killed training repeats at most that much, besides a validation.
SAVE_EVERY_S = 300.0


class Keeper(Callback):
    """Writes the state after each validation, at intervals in between, and when a signal arrives.

    It also chooses the best weights, and ends a training that does not improve. Lightning's own
    callbacks for this keep their state in checkpoints that only its loader reads, which before
    release 2.6 runs code from them.

    Args:
        store: Folder of the states.
        recipe: Settings of the training.
        data: Digest of its faces.
        save_every_s: Time between states within an epoch, seconds.
        is_child: Whether Lightning has started this process.

    Attributes:
        progress: Steps done, and the best weights so far.
    """

    def __init__(
        self,
        store: Store,
        recipe: Recipe,
        data: str,
        save_every_s: float = SAVE_EVERY_S,
        *,
        is_child: bool = False,
    ) -> None:
        self.store, self.recipe, self.data = store, recipe, data
        self.save_every_s = save_every_s
        self._is_child = is_child
        self.progress = TrainingProgress()
        self._precision: dict[str, Any] = {}
        self._devices = 0
        self._validated_at = 0
        self._saved_s = time.monotonic()

    def restore(self, state: State, module: LocalPrediction) -> None:
        """Load a state into a new module.

        Raises:
            LpxError: The state does not fit the model.
        """
        try:
            module.detector.load_state_dict(state.detector)
            if state.progress.best_auc is not None:
                module.average.load_state_dict(state.progress.best)
            elif state.progress.finished(self.recipe.steps):
                raise ValueError("training is finished, but there are no best weights")
            module.average.load_state_dict(state.average)
            if not state.optimiser:
                raise ValueError("the optimiser is missing")
            module.optimiser_state, module.step = state.optimiser, state.progress.step
            # For its errors: Lightning makes the optimiser again when it starts.
            module.configure_optimizers()
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise LpxError(
                f"the state in {self.store.folder} does not fit the model",
                first_line(error),
                "start the training again with `restart=True`",
                code="damaged",
            ) from error
        self.progress, self._precision = state.progress, state.precision
        self._devices = state.devices
        # A validation that is still due must not count as done at this step.
        self._validated_at = state.progress.step if state.progress.validated else -1

    def check_devices(self, count: int) -> None:
        """Refuse to resume on another number of devices.

        Raises:
            LpxError: The number differs.
        """
        if self._devices not in (0, count):
            raise LpxError(
                f"{self.store.folder} holds a training on {self._devices} devices, not {count}",
                "each device takes its own pairs: the result would differ",
                f"use `devices={self._devices}`, another `out`, or `restart=True` to start again",
            )
        self._devices = count

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Restore the loss scale of mixed precision, and handle signals again."""
        if self._precision:
            trainer.precision_plugin.load_state_dict(self._precision)
        interrupts.take_back()
        self._saved_s = time.monotonic()

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Handle signals again: Lightning installs handlers of its own."""
        interrupts.take_back()

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write the state if it is time, or if a signal has arrived."""
        if time.monotonic() - self._saved_s >= self.save_every_s:
            self._save(trainer, pl_module)
        self._end_if_asked(trainer, pl_module)

    def on_validation_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """End if a signal has arrived; the next run repeats the validation."""
        self._end_if_asked(trainer, pl_module)

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Keep the average if it is the best so far; stop a training that does not improve."""
        assert isinstance(pl_module, LocalPrediction)
        progress = self.progress
        self._validated_at = pl_module.step
        better = progress.best_auc is None or pl_module.val_auc > progress.best_auc
        if better:
            progress.best_auc, progress.waited = pl_module.val_auc, 0
            best = {}
            for name, value in pl_module.average.state_dict().items():
                best[name] = value.detach().cpu().clone()
            progress.best = best
        else:
            progress.waited += 1
        progress.stopped = bool(self.recipe.patience) and progress.waited >= self.recipe.patience
        self._save(trainer, pl_module, best=better)
        # If one device stops, all must: devices that round differently may disagree here.
        if trainer.strategy.reduce_boolean_decision(progress.stopped, all=False):
            trainer.should_stop = True
        self._end_if_asked(trainer, pl_module)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Write the state if a signal killed a worker process before it was noticed here."""
        assert isinstance(pl_module, LocalPrediction)
        asked = interrupts.received() and not isinstance(exception, (Interrupted, LpxError))
        # Within a step the weights are between two states.
        if asked and not pl_module.within_step:
            self._save(trainer, pl_module)

    def _end_if_asked(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Write the state and raise `Interrupted` if a signal has arrived."""
        # All processes end at the same step, whichever of them received the signal.
        number = shared_maximum(interrupts.received() or 0, trainer.strategy)
        if not number:
            return
        step = self._save(trainer, module)
        # torchrun and Lightning kill all processes when one has ended.
        trainer.strategy.barrier()
        if self._is_child:
            # Its parent reports.
            sys.exit(0)
        kept = f"step {step} of {self.recipe.steps} is kept in {self.store.folder}"
        raise Interrupted(signal.Signals(number), kept)

    def _save(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        *,
        best: bool = False,
    ) -> int:
        """Write the state, and return its step."""
        assert isinstance(module, LocalPrediction)
        progress, step = self.progress, module.step
        ends_epoch = step % self.recipe.steps_per_epoch == 0 or step >= self.recipe.steps
        progress.step = step
        progress.validated = not ends_epoch or step == self._validated_at
        if not trainer.is_global_zero:
            return step
        if trainer.optimizers:
            optimiser = trainer.optimizers[0].state_dict()
            precision = trainer.precision_plugin.state_dict()
        else:
            # A validation alone, on resuming: the optimiser is not made yet.
            optimiser, precision = module.optimiser_state, self._precision
        state = State(
            recipe=self.recipe.to_dict(),
            data=self.data,
            devices=self._devices,
            progress=progress,
            detector=module.detector.state_dict(),
            average=module.average.state_dict(),
            optimiser=optimiser,
            precision=precision,
        )
        if best:
            self.store.write_best(state)
        self.store.write(state)
        self._saved_s = time.monotonic()
        return step
