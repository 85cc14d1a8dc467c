"""EfficientNet-Lite0 (no squeeze-excite, ReLU6); names as in timm.

Tan and Le, "EfficientNet", ICML 2019; the Lite variants are Google's for mobile hardware. Two
flavours, as in timm: `efficientnet_lite0` pads symmetrically with batch-norm eps 1e-5,
`tf_efficientnet_lite0` has TensorFlow's asymmetric "SAME" padding with eps 1e-3, as the public
ImageNet weights require. A state dict shows neither difference, so the name must.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from lpx.models.backbones.backbone import Backbone, cut_index

# Expansion, kernel, channels, repeats, stride of the first block: the table of EfficientNet-B0.
PLAN = [
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
]
STAGES = [f"stage{i}" for i in range(1, 8)]


class Conv2dSame(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: an odd pixel is added right and below."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D, ceil(H / stride), ceil(W / stride)]."""
        k, s = self.kernel_size[0], self.stride[0]
        pads = [max((-(-n // s) - 1) * s + k - n, 0) for n in x.shape[-2:]]
        top, left = pads[0] // 2, pads[1] // 2
        x = F.pad(x, [left, pads[1] - left, top, pads[0] - top])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


@dataclass(frozen=True)
class Flavour:
    """The differences between the two flavours."""

    same_padding: bool
    eps: float

    def conv(
        self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1
    ) -> nn.Conv2d:
        """Return a convolution without bias, with the padding of this flavour."""
        # SAME equals symmetric padding at stride 1, so only strided ones need the special form.
        if self.same_padding and stride > 1:
            return Conv2dSame(inputs, outputs, kernel, stride, groups=groups, bias=False)
        padding = kernel // 2
        return nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def norm(self, channels: int) -> nn.BatchNorm2d:
        """Return a batch norm with the eps of this flavour."""
        return nn.BatchNorm2d(channels, eps=self.eps)


class DepthwiseSeparable(nn.Module):
    """Depthwise, then linear 1x1: the first stage's block."""

    def __init__(self, flavour: Flavour, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv_dw = flavour.conv(inputs, inputs, kernel, 1, groups=inputs)
        self.bn1 = flavour.norm(inputs)
        self.conv_pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = flavour.norm(outputs)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H, W]."""
        x = self.act(self.bn1(self.conv_dw(x)))
        return self.bn2(self.conv_pw(x))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, linear 1x1, and a skip path where shapes allow."""

    def __init__(
        self, flavour: Flavour, inputs: int, outputs: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.conv_pw = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = flavour.norm(hidden)
        self.conv_dw = flavour.conv(hidden, hidden, kernel, stride, groups=hidden)
        self.bn2 = flavour.norm(hidden)
        self.conv_pwl = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn3 = flavour.norm(outputs)
        self.act = nn.ReLU6(inplace=True)
        self.has_skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        y: Tensor = self.act(self.bn1(self.conv_pw(x)))
        y = self.act(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.has_skip else y


def _lite0(name: str, flavour: Flavour, cut: str) -> Backbone:
    net = Backbone()
    net.append("conv_stem", flavour.conv(3, 32, 3, 2))
    net.append("bn1", flavour.norm(32))
    net.append("act1", nn.ReLU6(inplace=True))
    channels = 32
    for index in range(cut_index(name, cut, STAGES)):
        expansion, kernel, outputs, repeats, stride = PLAN[index]
        blocks: list[nn.Module] = []
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            if expansion == 1:
                blocks.append(DepthwiseSeparable(flavour, channels, outputs, kernel))
            else:
                blocks.append(InvertedResidual(flavour, channels, outputs, kernel, step, expansion))
            channels = outputs
        net.append(f"blocks.{index}", nn.Sequential(*blocks))
    if cut == "whole":
        net.append("conv_head", nn.Conv2d(channels, 1280, 1, bias=False))
        net.append("bn2", flavour.norm(1280))
        net.append("act2", nn.ReLU6(inplace=True))
        channels = 1280
    net.out_channels = channels
    return net


def efficientnet_lite0(cut: str) -> Backbone:
    """Return EfficientNet-Lite0 up to `cut`: symmetric padding, batch-norm eps 1e-5."""
    return _lite0("efficientnet_lite0", Flavour(same_padding=False, eps=1e-5), cut)


def tf_efficientnet_lite0(cut: str) -> Backbone:
    """Return EfficientNet-Lite0 up to `cut`: SAME padding, batch-norm eps 1e-3."""
    return _lite0("tf_efficientnet_lite0", Flavour(same_padding=True, eps=1e-3), cut)
