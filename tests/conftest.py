"""Fixtures that several folders of tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def randomise():
    """A function that gives a module random weights and batch-norm statistics, and eval mode.

    Fresh batch norms are the identity, so that a mistake in folding or ordering them would not show.
    """
    import torch
    from torch import nn

    def apply(module, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for part in module.modules():
                if isinstance(part, nn.Conv2d):
                    fan_in = part.weight[0].numel()
                    part.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
                    if part.bias is not None:
                        part.bias.normal_(0, 0.1, generator=generator)
                elif isinstance(part, nn.BatchNorm2d):
                    part.weight.uniform_(0.5, 1.5, generator=generator)
                    part.bias.normal_(0, 0.2, generator=generator)
                    part.running_mean.normal_(0, 0.2, generator=generator)
                    part.running_var.uniform_(0.5, 1.5, generator=generator)
        return module.eval()

    return apply
