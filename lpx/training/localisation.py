"""Whether a patch map finds what was forged, though training never saw a mask."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import nn

from lpx.card import ModelCard
from lpx.data.decode import fit
from lpx.data.landmarked import LandmarkedFace
from lpx.data.pairs import PairSource
from lpx.metrics import auc

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
    offset, scale = card.normalisation()
    values: list[float] = []
    for first in range(0, count, BATCH):
        forgeries = [source.forgery(n) for n in range(first, min(count, first + BATCH))]
        pixels = np.stack([fit(f.image, card.input_size) for f in forgeries]).astype(np.float32)
        batch = ((pixels - offset) * scale).transpose(0, 3, 1, 2)
        _, maps = detector(torch.from_numpy(np.ascontiguousarray(batch)))
        for forgery, patch_map in zip(forgeries, maps.numpy(), strict=True):
            side = forgery.mask.shape[0]
            large = cv2.resize(patch_map, (side, side), interpolation=cv2.INTER_LINEAR)
            inside = (forgery.mask > 0.5).astype(np.int64)
            values.append(auc(inside.ravel(), np.asarray(large, np.float32).ravel()))
    return float(np.mean(values))
