"""The Lightning module: image-level supervision, local diversity, an average of the weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from lpx.card import ModelCard
from lpx.data.pseudo_fakes.training_pairs import TrainingData
from lpx.errors import LpxError
from lpx.metrics import auc
from lpx.models.aggregates import aggregate
from lpx.models.detector import LocalPredictionDetector
from lpx.training.loader import Pair, PairDataset, loader, opened
from lpx.training.operating_point import score_loss
from lpx.training.recipe import Recipe

# Steps over which the learning rate rises to its full value.
WARM_UP_STEPS = 50
# The head starts from random weights, the backbone usually from trained ones.
HEAD_FACTOR = 3.0


class LocalPrediction(lightning.LightningModule):
    """Trains `detector`; validates and keeps `average`, the moving average of its weights.

    Every step sets torch's seed from the recipe's seed and its own number, and pairs are numbered
    through the whole training. A step's result therefore depends on nothing but the state that it
    starts from, and a training that was killed and resumed ends like one that was not. Steps are
    counted here because Lightning begins at 0 whenever it is started.

    Args:
        detector: The detector to train; moved to the channels-last layout.
        card: Its card.
        recipe: Settings of the training.
        data: Faces to train and validate on.
        workers: Processes that make images.

    Attributes:
        step: Optimiser steps done.
        within_step: Whether a step is under way, and the weights are between two states.
        val_auc: AUC of the last validation; NaN before the first.
        optimiser_state: State dict that the optimiser begins with; empty for a new one.
    """

    def __init__(
        self,
        detector: LocalPredictionDetector,
        card: ModelCard,
        recipe: Recipe,
        data: TrainingData,
        workers: int,
    ) -> None:
        super().__init__()
        # Depthwise convolutions run twice as fast on a CPU in this layout.
        self.detector = detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.detector).eval().requires_grad_(False)
        self.card, self.recipe, self.data, self.workers = card, recipe, data, workers
        self.validated: list[Pair] = []
        self.step, self.within_step = 0, False
        self.val_auc = math.nan
        self.optimiser_state: dict[str, Any] = {}

    def train_dataloader(self) -> DataLoader[Pair | LpxError]:
        """Return the pairs from the current step to the end of its epoch.

        Several devices share the pairs of a step: each takes `recipe.pairs`.
        """
        recipe = self.recipe
        epoch = self.step // recipe.steps_per_epoch
        # PyTorch's own sampler would begin with the first pair at every start.
        batches = []
        for step in range(self.step, min((epoch + 1) * recipe.steps_per_epoch, recipe.steps)):
            turn = step * self.trainer.world_size + self.trainer.global_rank
            batches.append(list(range(turn * recipe.pairs, (turn + 1) * recipe.pairs)))
        dataset = PairDataset(self.data.train, self.card, recipe.steps * recipe.pairs)
        return loader(dataset, self.workers, batches=batches)

    def val_dataloader(self) -> DataLoader[Pair | LpxError]:
        """Return the validation pairs, the same every time and on every device."""
        dataset = PairDataset(self.data.val, self.card, self.recipe.validation_pairs)
        return loader(dataset, self.workers, batch_size=self.recipe.pairs)

    def on_train_epoch_start(self) -> None:
        """Put the average back into eval mode: Lightning puts everything into training mode."""
        self.average.eval()

    def on_train_batch_start(self, *_: Any) -> None:
        """Seed dropout by the step and the device, so that a resumed step drops the same."""
        self.within_step = True
        # SeedSequence mixes the numbers: seeds such as seed + step would repeat between trainings.
        entropy = (self.recipe.seed, self.step, self.trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))

    def training_step(self, batch: Pair | LpxError, index: int) -> Tensor:
        """Return the loss of a batch of pairs.

        Raises:
            LpxError: An image cannot be read, or the loss is not finite.
        """
        images, labels = opened(batch)
        images = images.contiguous(memory_format=torch.channels_last)
        features = self.detector.head.features(self.detector.backbone(images))
        classifier = self.detector.head.classifier
        # The features are needed, too: the detector's own `forward` returns scores only.
        logits = classifier(features).squeeze(1)
        loss = self._supervise(logits, labels)
        self._log_place()
        # Without the local-diversity loss, so that trainings with other weights can be compared.
        self.log("loss", loss, prog_bar=True)
        diversity = self.recipe.diversity
        if diversity.weight:
            apart = diversity(features, labels, classifier.weight)
            self.log("similarity", apart)
            loss = loss + diversity.factor(self.step / self.recipe.steps) * apart
        # Before the optimiser's step, which would make every weight NaN.
        if not torch.isfinite(loss):
            raise LpxError(
                f"the loss is {loss.item()} at step {self.step}",
                "training diverged; the last good checkpoint is kept",
                "lower `learning_rate`, or start from pretrained `weights`",
            )
        return loss

    def _supervise(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.recipe.supervision == "direct":
            spread = labels[:, None, None].expand_as(logits)
            return F.binary_cross_entropy_with_logits(logits.float(), spread)
        detector = self.detector
        return score_loss(
            aggregate(detector.aggregate, logits, detector.aggregate_parameter), labels
        )

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the average towards the weights; the step is done."""
        step = self.step + 1
        # The decay grows with the step, so that the average forgets the start quickly.
        update(self.average, self.detector, min(self.recipe.ema, (1 + step) / (10 + step)))
        self.step, self.within_step = step, False

    def _log_place(self) -> None:
        """Log this training's own step and epoch: Lightning's begin at 0 after a resume."""
        epoch = max(0, self.step - (not self.within_step)) // self.recipe.steps_per_epoch
        self.log_dict({"step": float(self.step), "epoch": float(epoch)})

    def on_validation_epoch_start(self) -> None:
        """Discard the scores of a validation that was interrupted."""
        self.validated.clear()

    def validation_step(self, batch: Pair | LpxError, index: int) -> None:
        """Score a batch with the average.

        Raises:
            LpxError: An image cannot be read.
        """
        images, labels = opened(batch)
        score, _ = self.average(images)
        self.validated.append((score.float().cpu(), labels.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Compute the AUC of the average on the validation split."""
        scores = torch.cat([score for score, _ in self.validated])
        labels = torch.cat([label for _, label in self.validated])
        self.validated.clear()
        self.val_auc = float(auc(labels.numpy().astype(np.int64), scores.numpy()))
        self._log_place()
        self.log("val_auc", self.val_auc, prog_bar=True)
        self.log("val_loss", score_loss(scores, labels))

    def configure_optimizers(self) -> Any:
        """Return AdamW with a short warm-up and a cosine schedule to zero, per step."""
        recipe = self.recipe
        groups = [
            {"params": self.detector.backbone.parameters(), "lr": recipe.learning_rate},
            {"params": self.detector.head.parameters(), "lr": HEAD_FACTOR * recipe.learning_rate},
        ]
        optimiser = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
        if self.optimiser_state:
            optimiser.load_state_dict(self.optimiser_state)
        else:
            for group in optimiser.param_groups:
                group["initial_lr"] = group["lr"]
        # The scheduler takes a step when it is made.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._rate, self.step - 1)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _rate(self, step: int) -> float:
        """Return the factor of the learning rate at a step, in [0, 1]."""
        rising = min(1.0, (step + 1) / min(WARM_UP_STEPS, self.recipe.steps))
        return rising * 0.5 * (1 + math.cos(math.pi * step / self.recipe.steps))


@torch.no_grad()
def update(average: torch.nn.Module, current: torch.nn.Module, decay: float) -> None:
    """Set average to decay * average + (1 - decay) * current, buffers too; copy integers."""
    pairs = zip(average.state_dict().values(), current.state_dict().values(), strict=True)
    for slow, fast in pairs:
        # Integers are the counts of batch norms, which have no meaningful average.
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - decay)
        else:
            slow.copy_(fast)
