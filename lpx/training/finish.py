"""Turn a finished training into a checkpoint: calibrate, measure, save."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lpx.data.pseudo_fakes.blend import KINDS
from lpx.data.pseudo_fakes.pairs import PairSource
from lpx.errors import LpxError
from lpx.metrics import auc
from lpx.models.aggregates import aggregate
from lpx.models.checkpoint import load_checkpoint, save_checkpoint
from lpx.models.detector import LocalPredictionDetector
from lpx.models.state_dict import StateDict
from lpx.schema import SchemaError, read_record
from lpx.training.lightning_loop import dead_workers_named
from lpx.training.loader import Pair, PairDataset, loader, opened
from lpx.training.module import LocalPrediction
from lpx.training.operating_point import apply_temperature, choose_threshold, fit_temperature
from lpx.training.run import Run, TrainingResult
from lpx.workspace import read_json, sha256, write_json

RESULT = "result.json"


@dataclass(frozen=True)
class _StoredResult:
    """Content of `result.json`, which a finished training leaves in its run folder."""

    sha256: str
    crop: str
    data_name: str
    val_auc: float
    held_out_auc: dict[str, float]
    temperature: float


class _Logits(NamedTuple):
    """Unit logits float32 [N, h, w], and labels [N]."""

    logits: Tensor
    labels: Tensor

    def auc(self, scores: Tensor) -> float:
        return float(auc(self.labels.numpy().astype(np.int64), scores.numpy()))


def clear_result(run: Run) -> None:
    """Remove the result of an earlier training.

    Raises:
        OSError: The file cannot be removed.
    """
    (run.folder / RESULT).unlink(missing_ok=True)


def read_result(run: Run) -> TrainingResult | None:
    """Return the result of a finished training, None if its checkpoint is missing or another."""
    try:
        stored = read_record(_StoredResult, read_json(run.folder / RESULT, "lpx train"))
        # The crop rule and the data's name are in the card: others make another checkpoint.
        if (stored.crop, stored.data_name) != (run.crop, run.data_name):
            return None
        if stored.sha256 != sha256(run.out):
            return None
        card = load_checkpoint(run.out).card
    except (LpxError, SchemaError, OSError):
        # The checkpoint is made again from the training's state.
        return None
    return TrainingResult(
        run.out, card, stored.val_auc, stored.held_out_auc, stored.temperature, minutes=0.0
    )


def finish(best: StateDict, module: LocalPrediction, run: Run, minutes: float) -> TrainingResult:
    """Calibrate the best average on the validation split, measure it, and write the checkpoint.

    Args:
        best: Weights of the detector.
        module: The trained module, with its data and its card.
        run: The checkpoint to write, and what to write into the card.
        minutes: Wall time of the training.

    Raises:
        LpxError: A face cannot be read, or the checkpoint cannot be written.
    """
    detector = module.average.cpu()
    detector.load_state_dict(best)
    detector.eval()
    recipe = module.recipe
    # Temperature and threshold are fitted on validation faces: held-out faces only measure.
    validation = _logits(detector, module.val_dataloader())
    temperature = fit_temperature(detector, validation.logits, validation.labels)
    apply_temperature(detector, temperature)
    scores = aggregate(
        detector.aggregate, validation.logits / temperature, detector.aggregate_parameter
    )
    validation_auc = validation.auc(scores)
    held_out_auc = _held_out_auc(detector, module)
    # Python keeps the order of the keys, and the checkpoint's bytes depend on it.
    provenance: dict[str, Any] = {
        "data": run.data_name,
        "counts": module.data.description,
        "recipe": recipe.to_dict(),
    }
    if run.command:
        provenance["command"] = run.command
    provenance |= {
        "initial_weights": "random" if run.weights is None else run.weights.name,
        "validation_auc": round(validation_auc, 4),
        "held_out_auc": held_out_auc,
        "temperature": round(temperature, 4),
    }
    card = replace(
        module.card,
        crop=run.crop,
        threshold=choose_threshold(scores, validation.labels, recipe.fpr),
        threshold_source=f"false-positive rate {recipe.fpr:g} on validation faces",
        provenance=provenance,
    )
    card = save_checkpoint(run.out, detector, card)
    # After the checkpoint: a result without one would say that the training is finished.
    stored = _StoredResult(
        sha256(run.out), run.crop, run.data_name, validation_auc, held_out_auc, temperature
    )
    write_json(run.folder / RESULT, asdict(stored))
    return TrainingResult(run.out, card, validation_auc, held_out_auc, temperature, minutes)


@torch.no_grad()
def _logits(detector: LocalPredictionDetector, batches: DataLoader[Pair | LpxError]) -> _Logits:
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    with dead_workers_named():
        for batch in batches:
            images, batch_labels = opened(batch)
            logits.append(detector.logits(images))
            labels.append(batch_labels)
    return _Logits(torch.cat(logits), torch.cat(labels))


def _held_out_auc(detector: LocalPredictionDetector, module: LocalPrediction) -> dict[str, float]:
    """Return the AUC per kind of pseudo-fake on held-out identities; empty without any."""
    recipe, faces = module.recipe, module.data.held_out
    if len({face.identity for face in faces}) < 2:
        # Swaps need two people.
        return {}
    values: dict[str, float] = {}
    for kind in KINDS:
        # The training pairs have the recipe's seed, those for validation the next one.
        pairs = PairSource(faces, (kind,), recipe.seed + 2)
        dataset = PairDataset(pairs, module.card, recipe.held_out_pairs)
        held_out = _logits(detector, loader(dataset, module.workers, batch_size=recipe.pairs))
        scores = aggregate(detector.aggregate, held_out.logits, detector.aggregate_parameter)
        values[kind] = round(held_out.auc(scores), 4)
    return values
