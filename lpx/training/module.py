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
from torch.utils.data import DataLoader, Dataset

from lpx.card import ModelCard
from lpx.data.images.decode import fit
from lpx.data.pseudo_fakes.training_pairs import Pairs, TrainingData
from lpx.errors import LpxError
from lpx.interrupts import follow_parent
from lpx.metrics import auc
from lpx.models.aggregates import aggregate
from lpx.models.detector import LocalPredictionDetector
from lpx.training.operating_point import score_loss
from lpx.training.recipe import Recipe

WARM_UP_STEPS = 50
HEAD_FACTOR = 3.0


class PairDataset(Dataset[tuple[Tensor, Tensor]]):
    """Pair number -> (normalised float32 [2, 3, S, S], labels [2]); real first."""

    def __init__(self, pairs: Pairs, card: ModelCard, length: int) -> None:
        self.pairs, self.length = pairs, length
        self.size = card.input_size
        self.offset, self.scale = card.normalisation()

    def __len__(self) -> int:
        """Number of pairs."""
        return self.length

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Make a pair."""
        images = [self.pairs.real(number), self.pairs.fake(number)]
        pixels = np.stack([fit(image, self.size) for image in images]).astype(np.float32)
        faces = ((pixels - self.offset) * self.scale).transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(faces)), torch.tensor([0.0, 1.0])


def loader(
    pairs: Pairs, card: ModelCard, recipe: Recipe, count: int, workers: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """The first `count` pairs, in their order.

    Args:
        pairs: Where from.
        card: How faces are normalised.
        recipe: How many pairs come at once.
        count: How many in all.
        workers: Processes that make them.
    """
    dataset = PairDataset(pairs, card, count)
    return DataLoader(dataset, recipe.pairs, num_workers=workers, worker_init_fn=follow_parent)


class LocalPrediction(lightning.LightningModule):
    """Trains `detector`; validates and keeps `average`, the moving average of its weights.

    Every step sets torch's seed from the recipe's and its own number, and pairs are numbered
    through the whole training: so a step's result depends on the state it starts from and nothing
    else, and a training that was killed and resumed ends like one that was not. Steps are counted
    here: Lightning begins at 0 whenever it is started.

    Attributes:
        step: Optimiser steps done.
        within_step: Whether one is under way, and the weights are between two states.
        val_auc: AUC of the last validation.
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
        self.validated: list[tuple[Tensor, Tensor]] = []
        self.step, self.within_step = 0, False
        self.val_auc = math.nan
        self.optimiser_state: dict[str, Any] = {}

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """The pairs from the current step to the end of its epoch.

        Several devices share a step's pairs out among themselves: each takes `recipe.pairs`.
        """
        recipe = self.recipe
        epoch = self.step // recipe.steps_per_epoch
        steps = range(self.step, min((epoch + 1) * recipe.steps_per_epoch, recipe.steps))
        turns = (step * self.trainer.world_size + self.trainer.global_rank for step in steps)
        return DataLoader(
            PairDataset(self.data.train, self.card, recipe.steps * recipe.pairs),
            batch_sampler=[list(range(n * recipe.pairs, (n + 1) * recipe.pairs)) for n in turns],
            num_workers=self.workers,
            worker_init_fn=follow_parent,
        )

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """The validation pairs, the same every time and on every device."""
        return loader(
            self.data.val, self.card, self.recipe, self.recipe.validation_pairs, self.workers
        )

    def on_train_epoch_start(self) -> None:
        """Leave the average as it is: Lightning puts everything into training mode."""
        self.average.eval()

    def on_train_batch_start(self, *_: Any) -> None:
        """Make dropout a function of the step, and of the device."""
        self.within_step = True
        entropy = (self.recipe.seed, self.step, self.trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Loss of a batch of pairs."""
        images, labels = batch[0].flatten(0, 1), batch[1].flatten()
        images = images.contiguous(memory_format=torch.channels_last)
        features = self.detector.head.features(self.detector.backbone(images))
        classifier = self.detector.head.classifier
        logits = classifier(features).squeeze(1)
        loss = self._supervise(logits, labels)
        self._log_place()
        self.log("loss", loss, prog_bar=True)
        diversity = self.recipe.diversity
        if diversity.weight:
            apart = diversity(features, labels, classifier.weight)
            self.log("similarity", apart)
            loss = loss + diversity.factor(self.step / self.recipe.steps) * apart
        if not torch.isfinite(loss):
            raise LpxError(
                f"the loss is {loss.item()} at step {self.step}",
                "training diverged; the last good checkpoint is kept",
                "lower --lr, or start from pretrained --weights",
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
        """Give what is logged this training's own step and epoch."""
        epoch = max(0, self.step - (not self.within_step)) // self.recipe.steps_per_epoch
        self.log_dict({"step": float(self.step), "epoch": float(epoch)})

    def on_validation_epoch_start(self) -> None:
        """Forget a validation that was left halfway."""
        self.validated.clear()

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Score a batch with the average."""
        score, _ = self.average(batch[0].flatten(0, 1))
        self.validated.append((score.float().cpu(), batch[1].flatten().cpu()))

    def on_validation_epoch_end(self) -> None:
        """AUC of the average on the validation split."""
        scores, labels = (torch.cat(parts) for parts in zip(*self.validated, strict=True))
        self.validated.clear()
        self.val_auc = float(auc(labels.numpy().astype(np.int64), scores.numpy()))
        self._log_place()
        self.log("val_auc", self.val_auc, prog_bar=True)
        self.log("val_loss", score_loss(scores, labels))

    def configure_optimizers(self) -> Any:
        """AdamW with a short warm-up and a cosine to zero, per step."""
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
        # It begins with a step of its own.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._rate, self.step - 1)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _rate(self, step: int) -> float:
        rising = min(1.0, (step + 1) / min(WARM_UP_STEPS, self.recipe.steps))
        return rising * 0.5 * (1 + math.cos(math.pi * step / self.recipe.steps))


@torch.no_grad()
def update(average: torch.nn.Module, current: torch.nn.Module, decay: float) -> None:
    """Set average to decay * average + (1 - decay) * current, buffers too; copy integers."""
    pairs = zip(average.state_dict().values(), current.state_dict().values(), strict=True)
    for slow, fast in pairs:
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - decay)
        else:
            slow.copy_(fast)
