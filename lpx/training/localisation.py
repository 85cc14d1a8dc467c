"""Whether a patch map finds what was forged, and whether regions show different patterns."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lpx.card import ModelCard
from lpx.data.images.decode import Image, fit, read_image
from lpx.data.pseudo_fakes.landmarked import LandmarkedFace
from lpx.data.pseudo_fakes.pairs import PairSource
from lpx.metrics import auc
from lpx.models.detector import LocalPredictionDetector
from lpx.training.local_diversity import LocalDiversity, similarity

BATCH = 16
_NEARLY = 1e-6
"""Scores this near to 0 and 1 have no finite logit of use."""


@dataclass(frozen=True)
class Localisation:
    """Pixel AUC against masks: 0.5 knows nothing of them, 1 orders all pixels rightly.

    Attributes:
        raw: Of the patch map as it is (its logit, as for the other).
        over_real: Of the map's logit less its mean over real faces, unit by unit. Training on
            image labels leaves a unit's constant open: where no face ever shows evidence, a plain
            background say, its score means nothing, and what it means is the change.
    """

    raw: float
    over_real: float


@torch.no_grad()
def localise(
    detector: nn.Module,
    card: ModelCard,
    faces: tuple[LandmarkedFace, ...],
    kind: str,
    count: int,
    seed: int = 0,
) -> Localisation:
    """Mean over pseudo-fakes of the AUC of the upsampled map against the mask, pixel by pixel.

    Args:
        detector: Normalised faces float32 [B, 3, S, S] -> (score [B], patch_map [B, h, w]).
        card: Its card.
        faces: Landmarked faces of at least two identities.
        kind: "alpha" or "poisson": swaps, whose mask covers the face.
        count: Pseudo-fakes to make, not augmented.
        seed: Of the pseudo-fakes.
    """
    source = PairSource(faces, (kind,), seed)
    parts = [
        _logits(detector, [read_image(f.path) for f in faces[first : first + BATCH]], card)
        for first in range(0, len(faces), BATCH)
    ]
    real = np.concatenate(parts).mean(axis=0)
    raw: list[float] = []
    over_real: list[float] = []
    for first in range(0, count, BATCH):
        forgeries = [source.forgery(n) for n in range(first, min(count, first + BATCH))]
        maps = _logits(detector, [f.image for f in forgeries], card)
        for forgery, patch_map in zip(forgeries, maps, strict=True):
            inside = forgery.mask > 0.5
            raw.append(_pixel_auc(inside, patch_map))
            over_real.append(_pixel_auc(inside, patch_map - real))
    return Localisation(float(np.mean(raw)), float(np.mean(over_real)))


def _logits(detector: nn.Module, images: list[Image], card: ModelCard) -> NDArray[np.float32]:
    """Patch maps as log-odds, float32 [B, h, w]."""
    _, maps = detector(_normalised(images, card))
    return np.asarray(torch.logit(maps, eps=_NEARLY).numpy(), np.float32)


def _pixel_auc(inside: NDArray[np.bool_], patch_map: NDArray[np.float32]) -> float:
    height, width = inside.shape
    large = cv2.resize(patch_map, (width, height), interpolation=cv2.INTER_LINEAR)
    return auc(inside.ravel().astype(np.int64), np.asarray(large, np.float32).ravel())


@torch.no_grad()
def region_similarity(
    detector: LocalPredictionDetector,
    card: ModelCard,
    faces: tuple[LandmarkedFace, ...],
    diversity: LocalDiversity,
    count: int,
    seed: int = 0,
) -> float:
    """Mean cosine between a face's regions, over real faces and self-blended ones.

    Args:
        detector: In eval mode.
        card: Its card.
        faces: Landmarked faces.
        diversity: How regions are made and compared.
        count: Pairs of real and fake, not augmented.
        seed: Of the pseudo-fakes.
    """
    source = PairSource(faces, ("sbi",), seed)
    values: list[float] = []
    for first in range(0, count, BATCH):
        numbers = range(first, min(count, first + BATCH))
        images = [read_image(source.face(n).path) for n in numbers]
        images += [source.forgery(n).image for n in numbers]
        features = detector.head.features(detector.backbone(_normalised(images, card)))
        matrices = similarity(diversity.regions(features, detector.head.classifier.weight))
        regions = matrices.shape[1]
        rows, columns = torch.triu_indices(regions, regions, offset=1)
        values += matrices[:, rows, columns].mean(dim=1).tolist()
    return float(np.mean(values))


def _normalised(images: list[Image], card: ModelCard) -> torch.Tensor:
    """Crops, as the network wants them: float32 [B, 3, S, S]."""
    offset, scale = card.normalisation()
    pixels = np.stack([fit(image, card.input_size) for image in images]).astype(np.float32)
    batch = ((pixels - offset) * scale).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(batch))
