"""The deployed form of a detector, with preprocessing inside and uint8 pixels as input."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lpx.card import ModelCard


class Deployed(nn.Module):
    """Detector with preprocessing; in float32 it is the reference for every engine.

    Input: faces, uint8 RGB [N, H, W, 3]. Outputs: score, float32 [N], and patch_map, float32
    [N, h, w].
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, detector: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.detector = detector
        self.reverse = card.channel_order == "BGR"
        offset, scale = card.normalisation()
        # Buffers rather than constants: they move with the module to float64 and to another device.
        self.register_buffer("offset", _per_channel(offset))
        self.register_buffer("scale", _per_channel(scale))

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Score faces, uint8 RGB [N, H, W, 3]."""
        score, patch_map = self.detector(self.normalised(faces))
        return score, patch_map

    def normalised(self, faces: Tensor) -> Tensor:
        """Return the network's input, float32 [N, 3, H, W], for faces, uint8 RGB [N, H, W, 3]."""
        # The cast comes first: TensorRT does not compute with a uint8 input in any other layer.
        pixels = faces.to(torch.float32).permute(0, 3, 1, 2)
        if self.reverse:
            # Slices joined again rather than an index with a list, which exports as a GatherND.
            pixels = torch.cat([pixels[:, 2:3], pixels[:, 1:2], pixels[:, 0:1]], dim=1)
        # Subtract, then scale, in this order, as folding both into one would round differently.
        return (pixels - self.offset) * self.scale


def _per_channel(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).reshape(1, 3, 1, 1)
