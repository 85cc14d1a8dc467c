"""What keeps a training's state while Lightning runs it."""

from __future__ import annotations

import signal
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from lpx import interrupts
from lpx.errors import LpxError
from lpx.interrupts import Interrupted
from lpx.training.module import LocalPrediction
from lpx.training.recipe import Recipe
from lpx.training.state import Progress, State, Store

SAVE_EVERY_S = 300.0
"""Time between states within an epoch, seconds: what a killed training does again at most, besides
a validation."""


class Keeper(Callback):
    """Writes the state after each validation, every five minutes, and when a signal comes.

    It also chooses the best weights and ends a training that does not improve. Lightning's own
    callbacks for this keep their state in checkpoints that only its loader reads.

    Args:
        store: Where to.
        recipe: Of the training.
        data: Digest of its faces.

    Attributes:
        progress: How far the training is.
    """

    def __init__(self, store: Store, recipe: Recipe, data: str) -> None:
        self.store, self.recipe, self.data = store, recipe, data
        self.progress = Progress()
        self._precision: dict[str, Any] = {}
        self._devices = 0
        self._validated_at = 0
        self._saved_s = time.monotonic()

    def restore(self, state: State, module: LocalPrediction) -> None:
        """Bring a new module to where a state was written.

        Raises:
            LpxError: The state does not fit the model.
        """
        try:
            module.detector.load_state_dict(state.detector)
            if state.progress.best_auc is not None:
                module.average.load_state_dict(state.progress.best)
            elif state.progress.finished(self.recipe.steps):
                raise ValueError("it is finished, and has no best weights")
            module.average.load_state_dict(state.average)
            if not state.optimiser:
                raise ValueError("it holds no optimiser")
            module.optimiser_state, module.step = state.optimiser, state.progress.step
            module.configure_optimizers()
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise LpxError(
                f"the state in {self.store.folder} does not fit the model",
                str(error).strip().splitlines()[0],
                "begin the training again with --restart",
            ) from error
        self.progress, self._precision = state.progress, state.precision
        self._devices = state.devices
        self._validated_at = state.progress.step if state.progress.validated else -1

    def check_devices(self, count: int) -> None:
        """Refuse to go on with another number of devices than before.

        Raises:
            LpxError: It differs.
        """
        if self._devices not in (0, count):
            raise LpxError(
                f"{self.store.folder} holds a training on {self._devices} devices, not {count}",
                "each device takes its own pairs: the result would be another",
                f"use --devices {self._devices}, another --out, or --restart",
            )
        self._devices = count

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Go on with the loss scale of mixed precision, and hear signals."""
        if self._precision:
            trainer.precision_plugin.load_state_dict(self._precision)
        interrupts.take_back()
        self._saved_s = time.monotonic()

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Hear signals."""
        interrupts.take_back()

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write the state if it is time, or if a signal has come."""
        if time.monotonic() - self._saved_s >= SAVE_EVERY_S:
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
        """End if a signal has come: the validation is begun again by the next run."""
        self._end_if_asked(trainer, pl_module)

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Keep the average if it is the best so far; end a training that does not improve."""
        assert isinstance(pl_module, LocalPrediction)
        progress = self.progress
        self._validated_at = pl_module.step
        better = progress.best_auc is None or pl_module.val_auc > progress.best_auc
        if better:
            progress.best_auc, progress.waited = pl_module.val_auc, 0
            progress.best = {
                name: value.detach().cpu().clone()
                for name, value in pl_module.average.state_dict().items()
            }
        else:
            progress.waited += 1
        progress.stopped = bool(self.recipe.patience) and progress.waited >= self.recipe.patience
        self._save(trainer, pl_module, best=better)
        # Devices that round differently must not part here.
        if trainer.strategy.reduce_boolean_decision(progress.stopped, all=False):
            trainer.should_stop = True
        self._end_if_asked(trainer, pl_module)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Write the state where a signal ended a worker process before it was seen here."""
        assert isinstance(pl_module, LocalPrediction)
        asked = interrupts.received() and not isinstance(exception, (Interrupted, LpxError))
        if asked and not pl_module.within_step:
            self._save(trainer, pl_module)

    def _end_if_asked(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if interrupts.received():
            step = self._save(trainer, module)
            if trainer.is_global_zero and trainer.strategy.launcher is not None:
                # The others would say that they lost the connection to this one.
                trainer.strategy.launcher.kill(signal.SIGKILL)
            interrupts.check(f"step {step} of {self.recipe.steps} is kept in {self.store.folder}")

    def _save(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        *,
        best: bool = False,
    ) -> int:
        """Write the state; returns its step."""
        assert isinstance(module, LocalPrediction)
        progress, step = self.progress, module.step
        ends_epoch = step % self.recipe.steps_per_epoch == 0 or step >= self.recipe.steps
        progress.step = step
        progress.validated = not ends_epoch or step == self._validated_at
        if not trainer.is_global_zero:
            return step
        # Without training, for a validation alone, there is no optimiser yet.
        optimiser = (
            trainer.optimizers[0].state_dict() if trainer.optimizers else module.optimiser_state
        )
        state = State(
            recipe=self.recipe.to_dict(),
            data=self.data,
            devices=self._devices,
            progress=progress,
            detector=module.detector.state_dict(),
            average=module.average.state_dict(),
            optimiser=optimiser,
            precision=(
                trainer.precision_plugin.state_dict() if trainer.optimizers else self._precision
            ),
        )
        if best:
            self.store.write_best(state)
        self.store.write(state)
        self._saved_s = time.monotonic()
        return step
