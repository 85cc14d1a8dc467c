"""ResNet-18 and ResNet-50 v1.5 (stride in the 3x3); names as in torchvision.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
"""

from __future__ import annotations

from torch import Tensor, nn

from lpx.models.backbones.backbone import Backbone, cut_index

STAGES = ["layer1", "layer2", "layer3", "layer4"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip path."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, width, H / stride, W / stride]."""
        skip = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + skip)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 convolutions and a skip path."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, 4 * width, H / stride, W / stride]."""
        skip = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + skip)  # type: ignore[no-any-return]


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _resnet(
    name: str, block: type[BasicBlock | Bottleneck], depths: list[int], cut: str
) -> Backbone:
    net = Backbone()
    net.append("conv1", nn.Conv2d(3, 64, 7, 2, 3, bias=False))
    net.append("bn1", nn.BatchNorm2d(64))
    net.append("relu", nn.ReLU(inplace=True))
    net.append("maxpool", nn.MaxPool2d(3, 2, 1))
    channels = 64
    for index in range(cut_index(name, cut, STAGES)):
        width = 64 * 2**index
        blocks: list[nn.Module] = []
        for depth in range(depths[index]):
            # The first block of a stage halves the resolution; before layer1 the max-pool does.
            stride = 2 if index > 0 and depth == 0 else 1
            blocks.append(block(channels, width, stride))
            channels = width * block.expansion
        net.append(STAGES[index], nn.Sequential(*blocks))
    net.out_channels = channels
    return net


def resnet18(cut: str) -> Backbone:
    """Return ResNet-18 up to `cut`."""
    return _resnet("resnet18", BasicBlock, [2, 2, 2, 2], cut)


def resnet50(cut: str) -> Backbone:
    """Return ResNet-50 v1.5 up to `cut`."""
    return _resnet("resnet50", Bottleneck, [3, 4, 6, 3], cut)
