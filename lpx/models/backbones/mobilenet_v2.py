"""MobileNetV2; names as in torchvision.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
"""

from __future__ import annotations

from torch import Tensor, nn

from lpx.models.backbones.backbone import Backbone, cut_index

# Expansion, channels, repeats, stride of the first block: table 2 of the paper.
PLAN = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]
STAGES = [f"features.{i}" for i in range(19)]


def _conv_bn_relu6(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1
) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, linear 1x1, and a skip path where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [] if expansion == 1 else [_conv_bn_relu6(inputs, hidden, 1, 1)]
        layers += [
            _conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        y: Tensor = self.conv(x)
        return x + y if self.use_res_connect else y


def mobilenet_v2(cut: str) -> Backbone:
    """Return MobileNetV2 up to and including `cut`, one of features.0 .. features.18."""
    keep = cut_index("mobilenet_v2", cut, STAGES)
    stages: list[tuple[nn.Module, int]] = [(_conv_bn_relu6(3, 32, 3, 2), 32)]
    channels = 32
    for expansion, outputs, repeats, stride in PLAN:
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            stages.append((InvertedResidual(channels, outputs, step, expansion), outputs))
            channels = outputs
    stages.append((_conv_bn_relu6(320, 1280, 1, 1), 1280))
    net = Backbone()
    for name, (stage, outputs) in zip(STAGES[:keep], stages, strict=False):
        net.append(name, stage)
        net.out_channels = outputs
    return net
