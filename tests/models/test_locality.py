"""Property 1: a pixel outside a unit's box changes its logit by nothing, one inside does."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lpx.card import ModelCard
from lpx.models.backbones import BACKBONES
from lpx.models.detector import LocalPredictionDetector
from lpx.models.receptive_field import analyse

SIZE = 96
CUTS = {
    "xception": "block2",
    "resnet18": "layer1",
    "resnet50": "layer1",
    "mobilenet_v2": "features.4",
    "efficientnet_lite0": "stage2",
    "tf_efficientnet_lite0": "stage3",
}


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


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Faces are small: a second thread costs more than it does, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def case(randomise):
    """For a backbone: units, their field, what they see, a face and its logits."""

    @cache
    def build(backbone):
        units = randomise(Units(detector(backbone)))
        field = analyse(units, SIZE)
        face = noise(1)
        with torch.no_grad():
            logits = units(face)
        return units, field, seen(field), face, logits

    return build


def detector(backbone):
    return LocalPredictionDetector(
        ModelCard(backbone, CUTS[backbone], "mean_prob", SIZE, bottleneck=16)
    )


def noise(faces):
    return torch.randn(faces, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def seen(field):
    """bool [h, w, SIZE, SIZE]: whether a unit's box holds a pixel."""
    h, w = field.grid
    inside = torch.zeros(h, w, SIZE, SIZE, dtype=torch.bool)
    for row in range(h):
        for column in range(w):
            x0, y0, x1, y1 = field.box(row, column)
            inside[row, column, max(y0, 0) : y1, max(x0, 0) : x1] = True
    return inside


@pytest.mark.parametrize("backbone", BACKBONES)
@settings(max_examples=12, deadline=None)
@given(
    row=st.integers(0, SIZE - 1),
    column=st.integers(0, SIZE - 1),
    value=st.sampled_from([-1e3, -3.0, 3.0, 1e3]),
)
def test_pixel_outside_changes_nothing(case, backbone, row, column, value):
    units, _, inside, face, logits = case(backbone)
    changed = face.clone()
    changed[..., row, column] = value
    with torch.no_grad():
        moved = (units(changed) != logits)[0]
    blind = ~inside[:, :, row, column]
    assert blind.any(), "the box is as large as the face: nothing is tested"
    assert not (moved & blind).any()


@pytest.mark.parametrize("backbone", BACKBONES)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_pixel_inside_changes_the_unit(case, backbone, data):
    units, field, _, face, logits = case(backbone)
    # The boxes of outer units reach into the padding, where there is no pixel to change.
    boxes = {(i, j): field.box(i, j) for i in range(field.grid[0]) for j in range(field.grid[1])}
    whole = [unit for unit, box in boxes.items() if min(box) >= 0 and max(box) <= SIZE]
    row, column = data.draw(st.sampled_from(whole), label="unit")
    x0, y0, x1, y1 = boxes[row, column]
    x, y = data.draw(st.integers(x0, x1 - 1)), data.draw(st.integers(y0, y1 - 1))
    # ReLU and max-pool may hide any one change, so several are tried.
    for value in (1e3, -1e3, 30.0, -30.0, 3.0, -3.0, 0.3, -0.3):
        for channel in range(3):
            changed = face.clone()
            changed[0, channel, y, x] += value
            with torch.no_grad():
                if units(changed)[0, row, column] != logits[0, row, column]:
                    return
    pytest.fail(f"no change of pixel ({x}, {y}) reaches unit ({row}, {column})")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradient_reaches_the_whole_box_and_nothing_else(case, backbone):
    units, field, inside, _, _ = case(backbone)
    row, column = field.grid[0] // 2, field.grid[1] // 2
    # In float64, where faint paths from a corner of the box do not vanish; of several faces, as
    # max-pool lets through one pixel of nine.
    faces = noise(8).double().requires_grad_()
    copy.deepcopy(units).double()(faces)[:, row, column].sum().backward()
    reached = (faces.grad != 0).any(dim=1).any(dim=0)
    assert torch.equal(reached, inside[row, column])


def test_squeeze_excite_is_seen_everywhere(case, randomise):
    local = detector("resnet18")
    field = analyse(Units(local), SIZE)
    units = randomise(Units(local, SqueezeExcite(local.backbone.out_channels)))
    face = noise(1)
    changed = face.clone()
    changed[..., 0, 0] += 100.0
    with torch.no_grad():
        moved = (units(changed) != units(face))[0]
    blind = ~seen(field)[:, :, 0, 0]
    assert (moved & blind).any()
    assert not analyse(units, SIZE).strictly_local
