"""Measure how well a patch map locates forgeries, and how similar the regions of a face are."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lpx.card import ModelCard
from lpx.data.images.decode import Image, read_image
from lpx.data.pseudo_fakes.landmarked import LandmarkedFace
from lpx.data.pseudo_fakes.pairs import PairSource
from lpx.metrics import auc
from lpx.models.detector import LocalPredictionDetector
from lpx.training.loader import normalised
from lpx.training.local_diversity import LocalDiversity, above_diagonal, similarity

BATCH = 16
# Scores closer to 0 or 1 have logits that are dominated by rounding, or infinite.
_NEARLY = 1e-6


@dataclass(frozen=True)
class Localisation:
    """Pixel AUC of a map against masks: 0.5 is chance, 1 orders all pixels correctly.

    Attributes:
        raw: AUC of the map's logits.
        over_real: AUC of the map's logits minus their mean over real faces, unit by unit. Training
            on image labels does not determine the constant of a unit: if no face ever shows
            evidence there, as in a plain background, only the change of its score means something.
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
    """Compute the AUC of upsampled maps against masks pixel by pixel, averaged over pseudo-fakes.

    Args:
        detector: Normalised faces float32 [B, 3, S, S] -> (score [B], patch_map [B, h, w]).
        card: Its card.
        faces: Landmarked faces of at least two identities.
        kind: "alpha" or "poisson": swaps, whose mask covers the face.
        count: Pseudo-fakes to make, not augmented.
        seed: Random seed of the pseudo-fakes.
    """
    source = PairSource(faces, (kind,), seed)
    real_maps = []
    for first in range(0, len(faces), BATCH):
        images = [read_image(face.path) for face in faces[first : first + BATCH]]
        real_maps.append(_logits(detector, images, card))
    real = np.concatenate(real_maps).mean(axis=0)
    raw: list[float] = []
    over_real: list[float] = []
    for first in range(0, count, BATCH):
        forgeries = [source.forgery(n) for n in range(first, min(count, first + BATCH))]
        maps = _logits(detector, [f.image for f in forgeries], card)
        for forgery, patch_map in zip(forgeries, maps, strict=True):
            # Masks are soft at their edges.
            inside = forgery.mask > 0.5
            raw.append(_pixel_auc(inside, patch_map))
            over_real.append(_pixel_auc(inside, patch_map - real))
    return Localisation(float(np.mean(raw)), float(np.mean(over_real)))


def _logits(detector: nn.Module, images: list[Image], card: ModelCard) -> NDArray[np.float32]:
    """Return patch maps as logits, float32 [B, h, w]."""
    _, maps = detector(normalised(images, card))
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
    """Compute the mean cosine between a face's regions, over real faces and self-blended ones.

    Args:
        detector: The detector, in eval mode.
        card: Its card.
        faces: Landmarked faces.
        diversity: Settings by which regions are made and compared.
        count: Pairs of real and fake, not augmented.
        seed: Random seed of the pseudo-fakes.
    """
    # Self-blended images: the only kind that needs a single identity.
    source = PairSource(faces, ("sbi",), seed)
    values: list[float] = []
    for first in range(0, count, BATCH):
        numbers = range(first, min(count, first + BATCH))
        images = [read_image(source.face(n).path) for n in numbers]
        images += [source.forgery(n).image for n in numbers]
        features = detector.head.features(detector.backbone(normalised(images, card)))
        matrices = similarity(diversity.regions(features, detector.head.classifier.weight))
        values += above_diagonal(matrices).mean(dim=1).tolist()
    return float(np.mean(values))
