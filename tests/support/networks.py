"""Detectors that tests write as modules, for `lpx export --factory MODULE:make`."""

from __future__ import annotations

from pathlib import Path

_SOURCE = """
{first}
import torch
from torch import nn


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = {body}

    def forward(self, x):
        patch_map = torch.sigmoid(self.body(x).squeeze(1))
        return patch_map.mean((1, 2)), patch_map


def make():
    return Detector().eval()
"""


def network(body: str, first: str = "") -> str:
    """The source of a module whose `make` gives a detector.

    Args:
        body: Python for a module from [N, 3, S, S] to logits [N, 1, h, w].
        first: Statements that run when the module is imported.
    """
    return _SOURCE.format(body=body, first=first)


def write_small_checkpoint(path: Path) -> None:
    """Write a checkpoint with a card that exports in a third of the demo's time: a cut resnet18."""
    # PyTorch takes seconds to import, and most of what is here does not need it.
    from lpx.models.checkpoint import save_checkpoint
    from lpx.models.detector import new_detector

    module, card = new_detector("resnet18", "layer1", input_size=32)
    save_checkpoint(path, module.eval(), card)


def copy_export(source: Path, target: Path) -> Path:
    """Copy what `lpx export` left in a workspace, without its engines; returns the target."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    return target
