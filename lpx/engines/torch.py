"""The reference: the detector in PyTorch, in float32."""

from __future__ import annotations

import numpy as np
import torch

from lpx.engines.base import ON_THE_CPU, DeviceMemory, Engine, Faces, Prediction
from lpx.export.deployed import Deployed
from lpx.models.checkpoint import Detector
from lpx.models.footprint import check_forward


class TorchEngine(Engine):
    """Run a detector in float32 (no TF32), on the GPU if PyTorch sees one.

    Not thread-safe.

    Args:
        detector: The detector and its card.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__(detector.card.input_size, detector.card)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # TF32 has 10 bits of mantissa, too few for a reference.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        self._fit = 0  # faces that are known to fit into memory
        self.module = Deployed(detector.module, detector.card).eval().to(self.device)

    def _device_memory(self) -> DeviceMemory:
        # Activations are not counted, as their memory is a cache that all of PyTorch shares.
        if self.device.type == "cpu":
            return ON_THE_CPU
        tensors = (*self.module.parameters(), *self.module.buffers())
        return DeviceMemory(
            sum(t.numel() * t.element_size() for t in tensors), "weights only, not activations"
        )

    def _infer(self, faces: Faces) -> Prediction:
        if self.device.type == "cpu" and len(faces) > self._fit:
            check_forward(self.module.detector, (len(faces), 3, self.size, self.size))
            self._fit = len(faces)
        with torch.inference_mode():
            score, patch_map = self.module(
                torch.from_numpy(np.ascontiguousarray(faces)).to(self.device)
            )
        return Prediction(score.cpu().numpy(), patch_map.cpu().numpy())

    def _release(self) -> None:
        del self.module
