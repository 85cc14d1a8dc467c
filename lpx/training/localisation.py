"""Whether a patch map finds what was forged, and whether regions show different patterns."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import nn

from lpx.card import ModelCard
from lpx.data.decode import Image, fit, read_image
from lpx.data.landmarked import LandmarkedFace
from lpx.data.pairs import PairSource
from lpx.metrics import auc
from lpx.models.detector import LocalPredictionDetector
from lpx.training.local_diversity import LocalDiversity, similarity

BATCH = 16


@torch.no_grad()
def pixel_auc(
    detector: nn.Module, card: ModelCard, faces: tuple[LandmarkedFace, ...], kind: str, count: int,
    seed: int = 0,
) -> float:  # fmt: skip
    """Mean over pseudo-fakes of the AUC of the upsampled map against the mask, pixel by pixel.

    Args:
        detector: Normalised faces float32 [B, 3, S, S] -> (score [B], patch_map [B, h, w]).
        card: Its card.
        faces: Landmarked faces of at least two identities.
        kind: "alpha" or "poisson": swaps, whose mask covers the face.
        count: Pseudo-fakes to make, not augmented.
        seed: Of the pseudo-fakes.

    Returns:
        0.5 for a map that knows nothing of the mask, 1 for one that orders all pixels rightly.
    """
    source = PairSource(faces, (kind,), seed)
    values: list[float] = []
    for first in range(0, count, BATCH):
        forgeries = [source.forgery(n) for n in range(first, min(count, first + BATCH))]
        _, maps = detector(_normalised([f.image for f in forgeries], card))
        for forgery, patch_map in zip(forgeries, maps.numpy(), strict=True):
            side = forgery.mask.shape[0]
            large = cv2.resize(patch_map, (side, side), interpolation=cv2.INTER_LINEAR)
            inside = (forgery.mask > 0.5).astype(np.int64)
            values.append(auc(inside.ravel(), np.asarray(large, np.float32).ravel()))
    return float(np.mean(values))


@torch.no_grad()
def region_similarity(
    detector: LocalPredictionDetector, card: ModelCard, faces: tuple[LandmarkedFace, ...],
    diversity: LocalDiversity, count: int, seed: int = 0,
) -> float:  # fmt: skip
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
