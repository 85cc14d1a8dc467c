"""Truncated convolutional backbones whose state-dict names are torchvision's or timm's."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lpx.errors import InvalidArgumentError
from lpx.models.backbones.backbone import Backbone
from lpx.models.backbones.efficientnet_lite import efficientnet_lite0, tf_efficientnet_lite0
from lpx.models.backbones.mobilenet_v2 import mobilenet_v2
from lpx.models.backbones.resnet import resnet18, resnet50
from lpx.models.backbones.xception import xception

# Function that builds each backbone, called with the cut.
BACKBONES: dict[str, Callable[[str], Backbone]] = {
    "xception": xception,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "efficientnet_lite0": efficientnet_lite0,
    "tf_efficientnet_lite0": tf_efficientnet_lite0,
}

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Mean and standard deviation that a backbone's public weights expect, unless ImageNet's.
NORMALISATION = {"xception": HALF, "tf_efficientnet_lite0": HALF}


def build_backbone(name: str, cut: str) -> Backbone:
    """Return a backbone truncated after stage `cut`, with freshly initialised weights.

    Args:
        name: A key of `BACKBONES`.
        cut: A stage of that backbone, or "whole".

    Returns:
        A module float32 [B, 3, H, W] -> [B, C, h, w] with `out_channels` = C.

    Raises:
        InvalidArgumentError: Unknown backbone or cut; the known ones are listed.
    """
    if name not in BACKBONES:
        raise InvalidArgumentError(
            "backbone",
            f"must be one of {', '.join(BACKBONES)}",
            name,
            fix="use one of these, or a model of your own with `factory=package.module:function`",
        )
    backbone = BACKBONES[name](cut)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return backbone
