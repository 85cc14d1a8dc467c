"""The base of all backbones: a chain of named stages, cut after one of them."""

from __future__ import annotations

from torch import Tensor, nn

from lpx.errors import InvalidArgumentError

WHOLE = "whole"


class Backbone(nn.Module):
    """A chain of stages that maps float32 [B, 3, H, W] to [B, C, h, w].

    A subclass registers its children under the names of the public implementation and lists them in
    `chain`, the order in which they are applied.

    Attributes:
        out_channels: C of the last stage kept.
    """

    out_channels: int

    def __init__(self) -> None:
        super().__init__()
        self.chain: list[str] = []

    def append(self, name: str, module: nn.Module) -> None:
        """Apply `module` next; `name` is its state-dict prefix, nested by dots."""
        parent: nn.Module = self
        *path, leaf = name.split(".")
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        parent.add_module(leaf, module)
        self.chain.append(name)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the chain to float32 [B, 3, H, W]."""
        for name in self.chain:
            x = self.get_submodule(name)(x)
        return x


def cut_index(backbone: str, cut: str, stages: list[str]) -> int:
    """Return the number of stages to keep for `cut`.

    Raises:
        InvalidArgumentError: `cut` is not a stage of this backbone; the stages are listed.
    """
    if cut == WHOLE:
        return len(stages)
    if cut not in stages:
        raise InvalidArgumentError(
            "cut",
            f"must be one of {', '.join(stages)}, {WHOLE}",
            cut,
            f"these are the stages of {backbone}",
        )
    return stages.index(cut) + 1
