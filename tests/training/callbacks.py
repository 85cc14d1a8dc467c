"""Callbacks that stop, poison or watch a training."""

from __future__ import annotations

from lightning.pytorch.callbacks import Callback

from lpx.training.run import RunOptions


def quiet(*callbacks, **options):
    """Options of a run in this process."""
    return RunOptions(**{"workers": 0, **options, "callbacks": callbacks})


class At(Callback):
    """Calls `act(batch)` before a step, or before the validation after it.

    Args:
        step: The step; None for every one.
        act: What to do.
        validation: Act before the batches of the validation instead.
    """

    def __init__(self, step, act, *, validation=False):
        self.step, self.act, self.validation = step, act, validation

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if not self.validation and self.step in (None, module.step):
            self.act(batch)

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        if self.validation and self.step in (None, module.step):
            self.act(batch)


class Steps(Callback):
    """Records the steps that are done."""

    def __init__(self):
        self.steps = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.steps.append(module.step)
