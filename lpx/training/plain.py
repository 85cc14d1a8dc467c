"""Plain training of a local-prediction detector on real faces and pseudo-fakes made from them.

Image labels only: binary cross-entropy of the aggregated score. This is what made the checkpoint
that ships with lpx; run `python -m lpx.training.plain --help`.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lpx.card import ModelCard
from lpx.data.decode import fit
from lpx.data.landmarked import LandmarkedFace, load_landmarked, split_identities
from lpx.data.pairs import PairSource
from lpx.errors import LpxError
from lpx.metrics import auc, threshold_at_fpr
from lpx.models.checkpoint import save_checkpoint
from lpx.models.detector import LocalPredictionDetector, new_detector
from lpx.models.state_dict import load_backbone_weights

EMA_DECAY = 0.998
SHARES = (0.6, 0.1, 0.3)
"""Shares of identities that train, choose the threshold, and are held out."""


@dataclass(frozen=True)
class Recipe:
    """What is trained, on what, for how long."""

    backbone: str
    cut: str
    bottleneck: int
    aggregate: str
    input_size: int
    kinds: tuple[str, ...]
    steps: int
    pairs_per_step: int
    learning_rate: float
    seed: int


class PairDataset(Dataset[tuple[Tensor, Tensor]]):
    """Pair number -> (normalised float32 [2, 3, S, S], labels [2]); real first."""

    def __init__(self, source: PairSource, card: ModelCard, length: int, first: int = 0) -> None:
        self.source, self.length, self.first = source, length, first
        self.size = card.input_size
        offset, scale = card.normalisation()
        self.offset, self.scale = offset, scale

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        number = self.first + index
        images = [self.source.real(number), self.source.fake(number)]
        pixels = np.stack([fit(image, self.size) for image in images]).astype(np.float32)
        faces = ((pixels - self.offset) * self.scale).transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(faces)), torch.tensor([0.0, 1.0])


def score_loss(score: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of aggregated scores, clamped to [1e-6, 1 - 1e-6], in float32."""
    return F.binary_cross_entropy(score.float().clamp(1e-6, 1 - 1e-6), label)


def train(
    recipe: Recipe, faces: tuple[LandmarkedFace, ...], weights: Path | None, workers: int
) -> tuple[LocalPredictionDetector, ModelCard]:
    """Train and return the averaged weights, in eval mode, with a card.

    Args:
        recipe: What to train.
        faces: Landmarked faces of the training identities.
        weights: State dict of the whole backbone to start from; None trains from scratch.
        workers: Processes that make images.

    Raises:
        LpxError: The loss became NaN (the step is named); weights that do not fit.
    """
    torch.manual_seed(recipe.seed)
    detector, card = new_detector(
        recipe.backbone, recipe.cut, input_size=recipe.input_size,
        aggregate_name=recipe.aggregate, bottleneck=recipe.bottleneck,
    )  # fmt: skip
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        load_backbone_weights(detector.backbone, state, str(weights))
    source = PairSource(faces, recipe.kinds, recipe.seed)
    batches = _batches(source, card, recipe, workers)
    # Depthwise convolutions run twice as fast on a CPU in this layout.
    detector = detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(detector).eval()
    optimiser = torch.optim.AdamW(_groups(detector, recipe.learning_rate), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: _cosine(step, recipe.steps)
    )
    detector.train()
    started = time.perf_counter()
    for step, (images, labels) in enumerate(batches):
        score, _ = detector(images.flatten(0, 1).to(memory_format=torch.channels_last))
        loss = score_loss(score, labels.flatten())
        if not torch.isfinite(loss):
            raise LpxError(
                f"the loss is {loss.item()} at step {step}", "training diverged", "lower --lr"
            )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        _update_average(average, detector, step)
        if step % 50 == 0:
            elapsed = time.perf_counter() - started
            click.echo(f"step {step} loss {loss.item():.4f} {elapsed:.0f} s", err=True)
    return average, card


def _batches(
    source: PairSource, card: ModelCard, recipe: Recipe, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    dataset = PairDataset(source, card, recipe.steps * recipe.pairs_per_step)
    return iter(DataLoader(dataset, recipe.pairs_per_step, num_workers=workers, drop_last=True))


def _groups(detector: LocalPredictionDetector, learning_rate: float) -> list[dict[str, object]]:
    # A pretrained backbone moves slower than the head, which starts from nothing.
    return [
        {"params": list(detector.backbone.parameters()), "lr": learning_rate},
        {"params": list(detector.head.parameters()), "lr": 3 * learning_rate},
    ]


def _cosine(step: int, steps: int, warmup: int = 50) -> float:
    rising = min(1.0, (step + 1) / warmup)
    return rising * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def _update_average(average: nn.Module, detector: nn.Module, step: int) -> None:
    # The decay grows with the step, so that the average forgets the start quickly.
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    for slow, fast in zip(
        average.state_dict().values(), detector.state_dict().values(), strict=True
    ):
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - decay)
        else:
            slow.copy_(fast)


@torch.no_grad()
def evaluate(
    detector: nn.Module, card: ModelCard, source: PairSource, pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels [2 * pairs] and scores float32 [2 * pairs] of freshly made pairs."""
    dataset = PairDataset(source, card, pairs)
    labels, scores = [], []
    for images, label in DataLoader(dataset, 16):
        score, _ = detector(images.flatten(0, 1))
        labels.append(label.flatten().numpy())
        scores.append(score.numpy())
    return np.concatenate(labels).astype(np.int64), np.concatenate(scores)


def _report(
    detector: nn.Module, card: ModelCard, recipe: Recipe,
    splits: dict[str, tuple[LandmarkedFace, ...]], fpr: float,
) -> tuple[ModelCard, dict[str, float]]:  # fmt: skip
    """Choose the threshold on validation identities, measure AUC per kind on held-out ones."""
    labels, scores = evaluate(detector, card, PairSource(splits["val"], recipe.kinds, 1), 300)
    threshold = float(threshold_at_fpr(labels, scores, fpr))
    measured = {}
    for kind in ("sbi", "alpha", "poisson"):
        source = PairSource(splits["test"], (kind,), 2)
        measured[kind] = round(float(auc(*evaluate(detector, card, source, 500))), 4)
    how = f"false-positive rate {fpr:g} on validation identities"
    return replace(card, threshold=threshold, threshold_source=how), measured


@click.command(context_settings={"show_default": True})
@click.option("--faces", type=click.Path(path_type=Path), required=True,
              help="Folder with faces.csv and landmarks.npz.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint to write.")
@click.option("--weights", type=click.Path(path_type=Path), help="Backbone weights to start from.")
@click.option("--backbone", default="tf_efficientnet_lite0")
@click.option("--cut", default="stage3")
@click.option("--bottleneck", default=128)
@click.option("--aggregate", default="mean_prob")
@click.option("--input-size", default=160)
@click.option("--pseudo-fakes", default="sbi,alpha", help="Kinds to train on, by commas.")
@click.option("--steps", default=1500)
@click.option("--pairs", default=12, help="Pairs of real and fake per step.")
@click.option("--lr", default=5e-4)
@click.option("--seed", default=0)
@click.option("--workers", default=1)
@click.option("--fpr", default=0.1, help="False-positive rate at which the threshold is set.")
@click.option("--crop", default="square-1.75-landmarks", help="Crop rule of the faces.")
@click.option("--data-name", default="", help="Name and licence of the faces, for the card.")
def main(
    faces: Path, out: Path, weights: Path | None, backbone: str, cut: str, bottleneck: int,
    aggregate: str, input_size: int, pseudo_fakes: str, steps: int, pairs: int, lr: float,
    seed: int, workers: int, fpr: float, crop: str, data_name: str,
) -> None:  # fmt: skip
    """Train a detector on pseudo-fakes of FACES and write a checkpoint with its card."""
    recipe = Recipe(backbone, cut, bottleneck, aggregate, input_size,
                    tuple(pseudo_fakes.split(",")), steps, pairs, lr, seed)  # fmt: skip
    splits = split_identities(load_landmarked(faces), SHARES, seed)
    started = time.perf_counter()
    detector, card = train(recipe, splits["train"], weights, workers)
    minutes = (time.perf_counter() - started) / 60
    card, measured = _report(detector, card, recipe, splits, fpr)
    command = (
        f"python -m lpx.training.plain --faces FACES --weights WEIGHTS --backbone {backbone} "
        f"--cut {cut} --bottleneck {bottleneck} --aggregate {aggregate} --input-size {input_size} "
        f"--pseudo-fakes {pseudo_fakes} --steps {steps} --pairs {pairs} --lr {lr} --seed {seed}"
    )
    provenance = {
        "data": data_name,
        "command": command,
        "initial_weights": weights.name if weights else "random",
        "identities": {k: len({f.identity for f in v}) for k, v in splits.items()},
        "held_out_auc": measured,
        "trained_on": list(recipe.kinds),
        "minutes": round(minutes, 1),
    }
    card = save_checkpoint(out, detector, replace(card, crop=crop, provenance=provenance))
    click.echo(f"{out}: held-out AUC {measured}, threshold {card.threshold:.3f}, {minutes:.1f} min")


if __name__ == "__main__":
    main()
