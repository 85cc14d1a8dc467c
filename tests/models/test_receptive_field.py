from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lpx.errors import LpxError
from lpx.models.backbones import build_backbone
from lpx.models.detector import new_detector
from lpx.models.receptive_field import analyse

# backbone, cut, receptive field, stride, channels, grid at 224 | 256 | 299, GMAC at 256 px.
TABLE = [
    ("xception", "block1", 19, 4, 128, (55, 63, 74), 0.75),
    ("xception", "block2", 43, 8, 256, (28, 32, 37), 1.18),
    ("xception", "block3", 91, 16, 728, (14, 16, 19), 1.97),
    ("xception", "block4", 187, 16, 728, (14, 16, 19), 2.39),
    ("xception", "block5", 283, 16, 728, (14, 16, 19), 2.80),
    ("xception", "whole", 1083, 32, 2048, (7, 8, 10), 5.95),
    ("resnet18", "layer1", 43, 4, 64, (56, 64, 75), 0.76),
    ("resnet18", "layer2", 99, 8, 128, (28, 32, 38), 1.29),
    ("resnet18", "layer3", 211, 16, 256, (14, 16, 19), 1.83),
    ("resnet18", "layer4", 435, 32, 512, (7, 8, 10), 2.37),
    ("resnet50", "layer1", 35, 4, 256, (56, 64, 75), 1.03),
    ("resnet50", "layer2", 91, 8, 512, (28, 32, 38), 2.37),
    ("resnet50", "layer3", 267, 16, 1024, (14, 16, 19), 4.28),
    ("resnet50", "layer4", 427, 32, 2048, (7, 8, 10), 5.34),
    ("mobilenet_v2", "features.6", 59, 8, 32, (28, 32, 38), 0.15),
    ("mobilenet_v2", "features.8", 107, 16, 64, (14, 16, 19), None),
    ("mobilenet_v2", "features.9", 139, 16, 64, (14, 16, 19), 0.18),
    ("mobilenet_v2", "features.10", 171, 16, 64, (14, 16, 19), None),
    ("efficientnet_lite0", "stage3", 67, 8, 40, (28, 32, 38), 0.15),
    ("efficientnet_lite0", "stage4", 147, 16, 80, (14, 16, 19), 0.21),
    ("tf_efficientnet_lite0", "stage3", 67, 8, 40, (28, 32, 38), 0.15),
    ("tf_efficientnet_lite0", "stage4", 147, 16, 80, (14, 16, 19), 0.21),
]


class Then(nn.Module):
    """One convolution, then a function: field 3, stride 1, were it not for the function."""

    def __init__(self, function, channels=8):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.function = function

    def forward(self, x):
        return self.function(self.conv(x))


class SqueezeExcite(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.pool = pool
        self.gate = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return x * self.gate(self.pool(x)).sigmoid()


@pytest.mark.parametrize(
    ("backbone", "cut", "size", "stride", "channels", "grids", "gmac"),
    TABLE,
    ids=[f"{row[0]}:{row[1]}" for row in TABLE],
)
def test_table(backbone, cut, size, stride, channels, grids, gmac):
    net = build_backbone(backbone, cut)
    assert net.out_channels == channels
    for pixels, grid in zip((224, 256, 299), grids, strict=True):
        field = analyse(net, pixels)
        assert (field.size, field.stride, field.grid) == (size, stride, (grid, grid))
        assert field.strictly_local
        assert field.reason == ""
        if pixels == 256 and gmac is not None:
            assert round(field.gmac, 2) == gmac
    with torch.no_grad():
        faces = torch.empty(1, 3, 256, 256, device="meta")
        assert net.to("meta")(faces).shape == (1, channels, grids[1], grids[1])


@pytest.mark.parametrize(
    ("backbone", "parameters"), [("xception", 20.81), ("resnet18", 11.18), ("resnet50", 23.51)]
)
def test_whole_networks_have_the_published_number_of_parameters(backbone, parameters):
    with torch.device("meta"):
        net = build_backbone(backbone, "whole")
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == parameters


def test_mobilenet_has_the_published_number_of_parameters():
    with torch.device("meta"):
        net = build_backbone("mobilenet_v2", "features.17")
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == 1.81


def test_same_padding_is_symmetric_or_not_by_the_size():
    # Odd sizes pad a strided 3x3 by (1, 1), even ones by (0, 1): unit 0 starts one pixel later.
    stem = nn.Sequential(build_backbone("tf_efficientnet_lite0", "stage1").conv_stem)
    even, odd = analyse(stem, 64), analyse(stem, 65)
    assert (even.size, even.stride, even.start, even.grid) == (3, 2, 0, (32, 32))
    assert (odd.size, odd.stride, odd.start, odd.grid) == (3, 2, -1, (33, 33))


def test_asymmetric_padding_moves_the_field_without_enlarging_it():
    field = analyse(Then(lambda x: F.pad(x, [2, 0, 2, 1])), 16)
    assert (field.size, field.start, field.grid) == (3, -2, (17, 16))
    field = analyse(Then(lambda x: F.pad(x, [2, 0, 1, 1])), 16)
    assert not field.strictly_local
    assert "height and width differently" in field.reason


def test_skip_path_never_enlarges_the_field():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.main = nn.Conv2d(3, 3, 5, padding=2)

        def forward(self, x):
            return x + self.main(x)

    assert analyse(Skip(), 16).size == 5


@pytest.mark.parametrize(
    ("module", "size", "start"),
    [
        (Then(nn.Conv2d(8, 8, 3, dilation=4)), 11, 0),
        (Then(nn.Conv2d(8, 8, 3, padding="same", dilation=2)), 7, -2),
        (Then(nn.Conv2d(8, 8, 5, padding="same")), 7, -2),
        (Then(nn.MaxPool2d(3, 1, dilation=2)), 7, 0),
        (Then(nn.MaxPool2d(2, ceil_mode=True)), 4, 0),
        (Then(nn.AvgPool2d(3, 1, 1)), 5, -1),
        (Then(nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")), 5, -1),
        (Then(nn.PReLU()), 3, 0),
        (Then(lambda x: x.chunk(2, 1)[1] + x.split([4, 4], 1)[0]), 3, 0),
        (Then(lambda x: torch.cat([x, -1 * x], 1)), 3, 0),
        (Then(lambda x: F.pad(x, [0, 0, 0, 0, 1, 1])), 3, 0),
    ],
    ids=[
        "dilated",
        "same",
        "same-5",
        "dilated-pool",
        "ceil-pool",
        "average-pool",
        "reflect",
        "prelu",
        "chunk",
        "cat",
        "pad-channels",
    ],
)
def test_local_operations(module, size, start):
    field = analyse(module, 20)
    assert field.strictly_local, field.reason
    assert (field.size, field.start) == (size, start)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (SqueezeExcite(nn.AdaptiveAvgPool2d(1)), "adaptive_avg_pool2d"),
        (SqueezeExcite(lambda x: x.mean((2, 3), keepdim=True)), "mean"),
        # The operation returns a tuple of tensors, and only one of them goes on.
        (SqueezeExcite(nn.AdaptiveMaxPool2d(1)), "adaptive_max_pool2d"),
        (lambda x: x + x.max(dim=2, keepdim=True)[0], "max"),
        (nn.GroupNorm(2, 8), "group_norm"),
        (nn.LayerNorm([8, 30, 30]), "layer_norm"),
        (nn.InstanceNorm2d(8), "instance_norm"),
        (nn.BatchNorm2d(8, track_running_stats=False), "batch_norm"),
        (nn.AdaptiveAvgPool2d(1), "adaptive_avg_pool2d"),
        (lambda x: x + x.transpose(2, 3), "transpose"),
        (lambda x: x + x.flip(3), "flip"),
        (lambda x: x.roll(1, 2), "roll"),
        (lambda x: torch.cat([x, x], 2), "cat"),
        (lambda x: x.chunk(2, 3)[1], "chunk"),
        (nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"), "pad"),
    ],
    ids=[
        "squeeze-excite",
        "squeeze-excite-mean",
        "squeeze-excite-max",
        "max",
        "group-norm",
        "layer-norm",
        "instance-norm",
        "batch-statistics",
        "global-pool",
        "transpose",
        "flip",
        "roll",
        "cat-rows",
        "chunk-columns",
        "circular",
    ],
)
def test_what_breaks_locality_is_named(function, reason):
    field = analyse(Then(function), 32)
    assert not field.strictly_local
    assert reason in field.reason
    assert (field.size, field.stride, field.start) == (None, None, None)
    assert field.box(0, 0) is None


def test_everything_after_a_global_operation_is_global():
    net = nn.Sequential(Then(nn.GroupNorm(2, 8)), nn.Conv2d(8, 8, 3), nn.ReLU())
    field = analyse(net, 32)
    assert not field.strictly_local
    assert "group_norm" in field.reason
    assert field.grid == (28, 28)


def test_output_without_input_is_not_local():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.zeros(1, 2, 2)

    assert not analyse(Constant(), 8).strictly_local


def test_paths_of_different_strides_are_not_local():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.slow = nn.Conv2d(3, 3, 3, stride=2)

        def forward(self, x):
            return x + self.slow(x)

    field = analyse(Forked(), 3)
    assert not field.strictly_local
    assert "different strides" in field.reason


def test_kernel_that_is_not_square_is_refused():
    with pytest.raises(LpxError, match="only square"):
        analyse(Then(nn.Conv2d(8, 8, (7, 1))), 32)


def test_box_is_where_a_unit_looks():
    net, _ = new_detector("xception", "block1", input_size=64)
    field = analyse(net.backbone, 64)
    assert field.box(0, 0) == (-6, -6, 13, 13)
    assert field.box(2, 5) == (14, 2, 33, 21)


def test_training_mode_of_every_part_is_restored():
    net = build_backbone("resnet18", "layer1").train()
    net.layer1[0].bn1.eval()
    before = [part.training for part in net.modules()]
    analyse(net, 64)
    assert [part.training for part in net.modules()] == before

    small = nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4)).train()
    with pytest.raises(LpxError):
        analyse(small, 2)
    assert all(part.training for part in small.modules())


def test_analysis_changes_no_weight():
    net = build_backbone("resnet18", "layer1").train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    analyse(net, 48)
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_too_small_an_input_is_a_users_error():
    with pytest.raises(LpxError, match="`input_size`"):
        analyse(build_backbone("xception", "block1"), 4)
    with pytest.raises(LpxError, match="at 4 px"):
        new_detector("xception", "block1", input_size=4)


def test_module_that_fails_without_a_message_is_a_users_error():
    class Refuses(nn.Module):
        def forward(self, x):
            raise AssertionError

    with pytest.raises(LpxError, match="AssertionError"):
        analyse(Refuses(), 8)


@pytest.mark.parametrize(
    ("backbone", "cut", "named"),
    [
        ("vgg16", "whole", "must be one of xception"),
        ("xception", "layer1", "block12"),
        ("resnet18", "block1", "layer4"),
        ("mobilenet_v2", "features.19", "features.18"),
        ("efficientnet_lite0", "stage0", "stage7"),
    ],
)
def test_unknown_backbone_or_cut_lists_the_known_ones(backbone, cut, named):
    with pytest.raises(LpxError, match=named):
        build_backbone(backbone, cut)
