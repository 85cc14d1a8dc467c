"""Export a detector of your own: any PyTorch module that lpx did not train.

    python examples/own_model.py [WORKSPACE]

A factory is a function that makes the module, weights included. lpx needs to know only how the
model takes faces; preprocessing then becomes a part of the exported graph.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import lpx

SIZE = 96


class TinyDetector(nn.Module):
    """A stand-in for your detector: normalised faces [B, 3, H, W] to a logit per face [B]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.classifier = nn.Conv2d(32, 1, 1)

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Return a logit per face [B], and a map of logits [B, h, w]."""
        patches = self.classifier(self.features(faces))[:, 0]
        return patches.mean(dim=(1, 2)), patches


def make_detector() -> nn.Module:
    """Make the module. Yours would load a state dict here."""
    torch.manual_seed(0)
    return TinyDetector().eval()


def main(folder: str) -> None:
    # The workspace will name the factory, which is code: running it later needs your permission.
    work = lpx.Workspace(folder, allow_factory=True)
    factory = "own_model:make_detector"
    result = work.export(
        factory=factory,
        foreign=lpx.ForeignModel(
            architecture=factory,
            input_size=SIZE,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            fake_class=1,
            outputs="logits",
        ),
    )
    print(f"exported: {result.model}, differs by {result.verification.max_score_difference:.1e}")
    work.build(("fp32", "int8"), target="onnxruntime", faces="demo", limit=64)
    report = work.bench("demo", limit=64, costs=lpx.CostPlan(latency_seconds=0.2))
    for candidate in report.candidates:
        print(candidate.name, candidate.verdict, candidate.auc_difference)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "own-model")
