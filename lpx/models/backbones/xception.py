"""Xception with conv1 and conv2 unpadded; names as in timm's legacy_xception.

Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017.
"""

from __future__ import annotations

from torch import Tensor, nn

from lpx.models.backbones.backbone import Backbone, cut_index

STAGES = [f"block{i}" for i in range(1, 13)]


class SeparableConv2d(nn.Module):
    """Depthwise 3x3, then pointwise 1x1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inputs, 3, 1, 1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H, W]."""
        return self.pointwise(self.conv1(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """`len(widths)` separable convolutions, an optional strided max-pool, and a skip path."""

    def __init__(self, inputs: int, widths: list[int], stride: int, *, leading_relu: bool) -> None:
        super().__init__()
        outputs = widths[-1]
        layers: list[nn.Module] = []
        channels = inputs
        for index, width in enumerate(widths):
            if index > 0 or leading_relu:
                # The first ReLU must not write into the block's input: the skip path reads it too.
                layers.append(nn.ReLU(inplace=index > 0))
            layers += [SeparableConv2d(channels, width), nn.BatchNorm2d(width)]
            channels = width
        if stride != 1:
            layers.append(nn.MaxPool2d(3, stride, 1))
        self.rep = nn.Sequential(*layers)
        self.skip: nn.Conv2d | None = None
        if stride != 1 or inputs != outputs:
            self.skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.skipbn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, widths[-1], H / stride, W / stride]."""
        skip = x if self.skip is None else self.skipbn(self.skip(x))
        return self.rep(x) + skip  # type: ignore[no-any-return]


def xception(cut: str) -> Backbone:
    """Return Xception up to `cut`."""
    keep = cut_index("xception", cut, STAGES)
    net = Backbone()
    net.append("conv1", nn.Conv2d(3, 32, 3, 2, bias=False))
    net.append("bn1", nn.BatchNorm2d(32))
    net.append("act1", nn.ReLU(inplace=True))
    net.append("conv2", nn.Conv2d(32, 64, 3, bias=False))
    net.append("bn2", nn.BatchNorm2d(64))
    net.append("act2", nn.ReLU(inplace=True))
    # Entry, middle and exit flow (figure 5 of the paper). The stem ends with a ReLU, so the first
    # block has none.
    blocks = [
        Block(64, [128, 128], 2, leading_relu=False),
        Block(128, [256, 256], 2, leading_relu=True),
        Block(256, [728, 728], 2, leading_relu=True),
    ]
    blocks += [Block(728, [728] * 3, 1, leading_relu=True) for _ in range(8)]
    blocks.append(Block(728, [728, 1024], 2, leading_relu=True))
    for name, block in zip(STAGES[:keep], blocks, strict=False):
        net.append(name, block)
    net.out_channels = [128, 256, *[728] * 9, 1024][keep - 1]
    if cut == "whole":
        net.append("conv3", SeparableConv2d(1024, 1536))
        net.append("bn3", nn.BatchNorm2d(1536))
        net.append("act3", nn.ReLU(inplace=True))
        net.append("conv4", SeparableConv2d(1536, 2048))
        net.append("bn4", nn.BatchNorm2d(2048))
        net.append("act4", nn.ReLU(inplace=True))
        net.out_channels = 2048
    return net
