"""Property 1: a pixel outside a unit's box changes that unit's logit by nothing, one inside does."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lpx.models.backbones import BACKBONES
from lpx.models.detector import new_detector
from lpx.models.receptive_field import analyse

SIZE = 96
CUTS = {
    "xception": "block2",
    "resnet18": "layer1",
    "resnet50": "layer1",
    "mobilenet_v2": "features.4",
    "efficientnet_lite0": "stage2",
    "tf_efficientnet_lite0": "stage2",
}
# The last pixels that a unit sees, at both ends, are where an error of one would show.
PIXELS = st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE - 1))


class Units(nn.Module):
    """The unit logits of a detector, optionally with something between backbone and head."""

    def __init__(self, detector, middle=None):
        super().__init__()
        self.backbone = detector.backbone
        self.middle = middle or nn.Identity()
        self.head = detector.head

    def forward(self, x):
        return self.head(self.middle(self.backbone(x)))


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * self.gate(self.pool(x)).sigmoid()


@pytest.fixture(scope="module")
def case(randomise):
    """For a backbone: (units in float32, the same in float64, field, face, its logits)."""

    @cache
    def build(backbone):
        detector, _ = new_detector(backbone, CUTS[backbone], input_size=SIZE, bottleneck=16)
        units = randomise(Units(detector))
        face = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            logits = units(face)
        return units, copy.deepcopy(units).double(), analyse(units, SIZE), face, logits

    return build


def sees(field):
    """bool [h, w, SIZE, SIZE]: whether a unit's box holds a pixel."""
    h, w = field.grid
    seen = torch.zeros(h, w, SIZE, SIZE, dtype=torch.bool)
    for row in range(h):
        for column in range(w):
            x0, y0, x1, y1 = field.box(row, column)
            seen[row, column, max(y0, 0) : y1, max(x0, 0) : x1] = True
    return seen


@pytest.mark.parametrize("backbone", BACKBONES)
@settings(max_examples=15, deadline=None)
@given(pixel=PIXELS, value=st.sampled_from([-1e3, -3.0, 3.0, 1e3]))
def test_pixel_outside_changes_nothing(case, backbone, pixel, value):
    units, _, field, face, logits = case(backbone)
    row, column = pixel
    changed = face.clone()
    changed[..., row, column] = value
    with torch.no_grad():
        moved = (units(changed) != logits)[0]
    blind = ~sees(field)[:, :, row, column]
    assert blind.any(), "the box is as large as the face: nothing is tested"
    assert not (moved & blind).any()


@pytest.mark.parametrize("backbone", BACKBONES)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_pixel_inside_changes_the_unit(case, backbone, data):
    _, units, field, face, _ = case(backbone)
    row = data.draw(st.integers(0, field.grid[0] - 1), label="row")
    column = data.draw(st.integers(0, field.grid[1] - 1), label="column")
    x0, y0, x1, y1 = field.box(row, column)
    # Corners first: one path leads from there to the unit, and a box too small misses it.
    xs, ys = (max(x0, 0), min(x1, SIZE) - 1), (max(y0, 0), min(y1, SIZE) - 1)
    x = data.draw(st.sampled_from(xs) | st.integers(*xs), label="x")
    y = data.draw(st.sampled_from(ys) | st.integers(*ys), label="y")
    # ReLU and max-pool may hide any one change, so many are tried; float64 keeps the faint ones.
    generator = torch.Generator().manual_seed(2)
    before = face.double() + 0.3 * torch.randn(
        24, 3, SIZE, SIZE, generator=generator, dtype=torch.float64
    )
    after = before.clone()
    strength = torch.logspace(-1, 3, 24, dtype=torch.float64)[:, None]
    after[:, :, y, x] += strength * torch.randn(24, 3, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        difference = (units(after) - units(before))[:, row, column]
    assert (difference != 0).any()


def test_squeeze_excite_is_seen_everywhere(case, randomise):
    detector, _ = new_detector("resnet18", "layer1", input_size=SIZE, bottleneck=16)
    field = analyse(Units(detector), SIZE)
    units = randomise(Units(detector, SqueezeExcite(detector.backbone.out_channels)))
    face = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    changed = face.clone()
    changed[..., 0, 0] += 100.0
    with torch.no_grad():
        moved = (units(changed) != units(face))[0]
    blind = ~sees(field)[:, :, 0, 0]
    assert (moved & blind).any()
    assert not analyse(units, SIZE).strictly_local
